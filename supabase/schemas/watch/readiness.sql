-- Readiness: whether work gets done; a process that answers does not yet show it.
--
-- A hub whose monitor does not run is not ready: the one thing that no check of the monitor's own can notice.

-- security definer: hub_service may touch no table itself.
create function hub.readiness()
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  waited interval;
  swept interval;
  monitored interval;
  dead integer;
begin
  select now() - min(due_work.due_since) into waited from private.due_work;

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

  -- For information: a dead delivery waits for a person, and the hub works all the same. No more are counted, since
  -- anybody may ask.
  select count(*) into dead
  from (select from public.deliveries where deliveries.status = 'dead' and deliveries.mode = 'live' limit 1000) as first_thousand;

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
grant execute on function hub.readiness to hub_service;
