-- The effects of handled deliveries: actions, leads' scores, memories, new events.

create function private.apply_effects(settled private.settling[])
returns void
language plpgsql set search_path = ''
as $$
declare
  learnt integer;
begin
  with scored as (
    update public.leads
    set score = (latest.verdict ->> 'score')::smallint,
        reasons = array(select jsonb_array_elements_text(latest.verdict -> 'reasons')),
        next_step = latest.verdict ->> 'next_step',
        scored_by = latest.event_id,
        last_action_at = now()
    from (
      -- After a merge another lead of the same person may stand for this one.
      select distinct on (coalesce(named.folded_into, named.id))
        it.org_id, coalesce(named.folded_into, named.id) as lead_id, it.contact_id, it.event_id, it.occurred_at, it.effects -> 'lead' as verdict
      from unnest(settled) as it
      join public.leads as named on named.org_id = it.org_id and named.id = it.subject_id
      where it.effects ? 'lead' and it.subject_type = 'lead'
      order by coalesce(named.folded_into, named.id), it.event_id desc
    ) as latest
    where leads.org_id = latest.org_id and leads.id = latest.lead_id
      and coalesce(leads.scored_by, latest.event_id) <= latest.event_id
    returning latest.org_id, latest.contact_id, latest.event_id, latest.occurred_at, latest.verdict -> 'score' as score
  )
  -- In the order of the contacts, so that two batches lock in the same order.
  select count(*) into learnt
  from (
    select private.learn_facts(latest.org_id, latest.contact_id, jsonb_build_object('lead_score', latest.score), latest.event_id, latest.occurred_at)
    from (select * from scored where scored.contact_id is not null order by scored.contact_id, scored.event_id) as latest
  ) as told;

  insert into public.agent_actions (
    org_id, agent_id, agent, version_id, delivery_id, event_id, contact_id, lead_id, decision, reasons, confidence,
    outcome, input_digest, input, output, tokens, cost_cents, duration_ms, trace_id, review, proposal)
  select
    it.org_id, it.agent_id, it.agent, coalesce((it.effects #>> '{action,version_id}')::uuid, it.version_id),
    it.id, it.event_id, it.contact_id, case when it.subject_type = 'lead' then it.subject_id end,
    action.decision, coalesce(action.reasons, '{}'), action.confidence, action.outcome, action.input_digest,
    coalesce(action.input, '{}'), coalesce(action.output, '{}'), action.tokens, action.cost_cents, it.duration_ms, it.trace_id,
    case when it.effects ? 'proposal' then 'pending'::public.review_state end, it.effects -> 'proposal'
  from unnest(settled) as it
  cross join lateral jsonb_to_record(it.effects -> 'action') as action (
    decision text, reasons text[], confidence numeric, outcome public.action_outcome, input_digest text, input jsonb,
    output jsonb, tokens integer, cost_cents numeric)
  where it.effects ? 'action';

  insert into public.agent_memory (org_id, agent_id, subject_type, subject_id, key, value, source_event_id)
  select distinct on (it.agent_id, it.contact_id, fact.key)
    it.org_id, it.agent_id, 'contact', it.contact_id, fact.key, coalesce(fact.value, 'null'), it.event_id
  from unnest(settled) as it
  cross join lateral jsonb_to_recordset(it.effects -> 'memory') as fact (key text, value jsonb)
  where it.contact_id is not null and it.effects ? 'memory'
  -- In the order of the key, so that two batches lock in the same order.
  order by it.agent_id, it.contact_id, fact.key, it.event_id desc
  on conflict on constraint agent_memory_once do update
    set value = excluded.value, source_event_id = excluded.source_event_id
    where coalesce(agent_memory.source_event_id, excluded.source_event_id) <= excluded.source_event_id;

  insert into public.events (org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, cause_id)
  select
    it.org_id, it.site_id, said.type, it.contact_id,
    coalesce(said.subject_type, it.subject_type), coalesce(said.subject_id, it.subject_id),
    coalesce(it.agent, 'hub'), coalesce(said.data, '{}'), it.trace_id, it.event_id
  from unnest(settled) as it
  cross join lateral jsonb_to_recordset(it.effects -> 'events') as said (type text, data jsonb, subject_type text, subject_id uuid)
  where it.effects ? 'events';
end;
$$;
comment on function private.apply_effects(private.settling[]) is 'Write the effects of handled deliveries: actions, leads'' scores, memories, new events.';
