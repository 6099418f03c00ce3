-- Explain: why a row is as it is, from what happened outside down to it, in plain words with the rows.
--
-- Everything that came of a happening points back: an action to its delivery, a delivery to its event, an event to
-- the one that caused it. explain() walks that way as the caller, so it shows nobody more than they may read.

set lock_timeout = '5s';
set statement_timeout = '60s';

alter table public.deliveries validate constraint deliveries_replay;
alter table public.deliveries validate constraint deliveries_version;

create type private.step as (kind text, id uuid, at timestamptz, says text, data jsonb);
comment on type private.step is 'One link of an explanation.';

create function private.event_in_words(event public.events)
returns text
language sql
stable
set search_path = ''
as $$
  select case event.type
    when 'form.submitted' then format('%s sent a form on %s.', who.name, coalesce(place.name, 'a site'))
    when 'booking.placed' then format('%s placed a booking on %s.', who.name, coalesce(place.name, 'a site'))
    when 'submission.quarantined' then format('A form on %s was put aside: %s.', coalesce(place.name, 'a site'), event.data ->> 'reason')
    when 'lead.qualified' then format('The lead of %s was scored %s (%s).', who.name, event.data ->> 'score', event.data ->> 'band')
    when 'delivery.dead' then format('%s gave up: %s.', event.data ->> 'subscription', rtrim(event.data ->> 'error', '.'))
    else coalesce(
      (select event_types.description from public.event_types where event_types.name = event.type),
      format('Something called %s happened.', event.type))
  end
  from (select coalesce((select contacts.name from public.contacts where contacts.id = event.contact_id), 'Somebody') as name) as who
  left join public.sites as place on place.id = event.site_id;
$$;
comment on function private.event_in_words is 'What happened, as one sentence.';

create function private.is_from_outside(source text)
returns boolean
language sql
immutable
set search_path = ''
as $$
  select source ~ '^(site|pull|webhook|email|phone|sms|whatsapp|provider):';
$$;
comment on function private.is_from_outside is 'Whether an event of this source is what somebody outside did.';
grant execute on function private.is_from_outside to authenticated, service_role;

create function private.own_watch()
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select jsonb_build_object('kind', 'clock', 'says', 'The hub''s own watch found it.');
$$;
comment on function private.own_watch is 'Where an alert came from that no event showed.';

create function private.origin_in_words(event public.events)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select case
    when private.is_from_outside(event.source) then jsonb_build_object(
      'kind', 'outside', 'says', format('It came from outside, by the %s %s.', split_part(event.source, ':', 1), split_part(event.source, ':', 2)))
    when event.source ~ '^user:' then jsonb_build_object('kind', 'person', 'says', 'A person did it.')
    -- Whose alert nobody can read any more. What else the hub does by itself has a cause.
    when event.source = 'hub' and event.type like 'alert.%' then private.own_watch()
    when event.source = 'hub' then jsonb_build_object('kind', 'person', 'says', 'Somebody with the hub''s secret key did it.')
    when event.source ~ '^(clock|cron|schedule)' then jsonb_build_object('kind', 'clock', 'says', 'It was time: the hub''s own clock began it.')
    else jsonb_build_object('kind', 'person', 'says', format('A person recorded it, by %s.', event.source))
  end;
$$;
comment on function private.origin_in_words is 'Where a happening without a cause came from.';

create function private.delivery_steps(delivery public.deliveries)
returns private.step[]
language plpgsql
stable
set search_path = ''
as $$
declare
  is_rehearsal constant boolean := delivery.mode = 'shadow';
  wish text;
  rehearsed integer;
  replay public.replays;
  steps private.step[];
begin
  select subscriptions.name into wish from public.subscriptions where subscriptions.id = delivery.subscription_id;
  select agent_versions.version into rehearsed from public.agent_versions where agent_versions.id = delivery.version_id;
  steps := array[row(
    'delivery', delivery.id, delivery.created_at,
    format('It was brought to %s%s: %s%s.%s', wish,
      case when is_rehearsal then ' as a rehearsal, without effects' else '' end,
      case delivery.status
        when 'done' then 'done' when 'skipped' then 'there was nothing to do' when 'dead' then 'given up'
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

create function private.action_step(action public.agent_actions)
returns private.step
language sql
stable
set search_path = ''
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

create function private.steps_to_alert(alert public.alerts, out steps private.step[], out event_id uuid)
language plpgsql
stable
set search_path = ''
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

create function private.steps_to_event(event_id uuid, out steps private.step[], out origin jsonb)
language plpgsql
stable
set search_path = ''
as $$
declare
  event public.events;
  action public.agent_actions;
  delivery public.deliveries;
  alert public.alerts;
  before record;
  seen uuid[] := '{}';
  next_id uuid := steps_to_event.event_id;
begin
  steps := '{}';
  -- A circle, which nothing makes, must not hang whoever asks.
  while not next_id = any (seen) loop
    seen := seen || next_id;
    select * into event from public.events where events.id = next_id;
    if not found then
      origin := jsonb_build_object('kind', 'unknown', 'says', 'What came before is archived, or not yours to see.');
      return;
    end if;
    steps := array[row('event', event.id, event.occurred_at, private.event_in_words(event), to_jsonb(event))::private.step] || steps;
    if event.source = 'hub' and event.subject_type = 'alert' then
      select * into alert from public.alerts where alerts.id = event.subject_id;
      if found then
        select told.steps, told.event_id into before from private.steps_to_alert(alert) as told;
        steps := before.steps || steps;
        if before.event_id is null then
          origin := private.own_watch();
          return;
        end if;
        next_id := before.event_id;
        continue;
      end if;
    end if;
    if event.cause_id is null then
      origin := private.origin_in_words(event);
      return;
    end if;
    -- Between a cause and what came of it stands who decided so.
    select * into action from public.agent_actions
    where agent_actions.event_id = event.cause_id and agent_actions.agent = event.source and agent_actions.outcome <> 'failed';
    if found then
      steps := private.action_step(action) || steps;
      select * into delivery from public.deliveries where deliveries.id = action.delivery_id;
      if found then
        steps := private.delivery_steps(delivery) || steps;
      end if;
    end if;
    next_id := event.cause_id;
  end loop;
  origin := jsonb_build_object('kind', 'unknown', 'says', 'It is said to have come of itself.');
end;
$$;
comment on function private.steps_to_event is 'What led to an event, from where it began to the event itself.';

create function public.explain(id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_column
declare
  subject text;
  event_id uuid;
  event public.events;
  delivery public.deliveries;
  action public.agent_actions;
  alert public.alerts;
  lead public.leads;
  before private.step[];
  steps private.step[] := '{}';
  origin jsonb;
begin
  select * into event from public.events where events.id = explain.id;
  if found then
    subject := 'event';
    event_id := event.id;
  end if;

  if subject is null then
    select * into alert from public.alerts where alerts.id = explain.id;
    if found then
      subject := 'alert';
      select told.steps, told.event_id into steps, event_id from private.steps_to_alert(alert) as told;
    end if;
  end if;

  if subject is null then
    select * into lead from public.leads where leads.id = explain.id;
    if found then
      subject := 'lead';
      steps := array[row(
        'lead', lead.id, coalesce(lead.last_action_at, lead.created_at),
        case when lead.score is null then 'The lead has no score yet.'
          else format('The lead''s score is %s (%s): %s.', lead.score, lead.band, array_to_string(lead.reasons, ', ')) end,
        to_jsonb(lead))::private.step];
      select * into action from public.agent_actions
      where agent_actions.org_id = lead.org_id and agent_actions.lead_id = lead.id and agent_actions.event_id = lead.scored_by
        and agent_actions.outcome <> 'failed'
      order by agent_actions.id desc limit 1;
      event_id := coalesce(lead.scored_by, (
        select events.id from public.events
        where events.org_id = lead.org_id and events.contact_id = any (private.contact_family(lead.contact_id))
          and events.subject_id = lead.id
        order by events.id limit 1));
    end if;
  end if;

  if subject is null then
    select * into action from public.agent_actions where agent_actions.id = explain.id;
    subject := case when found then 'action' end;
  end if;
  if action.id is not null then
    steps := private.action_step(action) || steps;
    event_id := action.event_id;
    select * into delivery from public.deliveries where deliveries.id = action.delivery_id;
  end if;

  if subject is null then
    select * into delivery from public.deliveries where deliveries.id = explain.id;
    subject := case when found then 'delivery' end;
  end if;
  if delivery.id is not null then
    steps := private.delivery_steps(delivery) || steps;
    event_id := delivery.event_id;
  end if;

  if subject is null then
    perform private.fail(404, 'nothing_to_explain', 'There is no event, action, delivery, lead or alert with this id.');
  end if;
  if event_id is null then
    origin := private.own_watch();
  else
    select traced.steps, traced.origin into before, origin from private.steps_to_event(event_id) as traced;
  end if;
  return (
    select jsonb_build_object(
      'subject', jsonb_build_object('kind', subject, 'id', explain.id),
      'origin', origin,
      'story', concat_ws(' ', origin ->> 'says', string_agg(link.says, ' ' order by link.place)),
      'chain', coalesce(jsonb_agg(jsonb_build_object(
        'kind', link.kind, 'id', link.id, 'at', link.at, 'says', link.says, 'row', link.data) order by link.place), '[]'))
    from unnest(before || steps) with ordinality as link (kind, id, at, says, data, place));
end;
$$;
comment on function public.explain is 'Why an event, action, delivery, lead''s score or alert is there: the chain from outside, in plain words, with the rows.';
grant execute on function
  public.explain, private.steps_to_event, private.steps_to_alert, private.action_step, private.delivery_steps, private.origin_in_words,
  private.own_watch, private.event_in_words
  to authenticated, service_role;
