-- The data monitor: every 15 minutes it looks at each organization and says what is not as it should be.
--
-- Cron writes one monitor.due event per organization and quarter of an hour; the agent data-monitor handles it like
-- any other, so each look is a delivery and an action, also when nothing is wrong. Every check is a function that
-- answers findings; a finding opens an alert of the check's name or sees it again, and what is no longer found is
-- closed. A check that fails is a finding itself and keeps no other from being made.

set lock_timeout = '5s';
set statement_timeout = '60s';

alter table public.sites validate constraint sites_time_zone_known;
alter table public.sites validate constraint sites_business_hours_form;
alter table public.sites validate constraint sites_quiet_alert_after_range;

insert into public.event_types (name, description, schema, sample) values
  ('monitor.due', 'A quarter of an hour has begun: the data monitor looks.', '{"type": "object", "required": ["quarter"]}',
   '{"quarter": "2026-11-21T10:15:00Z"}');

-- Failures only, so a delivery that is done costs nothing here, and it is small from the start.
-- squawk-ignore require-concurrent-index-creation
create index delivery_attempts_failed_idx on public.delivery_attempts (org_id, id) where outcome in ('retry', 'dead', 'lapsed');

-- squawk-ignore require-concurrent-index-creation
create index deliveries_dead_idx on public.deliveries (id) where status = 'dead' and mode = 'live';

create type private.finding as (
  subject  text,
  severity public.alert_severity,
  message  text,
  details  jsonb,
  site_id  uuid
);
comment on type private.finding is 'What a check answers for each thing that is wrong.';

create table private.known_jobs (
  jobname  text primary key,
  seen_at  timestamptz not null default now()
);
comment on table private.known_jobs is 'The cron jobs there shall be: each that the monitor has seen. A migration that ends a job removes it here.';

-- The checks: private.check_<kind of alert>(organization, the agent's thresholds, the time it is)

create function private.check_site_silent(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql
stable
set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    format('%s has sent nothing for %s open hours%s.', sites.name, round(extract(epoch from silence.open_for) / 3600, 1),
           case when silence.expected is not null then format(', in which it sends %s', round(silence.expected, 1)) else '' end)
    || case when silence.open_for >= sites.quiet_alert_after
         then format(' If so little is usual for it, raise sites.quiet_alert_after (%s now).', sites.quiet_alert_after) else '' end,
    jsonb_build_object('site', sites.slug, 'last_arrival', silence.last_arrival, 'expected', round(silence.expected, 2),
                       'quiet_alert_after', sites.quiet_alert_after),
    sites.id
  from public.sites
  cross join lateral private.site_silence(sites, check_site_silent.at) as silence
  where sites.org_id = check_site_silent.org_id
    and sites.enabled
    -- Only a sign of life ends a silence: that the shop has closed, or has new hours, does not.
    and (silence.is_silent or exists (
      select from public.alerts
      where alerts.org_id = sites.org_id and alerts.kind = 'site_silent' and alerts.subject = sites.slug
        and alerts.closed_at is null and silence.last_arrival < alerts.opened_at));
$$;
comment on function private.check_site_silent is 'Sites that have sent nothing for longer than they should have.';

create function private.check_deliveries_stuck(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql
stable
set search_path = ''
as $$
  with since as (
    select at - make_interval(mins => coalesce((config ->> 'stuck_after_minutes')::integer, 15)) as due,
           at - interval '5 minutes' as leased
  )
  select
    willing.name, 'critical'::public.alert_severity,
    case when oldest.run_at is null
      then format('%s deliveries to %s are still held by leases that ran out.', held.count, willing.name)
      else format('A delivery to %s has been due since %s UTC and nobody takes it.',
                  willing.name, to_char(oldest.run_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'))
    end,
    jsonb_build_object('subscription', willing.name, 'due_since', oldest.run_at, 'held', coalesce(held.count, 0)),
    null::uuid
  from since
  cross join private.willing_subscriptions as willing
  left join lateral (
    select deliveries.run_at
    from public.deliveries
    where deliveries.subscription_id = willing.id and deliveries.status in ('pending', 'failed') and deliveries.mode = 'live'
      and deliveries.run_at < since.due
    order by deliveries.run_at
    limit 1
  ) as oldest on true
  left join (
    select deliveries.subscription_id, count(*) as count
    from since
    join public.deliveries on deliveries.status = 'running' and deliveries.leased_until < since.leased
    group by deliveries.subscription_id
  ) as held on held.subscription_id = willing.id
  where willing.org_id = check_deliveries_stuck.org_id and (oldest.run_at is not null or held.count > 0);
$$;
comment on function private.check_deliveries_stuck is 'Subscriptions whose deliveries wait although nothing is paused.';

create function private.check_function_failing(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql
stable
set search_path = ''
as $$
  -- The latest two thousand failures tell as much as all of them, of the time in which they happened. A rehearsal's
  -- tell of a draft.
  with failures as materialized (
    select delivery_attempts.id, delivery_attempts.delivery_id
    from public.delivery_attempts
    join public.deliveries on deliveries.id = delivery_attempts.delivery_id and deliveries.mode = 'live'
    where delivery_attempts.org_id = check_function_failing.org_id
      and delivery_attempts.outcome in ('retry', 'dead', 'lapsed')
      and delivery_attempts.id >= private.uuid_v7_floor(at - interval '1 hour')
    order by delivery_attempts.id desc
    limit 2000
  ),
  hour as materialized (
    select case when (select count(*) from failures) < 2000 then private.uuid_v7_floor(at - interval '1 hour')
                else (select failures.id from failures order by failures.id limit 1) end as floor
  ),
  failing as (
    select deliveries.subscription_id,
           count(distinct deliveries.id) as failed,
           count(distinct deliveries.id) filter (where deliveries.id < hour.floor) as from_before
    from failures
    cross join hour
    join public.deliveries on deliveries.id = failures.delivery_id
    group by deliveries.subscription_id
  ),
  -- Counted once, not for each of its uses.
  served as materialized (
    select
      case when subscriptions.target_kind = 'function' then subscriptions.target else subscriptions.name end as name,
      sum(failing.failed) as failed,
      sum(failing.from_before + (
        select count(*)
        from (
          select from public.deliveries
          where deliveries.org_id = subscriptions.org_id and deliveries.subscription_id = subscriptions.id and deliveries.id >= hour.floor
            and deliveries.mode = 'live'
          limit 20000
        ) as fresh)) as handled
    from failing
    cross join hour
    join public.subscriptions on subscriptions.id = failing.subscription_id
    group by 1
  )
  select
    served.name, 'warning'::public.alert_severity,
    format('%s failed %s of %s deliveries within an hour.', served.name, served.failed, served.handled),
    jsonb_build_object('failed', served.failed, 'handled', served.handled),
    null::uuid
  from served
  where served.handled >= coalesce((config ->> 'failure_min')::integer, 10)
    and served.failed > served.handled * coalesce((config ->> 'failure_rate')::numeric, 0.2);
$$;
comment on function private.check_function_failing is 'Functions, and webhooks, that fail too large a share of what they were given within the last hour.';

create function private.check_pull_stale(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql
stable
set search_path = ''
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
language plpgsql
stable
set search_path = ''
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
language plpgsql
stable
set search_path = ''
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
comment on function private.check_pull_gaps is 'Sites whose push should have brought what only their pull did.';

create function private.cron_interval(schedule text)
returns interval
language sql
immutable
set search_path = ''
as $$
  select case
    when schedule ~ '^\s*\d+ seconds?\s*$' then substring(schedule from '\d+')::integer * interval '1 second'
    when schedule ~ '^\*/\d+ \* \* \* \*$' then substring(schedule from '\d+')::integer * interval '1 minute'
    when schedule ~ '^\* \* \* \* \*$' then interval '1 minute'
    when schedule ~ '^\d+ \* \* \* \*$' or schedule = '@hourly' then interval '1 hour'
    when schedule ~ '^\d+ \*/\d+ \* \* \*$' then substring(schedule from '/(\d+)')::integer * interval '1 hour'
    when schedule ~ '^\d+ \d+ \* \* \*$' or schedule in ('@daily', '@midnight') then interval '1 day'
  end;
$$;
comment on function private.cron_interval is 'How far apart a schedule''s runs are; null for what runs less than daily or at odd times.';

create function private.check_job_late(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql
set search_path = ''
as $$
begin
  insert into private.known_jobs (jobname)
  select job.jobname from cron.job where job.active and job.jobname is not null
  on conflict on constraint known_jobs_pkey do nothing;

  return query
  with ended as (
    select job_run_details.jobid,
           max(job_run_details.end_time) filter (where job_run_details.status = 'succeeded') as succeeded_at,
           max(job_run_details.end_time) filter (where job_run_details.status = 'failed') as failed_at
    from cron.job_run_details
    group by job_run_details.jobid
  )
  select
    known.jobname, 'critical'::public.alert_severity,
    case
      when job.jobid is null then format('The job %s is gone or switched off.', known.jobname)
      when ended.failed_at > coalesce(ended.succeeded_at, '-infinity') then format('The job %s fails.', known.jobname)
      else format('The job %s should run every %s and has not.', known.jobname, private.cron_interval(job.schedule))
    end,
    jsonb_build_object('schedule', job.schedule, 'succeeded_at', ended.succeeded_at, 'failed_at', ended.failed_at),
    null::uuid
  from private.known_jobs as known
  left join cron.job on job.jobname = known.jobname and job.active
  left join ended on ended.jobid = job.jobid
  -- What ran before the server started, or was seen a moment ago, says nothing.
  where job.jobid is null
    or greatest(ended.succeeded_at, pg_postmaster_start_time(), known.seen_at)
       < at - 2 * private.cron_interval(job.schedule) - interval '2 minutes';
end;
$$;
comment on function private.check_job_late is 'Cron jobs that are missing, late or failing. The history reaches back three days, so none rarer than daily is judged.';

create function private.check_signatures_refused(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql
stable
set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    case when refused.in_a_row >= least_of.in_a_row
      then format('%s requests to %s had a wrong secret or signature, and none was accepted %s.', refused.in_a_row, sites.name,
                  coalesce('since ' || to_char(last.accepted_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC', 'within a day'))
      else format('%s requests to %s within an hour had a wrong secret or signature, against %s that were accepted.',
                  refused.lately, sites.name, accepted.count)
    end,
    jsonb_build_object('refused', refused.lately, 'accepted', accepted.count, 'in_a_row', refused.in_a_row, 'last_accepted', last.accepted_at),
    sites.id
  from public.sites
  cross join (
    select coalesce((config ->> 'refused_in_a_row')::integer, 5) as in_a_row, coalesce((config ->> 'refused_min')::integer, 20) as lately
  ) as least_of
  cross join lateral (
    select greatest(
      (select private.uuid_v7_time(events.id)
       from public.events
       where events.org_id = sites.org_id and events.site_id = sites.id and left(events.source, 5) = 'site:'
         and events.id >= private.uuid_v7_floor(at - interval '1 day')
       order by events.id desc
       limit 1),
      -- Who repeats a submission has the right secret, too.
      (select max(refusals.minute)
       from public.refusals
       where refusals.org_id = sites.org_id and refusals.site_id = sites.id and refusals.reason = 'duplicate')) as accepted_at
  ) as last
  cross join lateral (
    select
      coalesce(sum(refusals.count) filter (where refusals.minute >= at - interval '1 hour'), 0) as lately,
      -- What an instance counts is written a moment later than it happens.
      coalesce(sum(refusals.count) filter (
        where refusals.minute > coalesce(last.accepted_at + interval '5 seconds', '-infinity')), 0) as in_a_row
    from public.refusals
    where refusals.org_id = sites.org_id and refusals.site_id = sites.id and refusals.minute >= at - interval '1 day'
      and refusals.reason in ('secret', 'signature', 'timestamp', 'page_token', 'revoked')
  ) as refused
  cross join lateral (
    select count(*) as count
    from (
      select from public.events
      where events.org_id = sites.org_id and events.site_id = sites.id and left(events.source, 5) = 'site:'
        and events.id >= private.uuid_v7_floor(at - interval '1 hour')
      limit 20000
    ) as latest
  ) as accepted
  where sites.org_id = check_signatures_refused.org_id
    and sites.enabled
    and (refused.in_a_row >= least_of.in_a_row
      or (refused.lately >= least_of.lately
        and refused.lately > (refused.lately + accepted.count) * coalesce((config ->> 'refused_rate')::numeric, 0.05)));
$$;
comment on function private.check_signatures_refused is
  'Sites of whose requests too many show a wrong secret or signature within an hour, or several and none that is accepted within a day.';

create function private.check_duplicates_spike(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql
stable
set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    format('%s of the last %s submissions of %s are repeats: %s under a key that was used, %s of people who had just sent one.',
           recent.arrivals - recent.people + repeated.count, recent.arrivals + repeated.count, sites.name, repeated.count, recent.arrivals - recent.people),
    jsonb_build_object('arrivals', recent.arrivals, 'people', recent.people, 'repeats', repeated.count),
    sites.id
  from public.sites
  cross join lateral (
    select count(*) as arrivals, count(distinct latest.contact_id) as people
    from (
      select events.contact_id
      from public.events
      where events.org_id = sites.org_id and events.site_id = sites.id and left(events.source, 5) in ('site:', 'pull:')
        and events.contact_id is not null
        and events.id >= private.uuid_v7_floor(check_duplicates_spike.at - interval '1 hour')
        and events.id < private.uuid_v7_floor(check_duplicates_spike.at)
      order by events.id desc
      limit 20000
    ) as latest
  ) as recent
  cross join lateral (
    -- They make no event.
    select coalesce(sum(refusals.count), 0) as count
    from public.refusals
    where refusals.org_id = sites.org_id and refusals.site_id = sites.id and refusals.reason = 'duplicate'
      and refusals.minute >= check_duplicates_spike.at - interval '1 hour' and refusals.minute < check_duplicates_spike.at
  ) as repeated
  where sites.org_id = check_duplicates_spike.org_id
    and recent.arrivals + repeated.count >= coalesce((config ->> 'duplicates_min')::integer, 20)
    and recent.arrivals - recent.people + repeated.count
        > (recent.arrivals + repeated.count) * coalesce((config ->> 'duplicates_rate')::numeric, 0.5);
$$;
comment on function private.check_duplicates_spike is
  'Sites most of whose latest submissions are sent again under their key or repeat somebody who was just there: a sender that loops.';

create function private.check_kind_unknown(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql
stable
set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    format('%s sent kinds that nobody knows: %s. What came so is kept and starts nothing until rpc/name_kind says what it means.',
           sites.name, left(unknown.kinds, 200)),
    jsonb_build_object('kinds', left(unknown.kinds, 200), 'events', unknown.count),
    sites.id
  from (
    select kinds.site_id, string_agg(kinds.type, ', ' order by kinds.type) as kinds, sum(kinds.count) as count
    from (
      select latest.site_id, latest.type, count(*) as count
      from (
        select events.site_id, events.type
        from public.events
        where events.org_id = check_kind_unknown.org_id and events.unrecognised
        order by events.id desc
        limit 1000
      ) as latest
      group by latest.site_id, latest.type
    ) as kinds
    -- Unless it has a name by now.
    where private.canonical_type(kinds.type) is null
    group by kinds.site_id
  ) as unknown
  join public.sites on sites.id = unknown.site_id;
$$;
comment on function private.check_kind_unknown is 'Sites that sent kinds of events which the catalogue does not know.';

-- The run

create function private.close_mended_deliveries(org_id uuid)
returns void
language sql
set search_path = ''
as $$
  update public.alerts set closed_at = now()
  where alerts.org_id = close_mended_deliveries.org_id and alerts.kind = 'delivery_dead' and alerts.closed_at is null
    and not exists (
      select from public.deliveries where deliveries.id = alerts.subject::uuid and deliveries.status = 'dead');
$$;
comment on function private.close_mended_deliveries is 'Close the alerts of deliveries that are no longer dead.';

create function private.run_checks(org_id uuid, config jsonb, event_id uuid, at timestamptz default now())
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  kinds constant text[] :=
    '{site_silent,deliveries_stuck,function_failing,pull_stale,pull_failed,pull_gaps,job_late,signatures_refused,duplicates_spike,kind_unknown}';
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
comment on function private.run_checks is 'Make every check for an organization; open, see again and close alerts.';

-- security definer: hub_service may touch no table itself.
create function hub.run_monitor(event_id uuid, config jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  due public.events;
begin
  select * into strict due from public.events where events.id = run_monitor.event_id;
  -- After a pause many may wait: the latest look is the one that counts.
  if exists (
    select from public.events
    where events.org_id = due.org_id and events.type = due.type and events.id > due.id)
  then
    return null;
  end if;
  return private.run_checks(due.org_id, run_monitor.config, due.id);
end;
$$;
comment on function hub.run_monitor is 'Look at an organization; answers what was found, or null when a later look is due already.';
grant execute on function hub.run_monitor to hub_service;

create function private.tick_monitors(at timestamptz default now())
returns integer
language plpgsql
set search_path = ''
as $$
declare
  quarter timestamptz := date_bin('15 minutes', at, timestamptz '2000-01-01');
  made integer;
begin
  with due as (
    insert into public.receipts (source, key, org_id, body_sha256, event_id, expires_at)
    select 'schedule', format('monitor.due:%s:%s', watched.org_id, extract(epoch from quarter)::bigint), watched.org_id, sha256('monitor.due'),
           private.uuid_v7(), now() + interval '1 day'
    from (select distinct willing.org_id from private.willing_subscriptions as willing where willing.target = 'data-monitor') as watched
    on conflict on constraint receipts_pkey do nothing
    returning receipts.org_id, receipts.event_id
  )
  insert into public.events (id, org_id, type, source, data)
  select due.event_id, due.org_id, 'monitor.due', 'cron', jsonb_build_object('quarter', quarter) from due;
  get diagnostics made = row_count;
  return made;
end;
$$;
comment on function private.tick_monitors is 'Say to each organization''s monitor that it is time, once per quarter of an hour; cron calls it.';
select cron.schedule('tick_monitors', '*/15 * * * *', $$select private.tick_monitors()$$);

create function private.watch()
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
  perform private.notify_held_back();
end;
$$;
comment on function private.watch is 'Between two looks of the monitor: end the silences that have ended, tell what was held back; cron calls it.';
select cron.schedule('watch', '20 seconds', $$select private.watch()$$);

create function private.add_data_monitor(org_slug text)
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  agent public.agents;
begin
  insert into public.agents (org_id, kind, name)
  select organizations.id, 'data_monitor', 'data-monitor' from public.organizations where organizations.slug = org_slug
  on conflict on constraint agents_name_unique do nothing
  returning * into agent;
  if agent.id is null then
    return null;
  end if;
  insert into public.agent_versions (org_id, agent_id, version, config) values (agent.org_id, agent.id, 1, '{
    "stuck_after_minutes": 15,
    "failure_rate": 0.2,
    "failure_min": 10,
    "stale_after_intervals": 3,
    "gaps_min": 5,
    "refused_rate": 0.05,
    "refused_min": 20,
    "refused_in_a_row": 5,
    "duplicates_rate": 0.5,
    "duplicates_min": 20
  }');
  perform private.publish_version(agent.id, 1);
  insert into public.subscriptions (org_id, name, event_types, target, agent_id)
  values (agent.org_id, 'data-monitor', '{monitor.due}', 'data-monitor', agent.id);
  return agent.id;
end;
$$;
comment on function private.add_data_monitor is 'Give an organization its data monitor: agent, thresholds, subscription.';
select private.add_data_monitor(organizations.slug) from public.organizations;

create function private.last_monitored(org_id uuid default null)
returns timestamptz
language sql
stable
set search_path = ''
as $$
  select max(greatest(latest.created_at, willing.updated_at, agents.updated_at, pg_postmaster_start_time()))
  from private.willing_subscriptions as willing
  join public.agents on agents.id = willing.agent_id and agents.kind = 'data_monitor'
  left join lateral (
    select agent_actions.created_at
    from public.agent_actions
    where agent_actions.org_id = agents.org_id and agent_actions.agent_id = agents.id
    order by agent_actions.id desc
    limit 1
  ) as latest on true
  where last_monitored.org_id is null or willing.org_id = last_monitored.org_id;
$$;
comment on function private.last_monitored is 'When a data monitor last looked, counted from when it could; null when none is willing.';

-- A hub whose monitor does not run is not ready: the one thing that no check of the monitor's own can notice.
create or replace function hub.readiness()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  waited interval;
  swept interval;
  monitored interval;
  dead integer;
begin
  select now() - min(oldest.run_at) into waited
  from private.willing_subscriptions as willing
  cross join lateral (
    select deliveries.run_at
    from public.deliveries
    where deliveries.subscription_id = willing.id and deliveries.status in ('pending', 'failed') and deliveries.mode = 'live'
    order by deliveries.run_at
    limit 1
  ) as oldest
  where oldest.run_at <= now();

  -- Right after a start the clock has not ticked yet.
  select now() - greatest(latest.end_time, pg_postmaster_start_time()) into swept
  from cron.job
  left join lateral (
    select job_run_details.end_time
    from cron.job_run_details
    where job_run_details.jobid = job.jobid and job_run_details.status = 'succeeded'
    -- runid is the key: the newest is found at the end of its index.
    order by job_run_details.runid desc
    limit 1
  ) as latest on true
  where job.jobname = 'sweep_deliveries' and job.active;

  monitored := now() - private.last_monitored();

  -- For information: what is dead waits for a person, and the hub works all the same. Anybody may ask: no more is counted.
  select count(*) into dead
  from (select from public.deliveries where deliveries.status = 'dead' and deliveries.mode = 'live' limit 1000) as given_up;

  return jsonb_build_object(
    'ready', coalesce(waited, '0') < interval '1 minute' and coalesce(swept, 'infinity') < interval '1 minute'
             and coalesce(monitored, '0') < interval '35 minutes',
    'oldest_due_seconds', coalesce(extract(epoch from waited)::integer, 0),
    'swept_seconds_ago', extract(epoch from swept)::integer,
    'monitored_seconds_ago', extract(epoch from monitored)::integer,
    'dead', dead);
end;
$$;
comment on function hub.readiness is
  'How long the oldest due delivery has waited, when the sweep and a monitor last ran, and how many deliveries are dead, up to 1000.';
