-- Checks of pulls: stale sources, failed items, and items that a push should have brought.

create function private.check_pull_stale(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select
    sources.name, 'warning'::public.alert_severity,
    format('Nothing could be pulled from %s since %s UTC.', sources.name, to_char(since.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')),
    jsonb_build_object('last_success_at', sources.last_success_at, 'every', sources.every),
    sources.site_id
  from public.pull_sources as sources
  join public.sites on sites.id = sources.site_id and sites.enabled
  cross join lateral (select coalesce(sources.last_success_at, sources.created_at) as at) as since
  where sources.org_id = check_pull_stale.org_id and sources.enabled
    and since.at < check_pull_stale.at - coalesce((config ->> 'stale_after_intervals')::numeric, 3) * sources.every;
end;
$$;
comment on function private.check_pull_stale is 'Pull sources that had no success for several of their intervals.';

create function private.check_pull_failed(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select
    sources.name, 'warning'::public.alert_severity,
    case when waiting.open > 0 then format('%s items wait for a decision (pull_failures).', waiting.open)
         else format('%s items wait to be read again (pull_failures).', waiting.retry) end,
    jsonb_build_object('source', sources.name, 'open', waiting.open, 'retry', waiting.retry, 'since', waiting.since),
    sources.site_id
  from public.pull_sources as sources
  cross join lateral (
    select count(*) filter (where failures.status = 'open') as open, count(*) filter (where failures.status = 'retry') as retry,
           min(failures.created_at) as since
    from public.pull_failures as failures
    where failures.org_id = sources.org_id and failures.source_id = sources.id and failures.status in ('open', 'retry')
  ) as waiting
  where sources.org_id = check_pull_failed.org_id and waiting.open + waiting.retry > 0;
end;
$$;
comment on function private.check_pull_failed is 'Pull sources of which items could not be recorded, until each is recorded or dismissed.';

create function private.check_pull_gaps(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select
    sources.name, 'warning'::public.alert_severity,
    format('%s submissions of %s came only by pull within the last hour: its push loses them.', missed.count, sites.name),
    jsonb_build_object('source', sources.name, 'missed', missed.count, 'gaps', sources.gaps),
    sources.site_id
  from public.pull_sources as sources
  join public.sites on sites.id = sources.site_id and sites.enabled
  cross join lateral (
    select count(*) as count
    from (
      select from public.events
      where events.org_id = sources.org_id and events.site_id = sources.site_id and events.source = 'pull:' || sources.name
        and events.id >= private.uuid_v7_floor(greatest(check_pull_gaps.at - interval '1 hour', sources.gaps_since))
        and events.id < private.uuid_v7_floor(check_pull_gaps.at)
      limit 20000
    ) as latest
  ) as missed
  where sources.org_id = check_pull_gaps.org_id and sources.enabled and sources.pushes and sources.gaps_since is not null
    and missed.count >= coalesce((config ->> 'gaps_min')::integer, 5);
end;
$$;
comment on function private.check_pull_gaps is 'Sites whose push should have brought items that only their pull did.';
