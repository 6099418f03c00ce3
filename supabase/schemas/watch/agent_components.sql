-- Status of agents, jobs and outgoing webhooks.

create function private.agent_components(org_id uuid)
returns setof private.component
language sql stable set search_path = ''
as $$
  select
    'agent', coalesce(agents.name, replace(known.kind, '_', '-')),
    case
      when agents.id is null or versions.id is null or subscribed.count = 0 then 'not configured'
      when agents.status in ('paused', 'blocked') or agents.autonomy = 'off' or subscribed.willing = 0 or work.dead > 0 or work.waited > interval '1 minute'
        or fallen.message is not null then 'degraded'
      else 'ok'
    end,
    case
      when agents.id is null then 'There is no agent of this kind.'
      when versions.id is null then 'No version of it is published.'
      when subscribed.count = 0 then 'Nothing is brought to it: it has no subscription.'
      when agents.status in ('paused', 'blocked') then format('It is %s.', agents.status)
      when agents.autonomy = 'off' then 'It is switched off.'
      when everything.is_paused then 'Everything is paused (system_controls).'
      when subscribed.willing = 0 then 'Its subscription or its organization is paused.'
      when work.dead > 0 then format('%s deliveries are dead and wait for a replay.', work.dead)
      when work.waited > interval '1 minute' then format('Work has waited for %s seconds.', extract(epoch from work.waited)::integer)
      when fallen.message is not null then fallen.message
      else format('Version %s decides%s.', versions.version, case when agents.autonomy = 'auto' then '' else ', and a person reviews' end)
    end
  from (values ('lead_qualifier'), ('data_monitor'), ('email_responder'), ('voice_intake'), ('campaign_dialer')) as known (kind)
  full join (select * from public.agents where agents.org_id = agent_components.org_id) as agents on agents.kind = known.kind
  cross join (
    select exists (select from public.system_controls where system_controls.name = 'global_pause' and system_controls.is_on) as is_paused
  ) as everything
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  left join private.fallbacks(agent_components.org_id) as fallen on fallen.agent_id = agents.id
  left join lateral (
    select count(*) as count, count(willing.id) as willing
    from public.subscriptions
    left join private.willing_subscriptions as willing on willing.id = subscriptions.id
    where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id
  ) as subscribed on true
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
      (select now() - min(due_work.due_since)
       from public.subscriptions
       join private.due_work on due_work.subscription_id = subscriptions.id
       where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id) as waited
  ) as work on true;
$$;
comment on function private.agent_components is 'The agents of an organization, and the kinds it has none of.';

create function private.job_components(org_id uuid)
returns setof private.component
language sql volatile set search_path = ''
as $$
  select
    'job', known.jobname, case when late.subject is null then 'ok' else 'degraded' end,
    coalesce(late.message, format('It runs at "%s".', job.schedule))
  from (select known_jobs.jobname from private.known_jobs union select active.jobname from cron.job as active where active.active) as known
  left join cron.job on job.jobname = known.jobname
  left join private.check_job_late(job_components.org_id, '{}', now()) as late on late.subject = known.jobname;
$$;
comment on function private.job_components is 'The jobs of the clock, and whether each ran.';

create function private.webhook_components(org_id uuid)
returns setof private.component
language sql stable set search_path = ''
as $$
  select
    'webhook', subscriptions.name,
    case when subscriptions.paused or willing.id is null or dead.count > 0 then 'degraded' else 'ok' end,
    case
      when subscriptions.paused then 'It is paused.'
      when willing.id is null then 'Its organization or everything is paused.'
      when dead.count > 0 then format('%s deliveries are dead and wait for a replay.', dead.count)
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
