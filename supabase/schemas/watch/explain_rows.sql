-- The steps that an alert, a delivery and an action are in an explanation.

create function private.steps_to_alert(alert public.alerts, out steps private.step[], out event_id uuid)
language plpgsql stable set search_path = ''
as $$
declare
  delivery public.deliveries;
begin
  steps := array[row('alert', alert.id, alert.opened_at, alert.message, to_jsonb(alert))::private.step];
  event_id := coalesce(alert.event_id, substring(alert.details ->> 'event_id' from '^[0-9a-f-]{36}$')::uuid);
  if alert.kind = 'delivery_dead' then
    select * into delivery from public.deliveries where deliveries.id = alert.subject::uuid;
    if found then
      steps := private.delivery_steps(delivery) || steps;
      event_id := delivery.event_id;
    end if;
  elsif alert.kind = 'site_silent' then
    -- A silence is explained by the site's last arrival, not by the look that found it.
    event_id := coalesce((
      select events.id
      from public.events
      where events.org_id = alert.org_id and events.site_id = alert.site_id and left(events.source, 5) in ('site:', 'pull:')
        and events.id < private.uuid_v7_floor(alert.opened_at)
      order by events.id desc
      limit 1), event_id);
  end if;
end;
$$;
comment on function private.steps_to_alert is 'The steps from the event that led to an alert down to the alert; no event when the hub''s own watch found it.';
grant execute on function private.steps_to_alert to authenticated, service_role;

create function private.delivery_steps(delivery public.deliveries)
returns private.step[]
language plpgsql stable set search_path = ''
as $$
declare
  is_rehearsal constant boolean := delivery.mode = 'rehearsal';
  subscription text;
  rehearsed integer;
  replay public.replays;
  steps private.step[];
begin
  select subscriptions.name into subscription from public.subscriptions where subscriptions.id = delivery.subscription_id;
  select agent_versions.version into rehearsed from public.agent_versions where agent_versions.id = delivery.version_id;
  steps := array[row(
    'delivery', delivery.id, delivery.created_at,
    format('It was brought to %s%s: %s%s.%s', subscription,
      case when is_rehearsal then ' as a rehearsal, without effects' else '' end,
      case delivery.status
        when 'done' then 'done' when 'skipped' then 'there was nothing to do' when 'dead' then 'dead'
        when 'failed' then 'it failed and will be tried again' when 'running' then 'it is being handled' else 'it waits' end,
      case when delivery.attempts > 1 then format(', %s attempts', delivery.attempts) else '' end
      || coalesce(', ' || rtrim(delivery.last_error, '.'), ''),
      case when is_rehearsal then coalesce(' It would have been decided "' || (delivery.result #>> '{effects,action,decision}') || '".', '') else '' end),
    to_jsonb(delivery) - 'lease_token')::private.step];
  select * into replay from public.replays where replays.id = delivery.replay_id;
  if found then
    steps := array[row(
      'replay', replay.id, replay.created_at,
      case
        when is_rehearsal then format('%s had %s decide about it in a rehearsal.',
          case when replay.asked_by is null then 'Somebody with the hub''s secret key' else 'A user' end,
          coalesce('version ' || rehearsed, 'a version'))
        when replay.asked_by is null then 'It was put in line again.'
        else 'A user put it in line again.'
      end,
      to_jsonb(replay))::private.step] || steps;
  end if;
  return steps;
end;
$$;
comment on function private.delivery_steps is 'A delivery, and the replay that put it in line again.';
grant execute on function private.delivery_steps to authenticated, service_role;

create function private.action_step(action public.agent_actions)
returns private.step
language sql stable set search_path = ''
as $$
  select row(
    'action', action.id, action.created_at,
    format('%s decided "%s"%s%s%s.%s', action.agent, action.decision,
      coalesce(' with version ' || (select version from public.agent_versions where agent_versions.id = action.version_id), ''),
      coalesce(', ' || round(action.confidence * 100) || ' % sure', ''),
      coalesce(', because: ' || nullif(rtrim(array_to_string(action.reasons, ', '), '.'), ''), ''),
      case action.review when 'approved' then ' A user approved it.' when 'rejected' then ' A user rejected it.'
        when 'pending' then ' It waits for a user''s review.' else '' end),
    to_jsonb(action))::private.step;
$$;
comment on function private.action_step is 'An agent''s decision, with its reasons.';
grant execute on function private.action_step to authenticated, service_role;
