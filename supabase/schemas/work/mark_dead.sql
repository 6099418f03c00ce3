-- Dead deliveries: a delivery that is tried no more stays, with its error; an alert and an event say so.

create function private.mark_dead(delivery_id uuid, error text)
returns void
language plpgsql set search_path = ''
as $$
declare
  dead record;
begin
  update public.deliveries
  set status = 'dead', last_error = mark_dead.error, lease_token = null, leased_until = null
  where deliveries.id = mark_dead.delivery_id;

  select
    deliveries.mode, events.id as event_id, events.org_id, events.site_id, events.contact_id, events.type, events.trace_id,
    case when events.subject_type = 'lead' then events.subject_id end as lead_id,
    subscriptions.name, agents.id as agent_id, agents.name as agent, versions.id as version_id
  into dead
  from public.deliveries
  join public.events on events.id = deliveries.event_id
  join public.subscriptions on subscriptions.id = deliveries.subscription_id
  left join public.agents on agents.id = subscriptions.agent_id
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  where deliveries.id = mark_dead.delivery_id;

  -- Nobody was promised anything by a rehearsal.
  if dead.mode = 'rehearsal' then
    return;
  end if;

  if dead.version_id is not null then
    begin
      insert into public.agent_actions (
        org_id, agent_id, agent, version_id, delivery_id, event_id, contact_id, lead_id, decision, reasons, outcome, trace_id)
      values (
        dead.org_id, dead.agent_id, dead.agent, dead.version_id, mark_dead.delivery_id, dead.event_id, dead.contact_id,
        dead.lead_id, 'dead', array[mark_dead.error], 'failed', dead.trace_id);
    exception when others then
      -- The failed run may be unwritable for the reason that the delivery is dead: it is marked all the same.
      raise warning 'the failed run of delivery % could not be written: %', mark_dead.delivery_id, sqlstate;
    end;
  end if;

  -- When a subscriber is down, all its deliveries are dead for one reason, which is told once.
  perform private.open_alert(
    dead.org_id, 'delivery_dead', mark_dead.delivery_id::text, 'critical',
    format('The delivery of a %s event to %s is dead: %s', dead.type, dead.name, mark_dead.error),
    jsonb_build_object('event_id', dead.event_id, 'subscription', dead.name, 'trace_id', dead.trace_id),
    topic => dead.name, event_id => dead.event_id, site_id => dead.site_id);

  -- A subscriber that fails on every event would otherwise make dead deliveries without end.
  if dead.type <> 'delivery.dead' then
    perform private.write_event(
      dead.org_id, 'delivery.dead',
      jsonb_build_object('delivery_id', mark_dead.delivery_id, 'subscription', dead.name, 'error', mark_dead.error),
      site_id => dead.site_id, contact_id => dead.contact_id, subject_type => 'delivery', subject_id => mark_dead.delivery_id,
      cause_id => dead.event_id, trace_id => dead.trace_id);
  end if;
end;
$$;
comment on function private.mark_dead is 'Make a delivery dead: it stays with its error; an alert and an event say so.';
