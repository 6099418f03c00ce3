-- Telling of alerts: an alert that opens or closes is an event, and subscribers to alert.* learn of it.
--
-- Triggers tell, so that it holds for every writer. A topic is told of at most once per organizations.alert_every; an
-- alert that was held back is told when that time is over, if it is still open.

create table private.alert_notices (
  org_id      uuid not null references public.organizations (id),
  kind        text not null,
  topic       text not null,
  notified_at timestamptz not null default now(),

  primary key (org_id, kind, topic)
);
comment on table private.alert_notices is 'When a topic''s alerts were last told.';

-- security definer: opening or closing an alert needs no right to write events.
create function private.follow_alert()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    perform private.notify_alert(new.id);
  elsif new.last_notified_at is not null then
    perform private.tell_alert(new, 'alert.closed');
  end if;
  return null;
end;
$$;
comment on function private.follow_alert is 'Trigger: subscribers that learnt of an open alert learn that it closed.';

create trigger alerts_opened after insert on public.alerts
  for each row when (new.closed_at is null) execute function private.follow_alert();

create trigger alerts_closed after update of closed_at on public.alerts
  for each row when (old.closed_at is null and new.closed_at is not null) execute function private.follow_alert();

create function private.notify_alert(alert_id uuid)
returns boolean
language plpgsql set search_path = ''
as $$
declare
  alert public.alerts;
begin
  -- Another transaction with the same topic waits here, and then finds that it has been told.
  insert into private.alert_notices as notices (org_id, kind, topic)
  select alerts.org_id, alerts.kind, coalesce(alerts.topic, alerts.subject)
  from public.alerts where alerts.id = notify_alert.alert_id
  on conflict on constraint alert_notices_pkey do update set notified_at = now()
    where notices.notified_at <= now() - (select organizations.alert_every from public.organizations where organizations.id = notices.org_id);
  if not found then
    return false;
  end if;
  update public.alerts set last_notified_at = now() where alerts.id = notify_alert.alert_id returning * into alert;
  perform private.tell_alert(alert, 'alert.opened');
  return true;
end;
$$;
comment on function private.notify_alert is 'Tell of an open alert, unless its topic was told of a short while ago.';

create function private.tell_alert(alert public.alerts, type text)
returns void
language plpgsql set search_path = ''
as $$
begin
  perform private.write_event(
    alert.org_id, tell_alert.type,
    jsonb_build_object('alert_id', alert.id, 'kind', alert.kind, 'subject', alert.subject, 'severity', alert.severity,
                       'message', alert.message, 'details', alert.details),
    site_id => alert.site_id, subject_type => 'alert', subject_id => alert.id, cause_id => alert.event_id,
    trace_id => (select events.trace_id from public.events where events.id = alert.event_id));
end;
$$;
comment on function private.tell_alert is 'Write the event by which subscribers learn of an alert.';

create function private.notify_held_back()
returns integer
language sql set search_path = ''
as $$
  select count(*) filter (where private.notify_alert(latest.id))
  from (
    select distinct on (alerts.org_id, alerts.kind, coalesce(alerts.topic, alerts.subject)) alerts.id
    from public.alerts
    where alerts.closed_at is null and alerts.last_notified_at is null
    order by alerts.org_id, alerts.kind, coalesce(alerts.topic, alerts.subject), alerts.id desc
  ) as latest;
$$;
comment on function private.notify_held_back is 'Tell of open alerts that were held back when they opened.';
