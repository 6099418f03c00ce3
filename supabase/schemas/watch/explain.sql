-- Explain: why a row is as it is, from what happened outside down to it, in plain words with the rows.
--
-- Everything that came of a happening points back: an action to its delivery, a delivery to its event, an event to
-- the one that caused it. explain() walks that way as the caller, so it shows nobody more than they may read.

create type private.step as (kind text, id uuid, at timestamptz, says text, data jsonb);
comment on type private.step is 'One link of an explanation.';

create function public.explain(id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
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
grant execute on function public.explain to authenticated, service_role;
