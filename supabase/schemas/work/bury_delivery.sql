-- Giving a delivery up: it stays with its error, an alert and an event say so.

create function private.bury_delivery(delivery_id uuid, error text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  buried record;
begin
  update public.deliveries
  set status = 'dead', last_error = bury_delivery.error, lease_token = null, leased_until = null
  where deliveries.id = bury_delivery.delivery_id;

  select
    deliveries.mode, events.id as event_id, events.org_id, events.site_id, events.contact_id, events.type, events.trace_id,
    case when events.subject_type = 'lead' then events.subject_id end as lead_id,
    subscriptions.name, agents.id as agent_id, agents.name as agent, versions.id as version_id
  into buried
  from public.deliveries
  join public.events on events.id = deliveries.event_id
  join public.subscriptions on subscriptions.id = deliveries.subscription_id
  left join public.agents on agents.id = subscriptions.agent_id
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  where deliveries.id = bury_delivery.delivery_id;

  -- Nobody was promised anything by a rehearsal.
  if buried.mode = 'shadow' then
    return;
  end if;

  if buried.version_id is not null then
    begin
      insert into public.agent_actions (
        org_id, agent_id, agent, version_id, delivery_id, event_id, contact_id, lead_id, decision, reasons, outcome, trace_id)
      values (
        buried.org_id, buried.agent_id, buried.agent, buried.version_id, bury_delivery.delivery_id, buried.event_id, buried.contact_id,
        buried.lead_id, 'gave_up', array[bury_delivery.error], 'failed', buried.trace_id);
    exception when others then
      -- What cannot be written may be why it died; it must be buried all the same.
      raise warning 'the failed run of delivery % could not be written: %', bury_delivery.delivery_id, sqlstate;
    end;
  end if;

  -- When a subscriber is down, all its deliveries die of one reason: that is told once.
  perform private.open_alert(
    buried.org_id, 'delivery_dead', bury_delivery.delivery_id::text, 'critical',
    format('%s gave up on a %s event: %s', buried.name, buried.type, bury_delivery.error),
    jsonb_build_object('event_id', buried.event_id, 'subscription', buried.name, 'trace_id', buried.trace_id),
    topic => buried.name, event_id => buried.event_id, site_id => buried.site_id);

  -- Else a subscriber that fails on every event would bury without end.
  if buried.type <> 'delivery.dead' then
    insert into public.events (org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, cause_id)
    values (
      buried.org_id, buried.site_id, 'delivery.dead', buried.contact_id, 'delivery', bury_delivery.delivery_id, 'hub',
      jsonb_build_object('delivery_id', bury_delivery.delivery_id, 'subscription', buried.name, 'error', bury_delivery.error),
      buried.trace_id, buried.event_id);
  end if;
end;
$$;
comment on function private.bury_delivery is 'Give a delivery up: it stays with its error, an alert and an event say so.';
