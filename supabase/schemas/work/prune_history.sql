-- Removing old history; open work is never touched.

create function private.prune_history()
returns void
language plpgsql set search_path = ''
as $$
begin
  -- A receipt guards against repeats until it expires, never longer and never shorter.
  delete from public.receipts where receipts.expires_at < now();
  delete from public.delivery_attempts using public.deliveries
  where deliveries.id = delivery_attempts.delivery_id
    and deliveries.status in ('done', 'skipped')
    -- The ids are in the order of time, and the only index of it.
    and delivery_attempts.id < private.uuid_v7_floor(now() - interval '90 days');
  delete from public.agent_memory where agent_memory.expires_at < now();
  delete from cron.job_run_details where coalesce(job_run_details.end_time, job_run_details.start_time) < now() - interval '3 days';
  delete from net._http_response where _http_response.created < now() - interval '6 hours';
end;
$$;
comment on function private.prune_history is 'Remove old history; open work is never touched.';
