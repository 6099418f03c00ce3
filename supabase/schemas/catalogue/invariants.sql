-- The invariants that the hub begins with.

insert into public.invariants (name, description, severity, pauses, sql) values

('events_have_deliveries',
 'Every event of the last hour, of the newest 5,000, has a delivery for each subscription that wanted it.', 'critical', null, $sql$
  select latest.org_id, format('event %s has no delivery to %s', latest.id, subscriptions.name) as found
  from (
    select events.id, events.org_id, events.type, events.cause_id, events.recorded_at
    from public.events
    where events.id >= private.uuid_v7_floor(now() - interval '1 hour')
    order by events.id desc
    limit 5000
  ) as latest
  join public.subscriptions on subscriptions.org_id = latest.org_id
    -- An event does not see what a transaction changed that was open then.
    and subscriptions.updated_at < latest.recorded_at - interval '1 minute' and private.wants(subscriptions.event_types, latest.type)
  where not exists (
      select from public.deliveries
      where deliveries.event_id = latest.id and deliveries.subscription_id = subscriptions.id and deliveries.mode = 'live')
    and not private.is_echo(latest.id, latest.cause_id, subscriptions.id)
$sql$),

('leases_end',
 'No delivery runs more than two minutes past its lease.', 'critical', null, $sql$
  select deliveries.org_id, format('delivery %s is held since %s', deliveries.id, deliveries.claimed_at) as found
  from public.deliveries
  where deliveries.status = 'running' and deliveries.leased_until < now() - interval '2 minutes'
$sql$),

('nothing_waits_for_hours',
 'No delivery is due for more than two hours while its subscription is willing.', 'critical', null, $sql$
  select due_work.org_id, format('%s has been waited for since %s', due_work.name, due_work.due_since) as found
  from private.due_work
  where due_work.due_since < now() - interval '2 hours'
$sql$),

('actions_have_causes',
 'Every action, of the newest 5,000, belongs to a delivery of the same event and organization whose effects were applied.', 'critical', null, $sql$
  select latest.org_id, format('action %s has no delivery, event or effect of its own', latest.id) as found
  from (
    select agent_actions.id, agent_actions.org_id, agent_actions.delivery_id, agent_actions.event_id, agent_actions.outcome
    from public.agent_actions
    order by agent_actions.id desc
    limit 5000
  ) as latest
  left join public.deliveries on deliveries.id = latest.delivery_id
  left join public.events on events.id = latest.event_id
  where deliveries.id is null or events.id is null
    or deliveries.event_id <> latest.event_id
    or (deliveries.effects_applied_at is null and latest.outcome <> 'failed')
    or deliveries.org_id <> latest.org_id or events.org_id <> latest.org_id
$sql$),

('scores_have_causes',
 'Every score of a lead, of the newest 5,000 leads, comes from an event of the same organization.', 'critical', null, $sql$
  select latest.org_id, format('lead %s has a score that no event gave', latest.id) as found
  from (
    select leads.id, leads.org_id, leads.score, leads.scored_by
    from public.leads
    order by leads.id desc
    limit 5000
  ) as latest
  left join public.events on events.id = latest.scored_by
  where latest.score is not null and events.org_id is distinct from latest.org_id
$sql$),

('memories_have_causes',
 'Everything an agent remembers, of the newest 5,000 memories, was said by an event of the same organization.', 'critical', null, $sql$
  select latest.org_id, format('memory %s comes from no event', latest.id) as found
  from (
    select agent_memory.id, agent_memory.org_id, agent_memory.source_event_id
    from public.agent_memory
    order by agent_memory.id desc
    limit 5000
  ) as latest
  left join public.events on events.id = latest.source_event_id
  where latest.source_event_id is not null and events.org_id is distinct from latest.org_id
$sql$),

('deliveries_agree_with_events',
 'Every delivery, of the newest 5,000, has its event, in the same organization.', 'critical', null, $sql$
  select latest.org_id, format('delivery %s has no event of its organization', latest.id) as found
  from (
    select deliveries.id, deliveries.org_id, deliveries.event_id
    from public.deliveries
    order by deliveries.id desc
    limit 5000
  ) as latest
  left join public.events on events.id = latest.event_id
  where events.org_id is distinct from latest.org_id
$sql$),

('receipts_point_to_events',
 'Every receipt, of the 5,000 that expire last, points to an event of the same organization.', 'critical', null, $sql$
  select latest.org_id, format('the receipt %s %s points to no event', latest.source, latest.key) as found
  from (
    select receipts.org_id, receipts.source, receipts.key, receipts.event_id
    from public.receipts
    -- Receipts of pulls never expire, and are as many as were ever pulled.
    where receipts.expires_at < 'infinity'
    order by receipts.expires_at desc
    limit 5000
  ) as latest
  left join public.events on events.id = latest.event_id
  where events.org_id is distinct from latest.org_id
$sql$),

('enquiries_have_leads',
 'Each contact that asked at a site, in the newest 5,000 events that nothing caused, has a lead there.', 'critical', null, $sql$
  select latest.org_id, format('the enquiry %s has no lead', latest.id) as found
  from (
    select events.id, events.org_id, events.contact_id, events.site_id, events.subject_type
    from public.events
    where events.cause_id is null
    order by events.id desc
    limit 5000
  ) as latest
  where latest.subject_type = 'lead' and not exists (
    select from public.leads
    where leads.org_id = latest.org_id and leads.site_id = latest.site_id
      and leads.contact_id = private.visible_contact(latest.contact_id))
$sql$),

('what_moves_is_with_its_contact',
 'Each identifier and lead, of the newest 5,000 of both, is with the contact under which its own contact is visible.', 'critical', null, $sql$
  select held.org_id, format('the %s %s is with contact %s', held.what, held.id, held.contact_id) as found
  from (
    (select 'identifier' as what, id, org_id, contact_id, home_id from public.contact_identifiers order by id desc limit 5000)
    union all
    (select 'lead', id, org_id, contact_id, home_id from public.leads order by id desc limit 5000)
  ) as held
  left join public.contacts as home on home.id = held.home_id
  where held.contact_id is distinct from coalesce(home.merged_into, home.id)
$sql$),

('subscribed_agents_are_published',
 'An agent with a subscription that is not paused has exactly one published version.', 'critical', null, $sql$
  select agents.org_id, format('%s has %s published versions', agents.name, count(versions.id)) as found
  from public.agents
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  where exists (
    select from public.subscriptions
    where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id and not subscriptions.paused)
  group by agents.id
  having count(versions.id) <> 1
$sql$),

('audit_log_ends_at_its_head',
 'The audit log of each organization ends with the entry that its head names.', 'critical', null, $sql$
  select heads.org_id, format('the audit log has another end than entry %s', heads.number) as found
  from private.audit_heads as heads
  left join lateral (
    select audit_log.number, audit_log.hash
    from public.audit_log
    where audit_log.org_id = heads.org_id
    order by audit_log.number desc
    limit 1
  ) as latest on true
  where (latest.number, latest.hash) is distinct from (heads.number, heads.hash)
$sql$),

('monitors_run',
 'Each organization''s data monitor has looked within the last 20 minutes, unless it is paused.', 'critical', null, $sql$
  select watched.org_id, format('it last looked at %s', private.last_monitored(watched.org_id)) as found
  from (select distinct willing.org_id from private.willing_subscriptions as willing where willing.target = 'data-monitor') as watched
  where private.last_monitored(watched.org_id) < now() - interval '20 minutes'
$sql$);
