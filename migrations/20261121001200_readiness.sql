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
  from public.subscriptions
  join public.organizations on organizations.id = subscriptions.org_id and not organizations.paused and organizations.closed_at is null
  left join public.agents on agents.id = subscriptions.agent_id
  cross join lateral (
    select deliveries.run_at
    from public.deliveries
    where deliveries.subscription_id = subscriptions.id and deliveries.status in ('pending', 'failed')
    order by deliveries.run_at
    limit 1
  ) as oldest
  where not subscriptions.paused and (agents.id is null or agents.status in ('idle', 'running')) and oldest.run_at <= now();

  -- Right after a start the clock has not ticked yet.
  select case when count(*) > 0 then now() - greatest(max(job_run_details.end_time), pg_postmaster_start_time()) end into swept
  from cron.job
  left join cron.job_run_details on job_run_details.jobid = job.jobid and job_run_details.status = 'succeeded'
  where job.jobname = 'sweep_deliveries' and job.active;

  return jsonb_build_object(
    'ready', coalesce(waited, '0') < interval '1 minute' and coalesce(swept, 'infinity') < interval '1 minute',
    'oldest_due_seconds', coalesce(extract(epoch from waited)::integer, 0),
    'swept_seconds_ago', extract(epoch from nullif(swept, 'infinity'))::integer,
    'dead', (select count(*) from public.alerts where alerts.kind = 'delivery_dead' and alerts.closed_at is null));
end;
$$;
comment on function hub.readiness is 'How long the oldest due delivery has waited, how many are dead, when the sweep last ran.';
grant execute on function hub.readiness to hub_service;
