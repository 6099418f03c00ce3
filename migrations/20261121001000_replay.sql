-- Replay: put deliveries back in line, by filter, after a look at what would be.
--
-- Only what failed or died is chosen unless the filter names other statuses. A replayed delivery is handled
-- anew, but effects that happened once do not happen again.

set lock_timeout = '5s';
set statement_timeout = '60s';

create function private.replay_deliveries(orgs uuid[], filter jsonb, subscription text, dry_run boolean)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  unknown text;
  chosen uuid[];
  statuses text[] := array(
    select jsonb_array_elements_text(coalesce(filter -> 'statuses', '["failed", "dead"]')) except values ('pending'), ('running'));
begin
  select key into unknown from jsonb_object_keys(filter) as key
  where key not in ('event_ids', 'types', 'statuses', 'since', 'until', 'site', 'contact_id') limit 1;
  if unknown is not null then
    perform private.fail(422, 'unknown_filter', 'There is no filter ' || unknown || '.');
  end if;

  select array_agg(deliveries.id order by deliveries.id) into chosen
  from public.deliveries
  join public.events on events.id = deliveries.event_id
  join public.subscriptions on subscriptions.id = deliveries.subscription_id
  left join public.sites on sites.id = events.site_id
  where deliveries.org_id = any (orgs)
    and deliveries.mode = 'live'
    and deliveries.status::text = any (statuses)
    and (replay_deliveries.subscription is null or subscriptions.name = replay_deliveries.subscription)
    and (not filter ? 'event_ids' or events.id::text in (select jsonb_array_elements_text(filter -> 'event_ids')))
    and (not filter ? 'types' or events.type in (select jsonb_array_elements_text(filter -> 'types')))
    and (not filter ? 'since' or events.id >= private.uuid_v7_floor((filter ->> 'since')::timestamptz))
    and (not filter ? 'until' or events.id < private.uuid_v7_floor((filter ->> 'until')::timestamptz))
    and (not filter ? 'site' or sites.slug = filter ->> 'site')
    and (not filter ? 'contact_id' or events.contact_id = (filter ->> 'contact_id')::uuid);

  if not dry_run then
    -- Asked again: meanwhile one of them may have been done, and was not asked for then.
    with replayed as (
      update public.deliveries
      set status = 'pending', attempts = 0, run_at = now()
      where deliveries.id = any (chosen) and deliveries.status::text = any (statuses)
      returning deliveries.id
    )
    select array_agg(replayed.id) into chosen from replayed;
    update public.alerts set closed_at = now()
    where alerts.org_id = any (orgs) and alerts.kind = 'delivery_dead' and alerts.closed_at is null
      and alerts.subject in (select id::text from unnest(chosen) as id);
    perform private.write_audit(replayed.org_id, 'replay', 'deliveries', coalesce(replay_deliveries.subscription, '*'), null,
      jsonb_build_object('filter', filter, 'deliveries', replayed.count))
    from (
      select deliveries.org_id, count(*) as count from public.deliveries where deliveries.id = any (chosen) group by deliveries.org_id
    ) as replayed;
    perform private.kick(waiting.target)
    from (
      select distinct subscriptions.target
      from public.deliveries
      join public.subscriptions on subscriptions.id = deliveries.subscription_id
      where deliveries.id = any (chosen) and subscriptions.target_kind = 'function'
    ) as waiting;
  end if;
  return jsonb_build_object('matched', coalesce(cardinality(chosen), 0), 'dry_run', dry_run);
end;
$$;
comment on function private.replay_deliveries is 'Put deliveries back in line. Effects that happened do not happen again.';

-- security definer: who may replay is asked here, by the caller's own permission.
create function private.replay_my_events(filter jsonb, subscription text, dry_run boolean)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  orgs uuid[];
begin
  if (select auth.role()) = 'service_role' then
    orgs := array(select organizations.id from public.organizations);
  else
    orgs := array(select private.my_orgs('events.replay'));
  end if;
  if cardinality(orgs) = 0 then
    perform private.fail(403, 'not_permitted', 'Your role may not replay events.');
  end if;
  return private.replay_deliveries(orgs, filter, subscription, dry_run);
end;
$$;
comment on function private.replay_my_events is 'Replay within the caller''s organizations.';
grant execute on function private.replay_my_events to authenticated, service_role;

create function public.replay_events(filter jsonb default '{}', subscription text default null, dry_run boolean default true)
returns jsonb
language sql
set search_path = ''
as $$
  select private.replay_my_events(filter, subscription, dry_run);
$$;
comment on function public.replay_events is 'Deliver again what failed (filter: event_ids, types, statuses, since, until, site, contact_id); a dry run unless told otherwise.';
grant execute on function public.replay_events to authenticated, service_role;
