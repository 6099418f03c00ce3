-- Deciding about an alert: a user acknowledges it, or closes it.

create function public.acknowledge_alert(alert_id uuid)
returns jsonb
language sql set search_path = ''
as $$
  select private.decide_alert_for_caller(alert_id, false);
$$;
comment on function public.acknowledge_alert is 'Say that a user looks after an open alert.';
grant execute on function public.acknowledge_alert to authenticated, service_role;

create function public.close_alert(alert_id uuid)
returns jsonb
language sql set search_path = ''
as $$
  select private.decide_alert_for_caller(alert_id, true);
$$;
comment on function public.close_alert is 'Close an alert by hand; it opens again when its reason is found again.';
grant execute on function public.close_alert to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.decide_alert_for_caller(alert_id uuid, is_over boolean)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  alert public.alerts;
begin
  update public.alerts
  set acknowledged_at = coalesce(alerts.acknowledged_at, now()),
      acknowledged_by = coalesce(alerts.acknowledged_by, (select auth.uid())),
      closed_at = case when is_over then now() end
  where alerts.id = decide_alert_for_caller.alert_id and alerts.closed_at is null
    and alerts.org_id in (select private.caller_orgs('alerts.update'))
  returning * into alert;
  if alert.id is null then
    perform private.fail(404, 'unknown_alert', 'You may change no open alert with this id.');
  end if;
  return jsonb_build_object('id', alert.id, 'acknowledged_at', alert.acknowledged_at, 'closed_at', alert.closed_at);
end;
$$;
comment on function private.decide_alert_for_caller is 'Acknowledge an open alert of the caller''s organizations, or close it.';
grant execute on function private.decide_alert_for_caller to authenticated, service_role;
