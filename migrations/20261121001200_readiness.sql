-- Readiness: whether work gets done, which a process that answers does not yet show.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- security definer: hub_service may read no table itself.
create function hub.readiness()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  waited interval;
  swept interval;
begin
  select now() - min(oldest.run_at) into waited
  from private.willing_subscriptions as willing
  cross join lateral (
    select deliveries.run_at
    from public.deliveries
    where deliveries.subscription_id = willing.id and deliveries.status in ('pending', 'failed')
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

  return jsonb_build_object(
    'ready', coalesce(waited, '0') < interval '1 minute' and coalesce(swept, 'infinity') < interval '1 minute',
    'oldest_due_seconds', coalesce(extract(epoch from waited)::integer, 0),
    'swept_seconds_ago', extract(epoch from swept)::integer);
end;
$$;
comment on function hub.readiness is 'How long the oldest due delivery has waited, and when the sweep last ran.';
grant execute on function hub.readiness to hub_service;
