-- Status of sites, and of the lists that are pulled from them.

create function private.site_components(org_id uuid)
returns setof private.component
language sql stable set search_path = ''
as $$
  select
    'site', sites.slug,
    case
      when not sites.enabled or secrets.known is null then 'not configured'
      when wrong.messages is not null then 'degraded'
      when latest.at is null then 'not configured'
      when unknown.message is not null then 'degraded'
      else 'ok'
    end,
    case
      when not sites.enabled then 'It is switched off.'
      when secrets.known is null then 'It has no secret to prove itself with.'
      when wrong.messages is not null then wrong.messages
      when latest.at is null then 'Nothing has come from it yet.'
      else 'Its last submission came at ' || to_char(latest.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC.'
    end
    || coalesce(' ' || unknown.message, '')
    || case when secrets.is_weak then ' It may prove itself with a static secret, which is weak: make a signing one with private.new_site_secret.' else '' end
  from public.sites
  left join lateral (select private.last_arrival(sites, now()) as at) as latest on true
  left join lateral (
    select true as known, bool_or(site_secret_kinds.is_weak) as is_weak
    from private.site_secret_kinds
    where site_secret_kinds.site_id = sites.id
      -- A key for pages helps none of them without an origin.
      and (site_secret_kinds.kind <> 'page' or sites.allowed_origins <> '{}')
    having count(*) > 0
  ) as secrets on true
  left join lateral (
    select left(string_agg(alerts.message, ' ' order by alerts.severity desc, alerts.id), 1000) as messages
    from public.alerts
    where alerts.org_id = sites.org_id and alerts.site_id = sites.id and alerts.closed_at is null
      and alerts.kind <> 'kind_unknown'
  ) as wrong on true
  left join private.check_kind_unknown(site_components.org_id, '{}', now()) as unknown on unknown.subject = sites.slug
  where sites.org_id = site_components.org_id;
$$;
comment on function private.site_components is 'The sites of an organization and how they are.';

create function private.pull_components(org_id uuid)
returns setof private.component
language sql stable set search_path = ''
as $$
  select
    'pull', sources.name,
    case
      when not sources.enabled or not sites.enabled or sources.last_started_at is null then 'not configured'
      when sources.last_error is not null or stale.message is not null or failed.message is not null or gaps.message is not null then 'degraded'
      else 'ok'
    end,
    case
      when not sources.enabled then 'It is switched off.'
      when not sites.enabled then 'Its site is switched off.'
      when sources.last_started_at is null then 'It was never pulled.'
      when sources.last_error is not null then format('The last %s pulls failed: it %s.', sources.failures, sources.last_error)
      when stale.message is not null then stale.message
      when failed.message is not null or gaps.message is not null then concat_ws(' ', failed.message, gaps.message)
      when sources.watermark is null then 'It is being read for the first time.'
      else format('Everything until %s UTC is here.', to_char(sources.watermark at time zone 'UTC', 'YYYY-MM-DD HH24:MI'))
    end
    || case when sources.pushes and sources.gaps > 0 then format(' %s of its items came by no push so far.', sources.gaps) else '' end
  from public.pull_sources as sources
  join public.sites on sites.id = sources.site_id
  left join private.check_pull_stale(pull_components.org_id, '{}', now()) as stale on stale.subject = sources.name
  left join private.check_pull_failed(pull_components.org_id, '{}', now()) as failed on failed.subject = sources.name
  left join private.check_pull_gaps(pull_components.org_id, '{}', now()) as gaps on gaps.subject = sources.name
  where sources.org_id = pull_components.org_id;
$$;
comment on function private.pull_components is 'The lists that are pulled and how they are.';
