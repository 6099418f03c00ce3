-- One pull of a source at a time, under a lease: claimed, and given back.

-- security definer: hub_service may touch no table itself.
create function hub.claim_pull(lease_seconds integer default 50)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  source public.pull_sources;
begin
  select pull_sources.* into source
  from public.pull_sources
  where pull_sources.id in (select due_pulls.id from private.due_pulls())
    -- Asked again of the row that is locked: another pull may have taken it meanwhile.
    and pull_sources.next_at <= now() + interval '30 seconds'
    and coalesce(pull_sources.leased_until, '-infinity') < now()
  order by pull_sources.next_at
  limit 1
  for update skip locked;
  if not found then
    return null;
  end if;

  update public.pull_sources
  set lease_token = gen_random_uuid(),
      leased_until = clock_timestamp() + make_interval(secs => least(claim_pull.lease_seconds, 600)),
      last_started_at = clock_timestamp(),
      -- A pull that dies must not keep the others waiting behind it for ever.
      next_at = clock_timestamp() + interval '1 minute'
  where pull_sources.id = source.id
  returning * into source;

  return jsonb_build_object(
    'id', source.id, 'lease_token', source.lease_token, 'name', source.name, 'url', source.url,
    'paging', source.paging, 'page_size', source.page_size, 'mapping', source.mapping, 'id_prefix', source.id_prefix,
    'cursor', source.cursor,
    'phone_region', (select sites.phone_region from public.sites where sites.id = source.site_id),
    'token', (select private.plain_key(secrets.id) from vault.secrets where secrets.name = 'pull_source:' || source.id),
    'retries', coalesce((
      select jsonb_agg(again.item order by again.id)
      from (
        select pull_failures.id, pull_failures.item
        from public.pull_failures
        where pull_failures.org_id = source.org_id and pull_failures.source_id = source.id and pull_failures.status = 'retry'
        order by pull_failures.id
        limit 100
      ) as again
    ), '[]'));
end;
$$;
comment on function hub.claim_pull is 'Take the source that has been due longest under a lease, with all that is needed to pull it; null when none is due.';
grant execute on function hub.claim_pull to hub_service;

-- security definer: hub_service may touch no table itself.
create function hub.release_pull(
  source_id uuid,
  lease_token uuid,
  is_complete boolean,
  error text default null,
  retry_after_seconds numeric default null)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  update public.pull_sources
  set lease_token = null,
      leased_until = null,
      last_error = left(release_pull.error, 500),
      failures = case when release_pull.error is null then 0 else pull_sources.failures + 1 end,
      next_at = case
        when release_pull.error is not null then clock_timestamp() + greatest(
          make_interval(secs => greatest(0, least(coalesce(retry_after_seconds, 0), 86400))),
          least(pull_sources.every, interval '1 minute' * power(2, least(pull_sources.failures, 12))))
        when is_complete then pull_sources.last_started_at + pull_sources.every
        -- The next tick goes on.
        else clock_timestamp() + interval '45 seconds' end
  where pull_sources.id = release_pull.source_id
    and pull_sources.lease_token = release_pull.lease_token;
  return jsonb_build_object('is_ours', found);
end;
$$;
comment on function hub.release_pull is 'Give a source back, and say when it is due again: after its time, at the next tick when there is more, later when it failed.';
grant execute on function hub.release_pull to hub_service;

create function private.due_pulls()
returns setof public.pull_sources
language sql stable set search_path = ''
as $$
  select pull_sources.*
  from public.pull_sources
  join public.sites on sites.id = pull_sources.site_id and sites.enabled
  join public.organizations on organizations.id = pull_sources.org_id and organizations.closed_at is null
  where pull_sources.enabled
    -- The clock ticks once a minute: a source that is due before the next tick is due now.
    and pull_sources.next_at <= now() + interval '30 seconds'
    and coalesce(pull_sources.leased_until, '-infinity') < now();
$$;
comment on function private.due_pulls is 'The sources that should be pulled now, and that nobody is pulling.';

create function private.kick_pulls()
returns bigint
language sql set search_path = ''
as $$
  select private.invoke('pull-site') where exists (select from private.due_pulls());
$$;
comment on function private.kick_pulls is 'Kick pull-site when a source is due; cron calls this.';
