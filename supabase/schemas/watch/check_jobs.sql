-- The check of cron jobs: missing, late or failing.

create table private.known_jobs (
  jobname  text primary key,
  seen_at  timestamptz not null default now()
);
comment on table private.known_jobs is 'The cron jobs that must exist: each that the monitor has seen. A migration that ends a job removes it here.';

create function private.check_job_late(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql set search_path = ''
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
  -- A run before the server started, or a job first seen a moment ago, says nothing.
  where job.jobid is null
    or greatest(ended.succeeded_at, pg_postmaster_start_time(), known.seen_at)
       < at - 2 * private.cron_interval(job.schedule) - interval '2 minutes';
end;
$$;
comment on function private.check_job_late is 'Cron jobs that are missing, late or failing. The history reaches back three days, so none rarer than daily is judged.';

create function private.cron_interval(schedule text)
returns interval
language sql immutable set search_path = ''
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
comment on function private.cron_interval is 'How far apart a schedule''s runs are; null for a schedule rarer than daily or at odd times.';
