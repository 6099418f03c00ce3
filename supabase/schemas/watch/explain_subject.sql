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
comment on function private.steps_to_subject is 'The steps from the event that led to a row down to the row itself.';
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
comment on function private.steps_to_lead is 'A lead''s score, and the agent that gave it.';
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
