-- An agent sees the whole person: the contact that is seen, what came before and what it remembers of any merged one.
--
-- Against 20261121000700: claim_deliveries reads contact, history and memory through contact_family;
-- apply_effects says the score as a fact, so contacts.attributes goes.

-- Its only writer is replaced here, and the facts hold what it held.
-- squawk-ignore-file ban-drop-column
set lock_timeout = '5s';
set statement_timeout = '60s';

create or replace function hub.claim_deliveries(target text, batch_size integer default 10, lease_seconds integer default 20)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  batch jsonb;
begin
  with willing as (
    select willing_subscriptions.id
    from private.willing_subscriptions
    where willing_subscriptions.target = claim_deliveries.target
    -- No tenant's backlog goes always first.
    order by random()
  ),
  due as (
    select next.id
    from willing
    cross join lateral (
      select deliveries.id
      from public.deliveries
      where deliveries.subscription_id = willing.id
        and deliveries.status in ('pending', 'failed')
        and deliveries.run_at <= now()
        and (deliveries.order_key is null or not exists (
          select from public.deliveries as earlier
          where earlier.subscription_id = deliveries.subscription_id
            and earlier.order_key = deliveries.order_key
            and earlier.id < deliveries.id
            and earlier.status in ('pending', 'failed', 'running')))
      order by deliveries.run_at
      limit least(claim_deliveries.batch_size, 100)
      for update of deliveries skip locked
    ) as next
    limit least(claim_deliveries.batch_size, 100)
  ),
  claimed as (
    update public.deliveries
    set status = 'running',
        attempts = deliveries.attempts + 1,
        lease_token = gen_random_uuid(),
        claimed_at = clock_timestamp(),
        leased_until = clock_timestamp() + make_interval(secs => least(claim_deliveries.lease_seconds, 600))
    from due
    where deliveries.id = due.id
    returning deliveries.*
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', claimed.id,
    'lease_token', claimed.lease_token,
    'attempt', claimed.attempts,
    'mode', claimed.mode,
    'subscription', subscriptions.name,
    'org_id', claimed.org_id,
    'event', jsonb_build_object(
      'id', events.id, 'type', events.type, 'site_id', events.site_id, 'site', sites.slug, 'contact_id', events.contact_id,
      'subject_type', events.subject_type, 'subject_id', events.subject_id, 'source', events.source,
      'data', events.data, 'trace_id', events.trace_id, 'occurred_at', events.occurred_at),
    'contact', case when contacts.id is not null then jsonb_build_object(
      'id', contacts.id, 'name', contacts.name, 'is_repeat', history.earlier > 0, 'earlier_events', history.earlier) end,
    'agent', case when agents.id is not null then jsonb_build_object(
      'id', agents.id, 'name', agents.name, 'version_id', versions.id, 'version', versions.version, 'config', versions.config) end,
    'memory', coalesce(memory.facts, '{}')
  ) order by claimed.run_at), '[]')
  into batch
  from claimed
  join public.subscriptions on subscriptions.id = claimed.subscription_id
  join public.events on events.id = claimed.event_id
  left join public.sites on sites.id = events.site_id
  -- offset 0: asked once for a delivery, not wherever it is used.
  cross join lateral (select private.contact_family(events.contact_id) as ids offset 0) as family
  left join public.contacts on contacts.id = family.ids[1]
  left join public.agents on agents.id = subscriptions.agent_id
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  cross join lateral (
    select count(*) as earlier
    from (
      select from public.events as before
      where before.org_id = events.org_id and before.contact_id = any (family.ids) and before.id < events.id
        and before.type = events.type
      limit 50
    ) as seen
  ) as history
  left join lateral (
    select jsonb_object_agg(agent_memory.key, agent_memory.value order by agent_memory.source_event_id nulls first) as facts
    from public.agent_memory
    where agent_memory.agent_id = agents.id
      and agent_memory.subject_type = 'contact'
      and agent_memory.subject_id = any (family.ids)
      and coalesce(agent_memory.expires_at, 'infinity') > now()
  ) as memory on true;
  return batch;
end;
$$;

create or replace function private.apply_effects(delivery public.deliveries, effects jsonb, duration_ms integer)
returns void
language plpgsql
set search_path = ''
as $$
declare
  event public.events;
  brain record;
  scored_lead uuid;
begin
  select * into event from public.events where events.id = delivery.event_id;
  select agents.id as agent_id, agents.name as agent, versions.id as version_id
  into brain
  from public.subscriptions
  join public.agents on agents.id = subscriptions.agent_id
  join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  where subscriptions.id = delivery.subscription_id;

  if effects ? 'lead' and event.subject_type = 'lead' then
    update public.leads
    set score = (effects #>> '{lead,score}')::smallint,
        reasons = array(select jsonb_array_elements_text(effects #> '{lead,reasons}')),
        next_step = effects #>> '{lead,next_step}',
        scored_by = event.id,
        last_action_at = now()
    where leads.org_id = event.org_id and leads.id = event.subject_id
      and coalesce(leads.scored_by, event.id) <= event.id
    returning leads.id into scored_lead;

    if scored_lead is not null and event.contact_id is not null then
      perform private.learn_facts(
        event.org_id, event.contact_id, jsonb_build_object('lead_score', effects #> '{lead,score}'), event.id, event.occurred_at);
    end if;
  end if;

  if effects ? 'action' then
    insert into public.agent_actions (
      org_id, agent_id, agent, version_id, delivery_id, event_id, contact_id, lead_id, decision, reasons, confidence,
      outcome, input_digest, output, tokens, cost_cents, duration_ms, trace_id)
    select
      event.org_id, brain.agent_id, brain.agent, coalesce((effects #>> '{action,version_id}')::uuid, brain.version_id),
      delivery.id, event.id, event.contact_id, case when event.subject_type = 'lead' then event.subject_id end,
      action.decision, coalesce(action.reasons, '{}'), action.confidence, action.outcome, action.input_digest,
      coalesce(action.output, '{}'), action.tokens, action.cost_cents, apply_effects.duration_ms, event.trace_id
    from jsonb_to_record(effects -> 'action') as action (
      decision text, reasons text[], confidence numeric, outcome public.action_outcome, input_digest text,
      output jsonb, tokens integer, cost_cents numeric);
  end if;

  insert into public.agent_memory (org_id, agent_id, subject_type, subject_id, key, value, source_event_id)
  select event.org_id, brain.agent_id, 'contact', event.contact_id, fact.key, coalesce(fact.value, 'null'), event.id
  from jsonb_to_recordset(coalesce(effects -> 'memory', '[]')) as fact (key text, value jsonb)
  where event.contact_id is not null
  on conflict on constraint agent_memory_once do update
    set value = excluded.value, source_event_id = excluded.source_event_id
    where coalesce(agent_memory.source_event_id, event.id) <= event.id;

  insert into public.events (org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, cause_id)
  select
    event.org_id, event.site_id, said.type, event.contact_id,
    coalesce(said.subject_type, event.subject_type), coalesce(said.subject_id, event.subject_id),
    coalesce(brain.agent, 'hub'), coalesce(said.data, '{}'), event.trace_id, event.id
  from jsonb_to_recordset(coalesce(effects -> 'events', '[]')) as said (type text, data jsonb, subject_type text, subject_id uuid);
end;
$$;

alter table public.contacts drop column attributes;
