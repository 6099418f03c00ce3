-- Schedules: what happens without anybody asking.

set lock_timeout = '5s';
set statement_timeout = '60s';

create function private.prune_history()
returns void
language plpgsql
set search_path = ''
as $$
begin
  -- A receipt guards against repeats until it expires, never longer and never shorter.
  delete from public.receipts where receipts.expires_at < now();
  delete from public.delivery_attempts using public.deliveries
  where deliveries.id = delivery_attempts.delivery_id
    and deliveries.status in ('done', 'skipped') and delivery_attempts.ended_at < now() - interval '90 days';
  delete from public.agent_memory where agent_memory.expires_at < now();
  delete from cron.job_run_details where coalesce(job_run_details.end_time, job_run_details.start_time) < now() - interval '3 days';
  delete from net._http_response where _http_response.created < now() - interval '6 hours';
end;
$$;
comment on function private.prune_history is 'Remove what nobody asks for any more; open work is never touched.';

select cron.schedule('sweep_deliveries', '5 seconds', $$select private.sweep_deliveries()$$);
select cron.schedule('make_event_partitions', '10 * * * *', $$select private.make_event_partitions()$$);
select cron.schedule('prune_history', '20 * * * *', $$select private.prune_history()$$);
