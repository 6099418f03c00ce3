-- Keeping leases that are still held.

-- security definer: hub_service may touch no table itself.
create function hub.extend_leases(leases jsonb, lease_seconds integer)
returns jsonb
language sql security definer set search_path = ''
as $$
  with kept as (
    update public.deliveries
    set leased_until = clock_timestamp() + make_interval(secs => least(extend_leases.lease_seconds, 600))
    from jsonb_to_recordset(leases) as held (id uuid, lease_token uuid)
    where deliveries.id = held.id and deliveries.lease_token = held.lease_token and deliveries.status = 'running'
    returning deliveries.id
  )
  select coalesce(jsonb_agg(kept.id), '[]') from kept;
$$;
comment on function hub.extend_leases is 'Keep leases that are still held; answers which ones.';
grant execute on function hub.extend_leases to hub_service;
