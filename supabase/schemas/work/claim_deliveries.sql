-- Claiming: a function takes a batch of due deliveries under leases, with all that it needs to handle them.

-- Every step goes by an index and takes few rows. The planner cannot know that of a batch whose size is an argument: it
-- planned anew for each call, at several times the price of the call, or read whole tables into hashes.
-- security definer: hub_service may touch no table itself.
create function hub.claim_deliveries(target text, batch_size integer default 10, lease_seconds integer default 20)
returns jsonb
language plpgsql security definer set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $$
begin
  return private.deliveries_in_full(private.lease_deliveries(target, least(batch_size, 100), least(lease_seconds, 600)));
end;
$$;
comment on function hub.claim_deliveries is 'Take up to batch_size due deliveries of a target under a lease, with all that is needed to handle them.';
grant execute on function hub.claim_deliveries to hub_service;

create function private.lease_deliveries(target text, wanted integer, lease_seconds integer)
returns uuid[]
language plpgsql set search_path = ''
as $$
declare
  leased uuid[];
begin
  with willing as (
    select willing_subscriptions.id
    from private.willing_subscriptions
    where willing_subscriptions.target = lease_deliveries.target
    -- At random, so that no tenant's backlog always goes first.
    order by random()
  ),
  live as (
    select next.id
    from willing
    cross join lateral (
      select deliveries.id
      from public.deliveries
      where deliveries.subscription_id = willing.id and deliveries.is_waiting and deliveries.mode = 'live'
        and deliveries.run_at <= now()
        and (deliveries.order_key is null or not exists (
          select from public.deliveries as earlier
          where earlier.subscription_id = deliveries.subscription_id
            and earlier.order_key = deliveries.order_key
            and earlier.id < deliveries.id
            and earlier.status in ('pending', 'failed', 'running')))
      order by deliveries.run_at
      limit wanted
      for update of deliveries skip locked
    ) as next
    limit wanted
  ),
  rehearsed as (
    select next.id
    from willing
    cross join lateral (
      select deliveries.id
      from public.deliveries
      where deliveries.subscription_id = willing.id and deliveries.is_waiting and deliveries.mode = 'rehearsal'
        and deliveries.run_at <= now()
      order by deliveries.run_at
      limit wanted
      for update of deliveries skip locked
    ) as next
    limit wanted - (select count(*) from live)
  ),
  claimed as (
    update public.deliveries
    set status = 'running',
        attempts = deliveries.attempts + 1,
        lease_token = gen_random_uuid(),
        claimed_at = clock_timestamp(),
        leased_until = clock_timestamp() + make_interval(secs => lease_deliveries.lease_seconds)
    from (select live.id from live union all select rehearsed.id from rehearsed) as due
    where deliveries.id = due.id
    returning deliveries.id
  )
  select array_agg(claimed.id) into leased from claimed;
  return leased;
end;
$$;
comment on function private.lease_deliveries is 'Lease the deliveries of a target that are due, live ones before rehearsals; answers their ids.';

create function private.deliveries_in_full(ids uuid[])
returns jsonb
language plpgsql set search_path = ''
as $$
begin
  return (
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
    ) order by claimed.mode, claimed.run_at), '[]')
    from public.deliveries as claimed
    join public.subscriptions on subscriptions.id = claimed.subscription_id
    join public.events on events.id = claimed.event_id
    left join public.sites on sites.id = events.site_id
    left join public.contacts as given on given.id = events.contact_id
    left join public.contacts on contacts.id = coalesce(given.merged_into, given.id)
    -- Like private.contact_family, which costs more than all the rest of a row here.
    cross join lateral (
      select contacts.id || array(
        select merged.id from public.contacts as merged where merged.org_id = contacts.org_id and merged.merged_into = contacts.id) as ids
      -- offset 0: worked out once, not at each use.
      offset 0
    ) as family
    left join public.agents on agents.id = subscriptions.agent_id
    left join public.agent_versions as versions on versions.agent_id = agents.id
      and case when claimed.version_id is null then versions.status = 'published' else versions.id = claimed.version_id end
    cross join lateral (
      select count(*) as earlier
      from unnest(family.ids) as home (id)
      cross join lateral (
        select from public.events as before
        where before.org_id = events.org_id and before.contact_id = home.id and before.id < events.id
          -- `is true` forces the index of the contact: that of the type would be read from its beginning.
          and (before.type = events.type) is true
        limit 50
      ) as seen
    ) as history
    -- Only memories from before the event: a replay and a rehearsal see those that the first handling saw, or fewer.
    left join lateral (
      select jsonb_object_agg(agent_memory.key, agent_memory.value order by agent_memory.source_event_id nulls first) as facts
      from public.agent_memory
      where agent_memory.agent_id = agents.id
        and agent_memory.subject_type = 'contact'
        and agent_memory.subject_id = any (family.ids)
        and coalesce(agent_memory.source_event_id < events.id, true)
        and coalesce(agent_memory.expires_at, 'infinity') > now()
    ) as memory on true
    where claimed.id = any (deliveries_in_full.ids));
end;
$$;
comment on function private.deliveries_in_full is 'Deliveries with their event, contact, agent, version and memory, as functions get them.';
