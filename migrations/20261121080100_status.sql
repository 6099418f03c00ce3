-- Status: each site, agent, job, pull and outgoing webhook as ok, degraded or not configured, computed, never typed.
--
-- What only the functions know (which of them answer, which providers they have keys for) the function `status` adds.

set lock_timeout = '5s';
set statement_timeout = '60s';

create type private.component as (kind text, name text, state text, reason text);
comment on type private.component is 'A part of the hub and how it is: ok, degraded or not configured.';

create function private.site_components(org_id uuid)
returns setof private.component
language sql
stable
set search_path = ''
as $$
  select
    'site', sites.slug,
    case
      when not sites.enabled or ways.known is null then 'not configured'
      when wrong.messages is not null then 'degraded'
      when latest.at is null then 'not configured'
      when unknown.message is not null then 'degraded'
      else 'ok'
    end,
    case
      when not sites.enabled then 'It is switched off.'
      when ways.known is null then 'It has no secret to sign in with.'
      when wrong.messages is not null then wrong.messages
      when latest.at is null then 'Nothing has come from it yet.'
      else 'Its last submission came at ' || to_char(latest.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC.'
    end
    || coalesce(' ' || unknown.message, '')
    || case when ways.is_weak then ' It may sign in with a static secret, which is weak: make a signing one with private.new_site_secret.' else '' end
  from public.sites
  left join lateral (select private.last_arrival(sites, now()) as at) as latest on true
  left join lateral (
    select true as known, bool_or(site_sign_ins.is_weak) as is_weak
    from private.site_sign_ins
    where site_sign_ins.site_id = sites.id
      -- A key for pages helps none of them without an origin.
      and (site_sign_ins.kind <> 'page' or sites.allowed_origins <> '{}')
    having count(*) > 0
  ) as ways on true
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

create function private.agent_components(org_id uuid)
returns setof private.component
language sql
stable
set search_path = ''
as $$
  select
    'agent', coalesce(agents.name, replace(known.kind, '_', '-')),
    case
      when agents.id is null or versions.id is null or wishes.count = 0 then 'not configured'
      when agents.status in ('paused', 'blocked') or agents.autonomy = 'off' or wishes.willing = 0 or work.dead > 0 or work.waited > interval '1 minute' then 'degraded'
      else 'ok'
    end,
    case
      when agents.id is null then 'There is no agent of this kind.'
      when versions.id is null then 'No version of it is published.'
      when wishes.count = 0 then 'Nothing is brought to it: it has no subscription.'
      when agents.status in ('paused', 'blocked') then format('It is %s.', agents.status)
      when agents.autonomy = 'off' then 'It is switched off.'
      when everything.is_paused then 'Everything is paused (system_controls).'
      when wishes.willing = 0 then 'Its subscription or its organization is paused.'
      when work.dead > 0 then format('%s deliveries are given up and wait for a replay.', work.dead)
      when work.waited > interval '1 minute' then format('Work has waited for %s seconds.', extract(epoch from work.waited)::integer)
      else format('Version %s decides%s.', versions.version, case when agents.autonomy = 'auto' then '' else ', and a person reviews' end)
    end
  from (values ('lead_qualifier'), ('data_monitor'), ('email_responder'), ('voice_intake'), ('campaign_dialer')) as known (kind)
  full join (select * from public.agents where agents.org_id = agent_components.org_id) as agents on agents.kind = known.kind
  cross join (
    select exists (select from public.system_controls where system_controls.name = 'global_pause' and system_controls.is_on) as is_paused
  ) as everything
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  left join lateral (
    select count(*) as count, count(willing.id) as willing
    from public.subscriptions
    left join private.willing_subscriptions as willing on willing.id = subscriptions.id
    where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id
  ) as wishes on true
  left join lateral (
    select
      (select count(*)
       from (
         select from public.subscriptions
         join public.deliveries
           on deliveries.org_id = subscriptions.org_id and deliveries.subscription_id = subscriptions.id and deliveries.status = 'dead'
           and deliveries.mode = 'live'
         where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id
         limit 1000
       ) as first_thousand) as dead,
      (select now() - min(due.run_at)
       from public.subscriptions
       cross join lateral (
         select deliveries.run_at from public.deliveries
         where deliveries.subscription_id = subscriptions.id and deliveries.status in ('pending', 'failed') and deliveries.mode = 'live'
         order by deliveries.run_at
         limit 1
       ) as due
       where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id) as waited
  ) as work on true;
$$;
comment on function private.agent_components is 'The agents of an organization, and the kinds it has none of.';

create function private.job_components(org_id uuid)
returns setof private.component
language sql
volatile
set search_path = ''
as $$
  select
    'job', known.jobname, case when late.subject is null then 'ok' else 'degraded' end,
    coalesce(late.message, format('It runs at "%s".', job.schedule))
  from (select known_jobs.jobname from private.known_jobs union select active.jobname from cron.job as active where active.active) as known
  left join cron.job on job.jobname = known.jobname
  left join private.check_job_late(job_components.org_id, '{}', now()) as late on late.subject = known.jobname;
$$;
comment on function private.job_components is 'What the clock runs, and whether it does.';

create function private.webhook_components(org_id uuid)
returns setof private.component
language sql
stable
set search_path = ''
as $$
  select
    'webhook', subscriptions.name,
    case when subscriptions.paused or willing.id is null or dead.count > 0 then 'degraded' else 'ok' end,
    case
      when subscriptions.paused then 'It is paused.'
      when willing.id is null then 'Its organization or everything is paused.'
      when dead.count > 0 then format('%s deliveries are given up and wait for a replay.', dead.count)
      else 'What it asks for is sent.'
    end
  from public.subscriptions
  left join private.willing_subscriptions as willing on willing.id = subscriptions.id
  left join lateral (
    select count(*) as count
    from (
      select from public.deliveries
      where deliveries.org_id = subscriptions.org_id and deliveries.subscription_id = subscriptions.id and deliveries.status = 'dead'
        and deliveries.mode = 'live'
      limit 1000
    ) as first_thousand
  ) as dead on true
  where subscriptions.org_id = webhook_components.org_id and subscriptions.target_kind = 'webhook';
$$;
comment on function private.webhook_components is 'Outgoing webhooks and how they are.';

create function private.pull_components(org_id uuid)
returns setof private.component
language sql
stable
set search_path = ''
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

-- security definer: jobs and secrets are nobody's to read; who may see how they are is asked here.
create function private.my_status()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  organization uuid;
  seen jsonb := '[]';
begin
  for organization in
    select organizations.id from public.organizations where (select auth.role()) = 'service_role'
    union
    select private.my_orgs('alerts.read')
  loop
    seen := seen || (
      select jsonb_build_object(
        'organization', (select organizations.slug from public.organizations where organizations.id = organization),
        'open_alerts', (select count(*) from public.alerts where alerts.org_id = organization and alerts.closed_at is null),
        'components', coalesce(jsonb_agg(to_jsonb(part)), '[]'))
      from (
        select * from private.site_components(organization)
        union all select * from private.agent_components(organization)
        union all select * from private.pull_components(organization)
        union all select * from private.webhook_components(organization)
        union all select * from private.job_components(organization)
      ) as part);
  end loop;
  if organization is null then
    perform private.fail(403, 'not_permitted', 'Your role may not see the hub''s status.');
  end if;
  return seen;
end;
$$;
comment on function private.my_status is 'How the caller''s organizations and the hub''s jobs are.';
grant execute on function private.my_status to authenticated, service_role;

create function public.hub_status()
returns jsonb
language sql
set search_path = ''
as $$
  select private.my_status();
$$;
comment on function public.hub_status is 'Sites, agents, jobs, pulls and outgoing webhooks, each ok, degraded or not configured, with the reason.';
grant execute on function public.hub_status to authenticated, service_role;
