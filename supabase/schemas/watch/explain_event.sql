-- The steps that led to an event, from its first cause.

create function private.steps_to_event(event_id uuid, out steps private.step[], out origin jsonb)
language plpgsql stable set search_path = ''
as $$
declare
  event public.events;
  action public.agent_actions;
  alert public.alerts;
  before record;
  seen uuid[] := '{}';
  next_id uuid := steps_to_event.event_id;
begin
  steps := '{}';
  -- A circle of causes, which nothing makes, must not hang the caller.
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
    -- The agent that decided stands between a cause and its consequence.
    select * into action from public.agent_actions
    where agent_actions.event_id = event.cause_id and agent_actions.agent = event.source and agent_actions.outcome <> 'failed';
    if found then
      steps := private.steps_to_action(action) || steps;
    end if;
    next_id := event.cause_id;
  end loop;
  origin := jsonb_build_object('kind', 'unknown', 'says', 'It is said to have come of itself.');
end;
$$;
comment on function private.steps_to_event is 'The steps that led to an event, from its first cause to the event itself.';
grant execute on function private.steps_to_event to authenticated, service_role;
