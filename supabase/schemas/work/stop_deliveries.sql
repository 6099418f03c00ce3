-- A closed organization's work stops at once: nothing more is claimed, and a running delivery cannot be settled.

-- security definer: closing an organization needs no right to write deliveries.
create function private.stop_deliveries()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  update public.deliveries
  set status = 'skipped', lease_token = null, leased_until = null, last_error = 'the organization was closed'
  where deliveries.org_id = new.id and deliveries.status in ('pending', 'running', 'failed');
  return null;
end;
$$;
comment on function private.stop_deliveries is 'Trigger: closing an organization cancels its deliveries.';

create trigger organizations_closed after update of closed_at on public.organizations
  for each row when (old.closed_at is null and new.closed_at is not null) execute function private.stop_deliveries();
