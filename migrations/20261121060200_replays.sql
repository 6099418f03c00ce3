-- Replays: what was asked, what came of it; and shadow runs, which decide about past events without effects.
--
-- A replay is a row and its deliveries point to it, so its progress is a count and a kill changes nothing. A shadow
-- delivery is claimed like any other, after all live ones; what it would have changed stays in its result.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- Functions that run as their caller refuse in the same words as those that do not.
grant execute on function private.fail, private.uuid_v7_floor, private.canonical_type, private.canonical_types to authenticated, service_role;

create table public.replays (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null references public.organizations (id),
  mode         public.delivery_mode not null,
  filter       jsonb not null,
  subscription text,
  version_id   uuid,
  asked_by     uuid,
  matched      integer not null,
  created_at   timestamptz not null default now(),

  constraint replays_of_org unique (org_id, id),
  constraint replays_version foreign key (org_id, version_id) references public.agent_versions (org_id, id) on delete cascade
);
comment on table public.replays is 'Who put what back in line, or had a version decide about the past.';
create index replays_list_idx on public.replays (org_id, id desc);
create index replays_version_idx on public.replays (org_id, version_id);

alter table public.deliveries
  add column replay_id uuid,
  add column version_id uuid,
  add constraint deliveries_replay foreign key (org_id, replay_id) references public.replays (org_id, id) not valid,
  add constraint deliveries_version foreign key (org_id, version_id) references public.agent_versions (org_id, id) on delete cascade not valid;
comment on column public.deliveries.replay_id is 'The last replay that put it in line.';
comment on column public.deliveries.version_id is 'The version that shall decide; without one, the published.';

create unique index deliveries_once_per_rehearsal on public.deliveries (replay_id, event_id, subscription_id) where mode = 'shadow';
create index deliveries_replay_idx on public.deliveries (org_id, replay_id) where replay_id is not null;
create index deliveries_version_idx on public.deliveries (org_id, version_id) where version_id is not null;
create index deliveries_given_up_idx on public.deliveries (org_id, subscription_id, id) where status in ('failed', 'dead');
-- A rehearsal of ten thousand events must not stand before one live delivery.
drop index public.deliveries_due_idx;
create index deliveries_due_idx on public.deliveries (subscription_id, run_at) where status in ('pending', 'failed') and mode = 'live';
create index deliveries_rehearsed_idx on public.deliveries (subscription_id, run_at) where status in ('pending', 'failed') and mode = 'shadow';

alter table public.replays enable row level security;
alter table public.replays force row level security;
grant select on public.replays to authenticated, service_role;
create policy "members read replays" on public.replays for select to authenticated
  using (org_id in (select private.my_orgs('deliveries.read')));

-- Every step of it goes by an index and takes few rows, which the planner cannot know of a batch whose size is an
-- argument: it planned anew for each call, at several times the price of the call, or read whole tables into hashes.
create or replace function hub.claim_deliveries(target text, batch_size integer default 10, lease_seconds integer default 20)
returns jsonb
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $$
declare
  batch jsonb;
  wanted integer := least(claim_deliveries.batch_size, 100);
begin
  with willing as (
    select willing_subscriptions.id
    from private.willing_subscriptions
    where willing_subscriptions.target = claim_deliveries.target
    -- No tenant's backlog goes always first.
    order by random()
  ),
  live as (
    select next.id
    from willing
    cross join lateral (
      select deliveries.id
      from public.deliveries
      where deliveries.subscription_id = willing.id
        and deliveries.status in ('pending', 'failed')
        and deliveries.mode = 'live'
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
      where deliveries.subscription_id = willing.id
        and deliveries.status in ('pending', 'failed')
        and deliveries.mode = 'shadow'
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
        leased_until = clock_timestamp() + make_interval(secs => least(claim_deliveries.lease_seconds, 600))
    from (select live.id from live union all select rehearsed.id from rehearsed) as due
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
  left join public.contacts as given on given.id = events.contact_id
  left join public.contacts on contacts.id = coalesce(given.merged_into, given.id)
  -- As private.contact_family, which costs more than all the rest of a row here.
  cross join lateral (
    select contacts.id || array(
      select merged.id from public.contacts as merged where merged.org_id = contacts.org_id and merged.merged_into = contacts.id) as ids
    -- Made once, not wherever it is used.
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
        -- By the index of the contact: that of the type would be read from its beginning.
        and (before.type = events.type) is true
      limit 50
    ) as seen
  ) as history
  -- What was remembered before this happened: a replay and a rehearsal see what the first handling saw, or less.
  left join lateral (
    select jsonb_object_agg(agent_memory.key, agent_memory.value order by agent_memory.source_event_id nulls first) as facts
    from public.agent_memory
    where agent_memory.agent_id = agents.id
      and agent_memory.subject_type = 'contact'
      and agent_memory.subject_id = any (family.ids)
      and coalesce(agent_memory.source_event_id < events.id, true)
      and coalesce(agent_memory.expires_at, 'infinity') > now()
  ) as memory on true;
  return batch;
end;
$$;

create function private.due_targets(for_at_least interval default '0')
returns setof text
language sql
stable
set search_path = ''
as $$
  select distinct willing.target
  from private.willing_subscriptions as willing
  where exists (
      select from public.deliveries
      where deliveries.subscription_id = willing.id and deliveries.status in ('pending', 'failed')
        and deliveries.mode = 'live' and deliveries.run_at <= now() - for_at_least)
    or exists (
      select from public.deliveries
      where deliveries.subscription_id = willing.id and deliveries.status in ('pending', 'failed')
        and deliveries.mode = 'shadow' and deliveries.run_at <= now() - for_at_least);
$$;
comment on function private.due_targets is 'Whoever has deliveries that have been due so long.';

create or replace function private.sweep_deliveries()
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  expired record;
  lapsed integer := 0;
  kicked integer;
begin
  for expired in
    select deliveries.id, deliveries.org_id, deliveries.attempts, deliveries.claimed_at, subscriptions.max_attempts, subscriptions.retry_base
    from public.deliveries
    join public.subscriptions on subscriptions.id = deliveries.subscription_id
    where deliveries.status = 'running' and deliveries.leased_until < now()
    order by deliveries.id
    limit 1000
    for update of deliveries skip locked
  loop
    lapsed := lapsed + 1;
    begin
      insert into public.delivery_attempts (org_id, delivery_id, attempt, outcome, error, started_at)
      values (expired.org_id, expired.id, expired.attempts, 'lapsed', 'the lease ran out', expired.claimed_at);
      if expired.attempts >= expired.max_attempts then
        perform private.bury_delivery(expired.id, 'the lease ran out ' || expired.attempts || ' times');
      else
        update public.deliveries
        set status = 'failed', lease_token = null, leased_until = null, last_error = 'the lease ran out',
            run_at = case when expired.attempts = 1 then now() else private.retry_at(expired.attempts, expired.retry_base, 0) end
        where deliveries.id = expired.id;
      end if;
    exception when others then
      -- One that cannot be taken back must not keep the others.
      raise warning 'delivery % could not be taken back: %', expired.id, sqlstate;
    end;
  end loop;

  select count(*) filter (where private.kick(waiting.target)) into kicked from private.due_targets() as waiting (target);
  return jsonb_build_object('lapsed', lapsed, 'kicked', kicked);
end;
$$;

drop function public.replay_events(jsonb, text, boolean);
drop function private.replay_my_events(jsonb, text, boolean);
drop function private.replay_deliveries(uuid[], jsonb, text, boolean);

create type private.replay_filter as (
  event_ids uuid[], types text[], statuses public.delivery_status[], since uuid, until uuid, site_ids uuid[], contact_ids uuid[],
  replayed_before timestamptz, most integer);
comment on type private.replay_filter is 'Which events are meant, within one organization; null where anything is.';

create function private.read_replay_filter(org_id uuid, filter jsonb)
returns private.replay_filter
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_column
declare
  unknown text;
  meant private.replay_filter;
begin
  select key into unknown from jsonb_object_keys(filter) as key
  where key not in ('event_ids', 'types', 'statuses', 'since', 'until', 'site', 'contact_id', 'replayed_before', 'limit') limit 1;
  if unknown is not null then
    perform private.fail(422, 'unknown_filter', 'There is no filter ' || unknown || '.');
  end if;
  -- What waits or runs is never replayed.
  meant.statuses := array(
    select jsonb_array_elements_text(coalesce(filter -> 'statuses', '["failed", "dead"]')) except values ('pending'), ('running'));
  meant.since := private.uuid_v7_floor((filter ->> 'since')::timestamptz);
  meant.until := private.uuid_v7_floor((filter ->> 'until')::timestamptz);
  meant.replayed_before := filter ->> 'replayed_before';
  meant.most := filter ->> 'limit';
  if meant.most < 1 then
    perform private.fail(422, 'unreadable_filter', 'The limit is 1 or more.');
  end if;
  if filter ? 'event_ids' then
    meant.event_ids := array(select jsonb_array_elements_text(filter -> 'event_ids'));
  end if;
  if filter ? 'types' then
    meant.types := private.canonical_types(array(select jsonb_array_elements_text(filter -> 'types')));
  end if;
  if filter ? 'site' then
    meant.site_ids := array(
      select sites.id from public.sites where sites.org_id = read_replay_filter.org_id and sites.slug = filter ->> 'site');
  end if;
  if filter ? 'contact_id' then
    meant.contact_ids := private.contact_family((filter ->> 'contact_id')::uuid);
  end if;
  return meant;
exception when data_exception then
  perform private.fail(422, 'unreadable_filter', 'The filter cannot be read: ' || sqlerrm || '.');
end;
$$;
comment on function private.read_replay_filter is 'The filter of a request: only failed deliveries unless it names statuses, a person with those merged into them. A filter that would silently not filter is refused.';
grant execute on function private.read_replay_filter to authenticated, service_role;

create function private.read_event_filter(org_id uuid, filter jsonb)
returns private.replay_filter
language plpgsql
stable
set search_path = ''
as $$
begin
  if filter ?| '{statuses,replayed_before}' then
    perform private.fail(422, 'unknown_filter', 'A shadow run takes events as they came, whatever became of their deliveries.');
  end if;
  return private.read_replay_filter(org_id, filter);
end;
$$;
comment on function private.read_event_filter is 'The filter of a shadow run, or of what compares two.';
grant execute on function private.read_event_filter to authenticated, service_role;

create function private.chosen_for_replay(org_id uuid, meant private.replay_filter, subscription text, most integer)
returns setof uuid
language plpgsql
stable
set search_path = ''
-- A plan for what is asked: for one event it is another than for all of a month.
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  select deliveries.id
  from public.deliveries
  join public.events on events.id = deliveries.event_id
  join public.subscriptions on subscriptions.id = deliveries.subscription_id
  where deliveries.org_id = chosen_for_replay.org_id
    and deliveries.mode = 'live'
    and deliveries.status = any (meant.statuses)
    and (chosen_for_replay.subscription is null or subscriptions.name = chosen_for_replay.subscription)
    and (meant.event_ids is null or deliveries.event_id = any (meant.event_ids))
    and (meant.types is null or events.type = any (meant.types))
    and (meant.since is null or deliveries.event_id >= meant.since)
    and (meant.until is null or deliveries.event_id < meant.until)
    and (meant.site_ids is null or events.site_id = any (meant.site_ids))
    and (meant.contact_ids is null or events.contact_id = any (meant.contact_ids))
    and (meant.replayed_before is null or not exists (
      select from public.replays where replays.id = deliveries.replay_id and replays.created_at >= meant.replayed_before))
  order by deliveries.id
  limit least(meant.most, most);
end;
$$;
comment on function private.chosen_for_replay is 'The deliveries that a filter means, the oldest of them first.';

create function private.replay_deliveries(org_id uuid, filter jsonb, subscription text, dry_run boolean)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  -- What one request can do before REST gives up on it; whoever asks again gets the next.
  most constant integer := 5000;
  chosen uuid[];
  replay uuid;
  wishes uuid[];
  matched integer;
  is_all boolean;
  meant constant private.replay_filter := private.read_replay_filter(org_id, filter);
begin
  if dry_run then
    return (
      select jsonb_build_object('matched', count(*), 'more', count(*) = 100000)
      from private.chosen_for_replay(replay_deliveries.org_id, meant, replay_deliveries.subscription, 100000));
  end if;
  chosen := array(select private.chosen_for_replay(replay_deliveries.org_id, meant, replay_deliveries.subscription, most));
  if cardinality(chosen) = 0 then
    return jsonb_build_object('matched', 0);
  end if;

  is_all := cardinality(chosen) < most;
  insert into public.replays (org_id, mode, filter, subscription, asked_by, matched)
  values (replay_deliveries.org_id, 'live', filter, replay_deliveries.subscription, (select auth.uid()), cardinality(chosen))
  returning id into replay;
  -- Asked again: meanwhile one of them may have been done, and was not asked for then.
  with replayed as (
    update public.deliveries
    set status = 'pending', attempts = 0, run_at = now(), replay_id = replay
    where deliveries.id = any (chosen) and deliveries.status = any (meant.statuses)
    returning deliveries.id, deliveries.subscription_id
  )
  select array_agg(replayed.id), array_agg(distinct replayed.subscription_id), count(*) into chosen, wishes, matched from replayed;
  update public.alerts set closed_at = now()
  where alerts.org_id = replay_deliveries.org_id and alerts.kind = 'delivery_dead' and alerts.closed_at is null
    and alerts.subject in (select id::text from unnest(chosen) as id);
  perform private.write_audit(replay_deliveries.org_id, 'replay', 'deliveries', coalesce(replay_deliveries.subscription, '*'), null,
    jsonb_build_object('replay_id', replay, 'filter', filter, 'deliveries', matched));
  perform private.kick(waiting.target)
  from (select distinct target from private.willing_subscriptions where id = any (wishes)) as waiting;
  return jsonb_build_object('matched', matched, 'replay_id', replay, 'more', not is_all);
end;
$$;
comment on function private.replay_deliveries is 'Put deliveries back in line. Effects that happened do not happen again.';

create function private.rehearse_events(org_id uuid, filter jsonb, subscription text, version integer, dry_run boolean)
returns jsonb
language plpgsql
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  wish public.subscriptions;
  brain uuid;
  chosen uuid[];
  replay uuid;
  meant constant private.replay_filter := private.read_event_filter(org_id, filter);
begin
  select * into wish from public.subscriptions
  where subscriptions.org_id = rehearse_events.org_id and subscriptions.name = rehearse_events.subscription
    and subscriptions.agent_id is not null;
  if not found then
    return null;
  end if;
  select id into brain from public.agent_versions as versions
  where versions.agent_id = wish.agent_id
    and case when rehearse_events.version is null then versions.status = 'published' else versions.version = rehearse_events.version end;
  if brain is null then
    perform private.fail(404, 'unknown_version', 'This agent has no such version.');
  end if;

  chosen := array(
    select events.id
    from public.events
    where events.org_id = rehearse_events.org_id
      and private.wants(wish.event_types, events.type)
      and (events.cause_id is null or not private.has_acted_on_cause(events.cause_id, wish.id))
      and (meant.event_ids is null or events.id = any (meant.event_ids))
      and (meant.types is null or events.type = any (meant.types))
      and (meant.since is null or events.id >= meant.since)
      and (meant.until is null or events.id < meant.until)
      and (meant.site_ids is null or events.site_id = any (meant.site_ids))
      and (meant.contact_ids is null or events.contact_id = any (meant.contact_ids))
    order by events.id desc
    limit least(coalesce(meant.most, 1000), 10000));
  if dry_run or cardinality(chosen) = 0 then
    return jsonb_build_object('matched', cardinality(chosen));
  end if;

  insert into public.replays (org_id, mode, filter, subscription, version_id, asked_by, matched)
  values (rehearse_events.org_id, 'shadow', filter, wish.name, brain, (select auth.uid()), cardinality(chosen))
  returning id into replay;
  insert into public.deliveries (org_id, event_id, subscription_id, mode, replay_id, version_id)
  select wish.org_id, event_id, wish.id, 'shadow', replay, brain from unnest(chosen) as event_id;
  perform private.kick(willing.target) from private.willing_subscriptions as willing where willing.id = wish.id;
  return jsonb_build_object('matched', cardinality(chosen), 'replay_id', replay);
end;
$$;
comment on function private.rehearse_events is 'Let a version of an agent decide about past events, without effects: the latest 1000 unless the filter has a limit, 10000 at most. Null where no agent has such a subscription.';

-- security definer: who may replay is asked here, by the caller's own permission.
create function private.replay_my_events(filter jsonb, subscription text, mode text, version integer, dry_run boolean)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  organization uuid;
  organizations uuid[] := '{}';
  replayed jsonb;
  ids jsonb := '[]';
  matched integer := 0;
  is_known boolean := false;
  more boolean := false;
begin
  if mode not in ('live', 'shadow') then
    perform private.fail(422, 'unknown_mode', 'The mode is live or shadow.');
  end if;
  if mode = 'live' and version is not null then
    perform private.fail(422, 'version_in_live_mode', 'Live deliveries are handled by the published version.');
  end if;

  for organization in
    select organizations.id from public.organizations where (select auth.role()) = 'service_role'
    union
    select private.my_orgs('events.replay')
  loop
    organizations := organizations || organization;
    replayed := case mode
      when 'live' then private.replay_deliveries(organization, filter, subscription, dry_run)
      else private.rehearse_events(organization, filter, subscription, version, dry_run) end;
    matched := matched + coalesce((replayed ->> 'matched')::integer, 0);
    is_known := is_known or replayed is not null;
    more := more or coalesce((replayed ->> 'more')::boolean, false);
    ids := ids || coalesce(replayed -> 'replay_id', '[]');
  end loop;
  if organization is null then
    perform private.fail(403, 'not_permitted', 'Your role may not replay events.');
  end if;
  if not is_known then
    perform private.fail(422, 'unknown_subscription', 'A shadow run needs the name of an agent''s subscription.');
  end if;
  -- Else a name that is mistyped would look like nothing to do.
  if subscription is not null and not exists (
    select from public.subscriptions
    where subscriptions.org_id = any (organizations) and subscriptions.name = replay_my_events.subscription)
  then
    perform private.fail(422, 'unknown_subscription', format('You have no subscription %s.', subscription));
  end if;
  if filter ? 'site' and not exists (
    select from public.sites where sites.org_id = any (organizations) and sites.slug = filter ->> 'site')
  then
    perform private.fail(422, 'unknown_site', format('You have no site %s.', filter ->> 'site'));
  end if;
  return jsonb_build_object(
    'matched', matched, 'more', more, 'began', now(), 'dry_run', dry_run, 'mode', mode, 'replay_ids', ids);
end;
$$;
comment on function private.replay_my_events is 'Replay within the caller''s organizations.';
grant execute on function private.replay_my_events to authenticated, service_role;

create function public.replay_events(
  filter jsonb default '{}', subscription text default null, mode text default 'live', version integer default null, dry_run boolean default true)
returns jsonb
language sql
set search_path = ''
as $$
  -- Null is what nobody said: it never means to do it.
  select private.replay_my_events(coalesce(filter, '{}'), subscription, coalesce(mode, 'live'), version, coalesce(dry_run, true));
$$;
comment on function public.replay_events is 'Deliver again what failed, or (mode shadow) let a version decide about past events without effects. Filter: event_ids, types, statuses, since, until, site, contact_id, replayed_before, limit. At most 5000 at once: while more is true, ask again, with the first answer''s began as replayed_before. A dry run unless told otherwise.';
grant execute on function public.replay_events to authenticated, service_role;

create function public.replay_progress(replay_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  replay public.replays;
begin
  select * into replay from public.replays where replays.id = replay_progress.replay_id;
  if not found then
    perform private.fail(404, 'unknown_replay', 'There is no such replay.');
  end if;
  return (
    with its as (
      select deliveries.* from public.deliveries
      where deliveries.org_id = replay.org_id and deliveries.replay_id = replay.id
    )
    select jsonb_build_object(
      'replay_id', replay.id, 'mode', replay.mode, 'matched', replay.matched,
      'done', count(*) filter (where its.status in ('done', 'skipped')),
      'waiting', count(*) filter (where its.status in ('pending', 'running', 'failed')),
      'dead', count(*) filter (where its.status = 'dead'),
      'is_over', count(*) filter (where its.status in ('pending', 'running', 'failed')) = 0,
      'failed', coalesce((
        select jsonb_agg(jsonb_build_object(
          'delivery_id', worst.id, 'event_id', worst.event_id, 'status', worst.status, 'attempts', worst.attempts, 'error', worst.last_error))
        from (select * from its where its.status in ('failed', 'dead') order by its.id limit 100) as worst), '[]'))
    from its);
end;
$$;
comment on function public.replay_progress is 'How far a replay is, and the first hundred that failed.';
grant execute on function public.replay_progress to authenticated, service_role;

create function private.rehearsed(agent_id uuid, version integer)
returns table (event_id uuid, decision text, score integer, confidence numeric, reasons text[])
language sql
stable
set search_path = ''
as $$
  select distinct on (deliveries.event_id)
    deliveries.event_id,
    deliveries.result #>> '{effects,action,decision}',
    (deliveries.result #>> '{effects,lead,score}')::integer,
    (deliveries.result #>> '{effects,action,confidence}')::numeric,
    array(select jsonb_array_elements_text(coalesce(deliveries.result #> '{effects,action,reasons}', '[]')))
  from public.agent_versions as versions
  join public.deliveries on deliveries.org_id = versions.org_id and deliveries.version_id = versions.id
  where versions.agent_id = rehearsed.agent_id and versions.version = rehearsed.version
    and deliveries.mode = 'shadow' and deliveries.status = 'done'
  order by deliveries.event_id, deliveries.id desc;
$$;
comment on function private.rehearsed is 'What a version decided in its latest shadow run about each event.';
grant execute on function private.rehearsed to authenticated, service_role;

create function public.compare_versions(agent text, a integer, b integer, filter jsonb default '{}', org_id uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  compared constant public.agents := private.agent_named(compare_versions.agent, compare_versions.org_id, 'agents.read');
  meant constant private.replay_filter := private.read_event_filter(compared.org_id, filter);
begin
  return (
    with pairs as (
      select
        events.id as event_id, events.type, contacts.name as contact,
        before.decision as was, after.decision as would_be, before.score as score, after.score as new_score,
        array(select unnest(before.reasons) except select unnest(after.reasons)) as reasons_gone,
        array(select unnest(after.reasons) except select unnest(before.reasons)) as reasons_new
      from private.rehearsed(compared.id, a) as before
      join private.rehearsed(compared.id, b) as after on after.event_id = before.event_id
      join public.events on events.id = before.event_id
      left join public.contacts on contacts.id = events.contact_id
      where (meant.event_ids is null or events.id = any (meant.event_ids))
        and (meant.types is null or events.type = any (meant.types))
        and (meant.since is null or events.id >= meant.since)
        and (meant.until is null or events.id < meant.until)
        and (meant.site_ids is null or events.site_id = any (meant.site_ids))
        and (meant.contact_ids is null or events.contact_id = any (meant.contact_ids))
    ),
    changed as (
      select * from pairs where (was, score) is distinct from (would_be, new_score) order by event_id desc
    )
    select jsonb_build_object(
      'agent', compare_versions.agent, 'a', a, 'b', b,
      'compared', (select count(*) from pairs),
      'changed', (select count(*) from changed),
      'decisions', (
        select coalesce(jsonb_agg(jsonb_build_object('from', moved.was, 'to', moved.would_be, 'count', moved.count) order by moved.count desc), '[]')
        from (select was, would_be, count(*) from changed where was is distinct from would_be group by was, would_be) as moved),
      'changes', (
        select coalesce(jsonb_agg(to_jsonb(shown)), '[]')
        from (select * from changed limit coalesce(meant.most, 100)) as shown)));
end;
$$;
comment on function public.compare_versions is 'Which decisions of the latest shadow runs differ between two versions of an agent, and why.';
grant execute on function public.compare_versions to authenticated, service_role;

create function private.prune_rehearsals()
returns void
language plpgsql
set search_path = ''
as $$
begin
  delete from public.deliveries using public.replays
  where deliveries.org_id = replays.org_id and deliveries.replay_id = replays.id and deliveries.mode = 'shadow'
    and replays.mode = 'shadow' and replays.created_at < now() - interval '30 days';
  delete from public.replays where replays.mode = 'shadow' and replays.created_at < now() - interval '30 days';
end;
$$;
comment on function private.prune_rehearsals is 'Remove shadow runs that nobody compares any more.';
select cron.schedule('prune_rehearsals', '50 3 * * *', $$select private.prune_rehearsals()$$);
