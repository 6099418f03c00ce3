-- Models that never decide: where the rules stepped in for an agent's model several times in a row, an alert and the
-- status say so, until the model decides again.
--
-- Its actions say it: the output of one for which the model was asked in vain names the reason as `fallback`. A day
-- whose limit is used up is as the organization wished, unless not even one question fits into it.

set lock_timeout = '5s';
set statement_timeout = '60s';

create function private.fallbacks(org_id uuid, at_least integer default 3)
returns table (agent_id uuid, message text)
language sql
stable
set search_path = ''
as $$
  select
    agents.id,
    format('The model decided none of the last %s runs of %s: %s.', streak.runs, agents.name,
           regexp_replace(streak.reason, '^decided by the rules: ', ''))
  from public.agents
  cross join lateral (
    -- While a model is left alone, the reason is why.
    select count(*) as runs, (array_agg(run.reason order by run.fallback = 'resting', run.id desc))[1] as reason
    from (
      select latest.*, bool_or(latest.fallback is null) over (order by latest.id desc) as is_before
      from (
        select agent_actions.id, agent_actions.created_at, agent_actions.output ->> 'fallback' as fallback,
               agent_actions.reasons[cardinality(agent_actions.reasons)] as reason
        from public.agent_actions
        where agent_actions.org_id = agents.org_id and agent_actions.agent_id = agents.id and agent_actions.outcome <> 'failed'
        order by agent_actions.id desc
        limit 100
      ) as latest
      where latest.fallback is distinct from 'limit_day'
        or not exists (
          select from private.model_spending
          where model_spending.org_id = agents.org_id and model_spending.day = (latest.created_at at time zone 'UTC')::date
            and model_spending.tokens > 0)
    ) as run
    where not run.is_before
  ) as streak
  where agents.org_id = fallbacks.org_id and streak.runs >= at_least;
$$;
comment on function private.fallbacks is 'Agents for which the rules stepped in at least so many times since their model last decided, and why.';

create function private.check_model_fallback(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql
stable
set search_path = ''
as $$
  select
    'llm', 'warning'::public.alert_severity, string_agg(fallen.message, ' ' order by fallen.message),
    jsonb_build_object('agents', jsonb_agg(fallen.agent_id)), null::uuid
  from private.fallbacks(check_model_fallback.org_id, coalesce((config ->> 'model_fallbacks_min')::integer, 3)) as fallen
  having count(*) > 0;
$$;
comment on function private.check_model_fallback is 'The model, when it decides nothing that it is asked.';

create or replace function private.run_checks(org_id uuid, config jsonb, event_id uuid, at timestamptz default now())
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  kinds constant text[] :=
    '{site_silent,deliveries_stuck,function_failing,pull_stale,pull_failed,pull_gaps,job_late,signatures_refused,duplicates_spike,kind_unknown,model_fallback}';
  checked text;
  findings private.finding[];
  finding private.finding;
  is_new boolean;
  opened text[] := '{}';
  open text[] := '{}';
  failed text[] := '{}';
  closed text[] := '{}';
begin
  perform private.close_mended_deliveries(org_id);
  foreach checked in array kinds loop
    begin
      execute format('select array_agg(found) from private.%I($1, $2, $3) as found', 'check_' || checked)
      into findings using org_id, config, at;
      perform private.close_alert(org_id, 'check_failed', checked);
    exception when others then
      failed := failed || checked;
      perform private.open_alert(org_id, 'check_failed', checked, 'warning', format('The check %s failed: %s.', checked, sqlstate), event_id => run_checks.event_id);
      continue;
    end;
    foreach finding in array coalesce(findings, '{}') loop
      is_new := private.open_alert(
        org_id, checked, finding.subject, finding.severity, finding.message, finding.details,
        event_id => run_checks.event_id, site_id => finding.site_id);
      open := open || finding.message;
      if is_new then
        opened := opened || (checked || ' ' || finding.subject);
      end if;
    end loop;
    with mended as (
      update public.alerts set closed_at = now()
      where alerts.org_id = run_checks.org_id and alerts.kind = checked and alerts.closed_at is null
        and not alerts.subject = any (array(select found.subject from unnest(findings) as found))
      returning alerts.kind || ' ' || alerts.subject as name
    )
    select closed || coalesce(array_agg(mended.name), '{}') into closed from mended;
  end loop;
  return jsonb_build_object('checks', cardinality(kinds), 'failed', failed, 'open', open[1:50], 'opened', opened[1:50], 'closed', closed[1:50]);
end;
$$;

create or replace function private.watch()
returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.alerts set closed_at = now()
  from public.sites
  where alerts.kind = 'site_silent' and alerts.closed_at is null
    and sites.org_id = alerts.org_id and sites.id = alerts.site_id
    and private.last_arrival(sites, now()) > alerts.opened_at;
  -- One decision ends it, however many the monitor waited for.
  update public.alerts set closed_at = now()
  where alerts.kind = 'model_fallback' and alerts.closed_at is null
    and not exists (select from private.fallbacks(alerts.org_id, 1));
  perform private.notify_held_back();
end;
$$;

create or replace function private.agent_components(org_id uuid)
returns setof private.component
language sql
stable
set search_path = ''
as $$
  select
    'agent', coalesce(agents.name, replace(known.kind, '_', '-')),
    case
      when agents.id is null or versions.id is null or wishes.count = 0 then 'not configured'
      when agents.status in ('paused', 'blocked') or agents.autonomy = 'off' or wishes.willing = 0 or work.dead > 0 or work.waited > interval '1 minute'
        or fallen.message is not null then 'degraded'
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

-- security definer: jobs and secrets are nobody's to read; who may see how they are is asked here.
create or replace function private.my_status()
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
        'model_fallback', (select found.message from private.check_model_fallback(organization, '{}', now()) as found),
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
