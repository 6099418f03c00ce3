-- The steps between a row and the event that led to it.

create function private.steps_to_subject(id uuid, out subject text, out steps private.step[], out event_id uuid)
language plpgsql stable set search_path = ''
as $$
declare
  alert public.alerts;
  lead public.leads;
  action public.agent_actions;
  delivery public.deliveries;
begin
  select events.id into event_id from public.events where events.id = steps_to_subject.id;
  if found then
    subject := 'event';
    return;
  end if;
  select * into alert from public.alerts where alerts.id = steps_to_subject.id;
  if found then
    subject := 'alert';
    select told.steps, told.event_id into steps, event_id from private.steps_to_alert(alert) as told;
    return;
  end if;
  select * into lead from public.leads where leads.id = steps_to_subject.id;
  if found then
    subject := 'lead';
    select told.steps, told.event_id into steps, event_id from private.steps_to_lead(lead) as told;
    return;
  end if;
  select * into action from public.agent_actions where agent_actions.id = steps_to_subject.id;
  if found then
    subject := 'action';
    steps := private.steps_to_action(action);
    event_id := action.event_id;
    return;
  end if;
  select * into delivery from public.deliveries where deliveries.id = steps_to_subject.id;
  if found then
    subject := 'delivery';
    steps := private.delivery_steps(delivery);
    event_id := delivery.event_id;
  end if;
end;
$$;
comment on function private.steps_to_subject is 'What a row is, and what stands between it and the event that led to it.';
grant execute on function private.steps_to_subject to authenticated, service_role;

create function private.steps_to_lead(lead public.leads, out steps private.step[], out event_id uuid)
language plpgsql stable set search_path = ''
as $$
declare
  action public.agent_actions;
begin
  steps := array[row(
    'lead', lead.id, coalesce(lead.last_action_at, lead.created_at),
    case when lead.score is null then 'The lead has no score yet.'
      else format('The lead''s score is %s (%s): %s.', lead.score, lead.band, array_to_string(lead.reasons, ', ')) end,
    to_jsonb(lead))::private.step];
  select * into action from public.agent_actions
  where agent_actions.org_id = lead.org_id and agent_actions.lead_id = lead.id and agent_actions.event_id = lead.scored_by
    and agent_actions.outcome <> 'failed'
  order by agent_actions.id desc limit 1;
  if found then
    steps := private.steps_to_action(action) || steps;
  end if;
  event_id := coalesce(lead.scored_by, (
    select events.id from public.events
    where events.org_id = lead.org_id and events.contact_id = any (private.contact_family(lead.contact_id))
      and events.subject_id = lead.id
    order by events.id limit 1));
end;
$$;
comment on function private.steps_to_lead is 'A lead''s score, and who gave it.';
grant execute on function private.steps_to_lead to authenticated, service_role;

create function private.steps_to_action(action public.agent_actions)
returns private.step[]
language plpgsql stable set search_path = ''
as $$
declare
  delivery public.deliveries;
begin
  select * into delivery from public.deliveries where deliveries.id = action.delivery_id;
  return case when found then private.delivery_steps(delivery) end || private.action_step(action);
end;
$$;
comment on function private.steps_to_action is 'An agent''s decision, after the delivery in which it was made.';
grant execute on function private.steps_to_action to authenticated, service_role;

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
    -- Not the look that found it: what the site sent last is what it has been silent since.
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
comment on function private.steps_to_alert is 'An alert and what stands between it and the event that led to it; no event where the hub''s own watch found it.';
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
          case when replay.asked_by is null then 'Somebody with the hub''s secret key' else 'A person' end,
          coalesce('version ' || rehearsed, 'a version'))
        when replay.asked_by is null then 'It was put in line again.'
        else 'A person put it in line again.'
      end,
      to_jsonb(replay))::private.step] || steps;
  end if;
  return steps;
end;
$$;
comment on function private.delivery_steps is 'A delivery, and the replay that put it in line.';
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
      case action.review when 'approved' then ' A person approved it.' when 'rejected' then ' A person rejected it.'
        when 'pending' then ' It waits for a person''s review.' else '' end),
    to_jsonb(action))::private.step;
$$;
comment on function private.action_step is 'An agent''s decision, with its reasons.';
grant execute on function private.action_step to authenticated, service_role;
