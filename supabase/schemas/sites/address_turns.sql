-- Turns of addresses: how much browsers at one address may send.

-- A row is kept for a minute: after that its address has rested.
create table private.address_turns (
  site_id uuid not null references public.sites (id) on delete cascade,
  purpose text not null,
  address text not null,
  free_at timestamptz not null,

  primary key (site_id, purpose, address),
  constraint address_turns_address_length check (length(address) between 1 and 64)
);
comment on table private.address_turns is 'When each address will have rested, with its whole burst free again.';
create index address_turns_free_idx on private.address_turns (free_at);

create function private.take_address_turn(site_id uuid, purpose text, address text, per_minute integer)
returns void
language plpgsql set search_path = ''
as $$
declare
  step interval := interval '1 minute' / per_minute;
  at timestamptz := clock_timestamp();
  free timestamptz;
begin
  insert into private.address_turns (site_id, purpose, address, free_at)
  values (take_address_turn.site_id, take_address_turn.purpose, take_address_turn.address, at + step)
  on conflict on constraint address_turns_pkey do update
    set free_at = greatest(address_turns.free_at, at) + step
    where address_turns.free_at <= at + interval '1 minute' - step;
  if not found then
    select address_turns.free_at into free from private.address_turns
    where address_turns.site_id = take_address_turn.site_id and address_turns.purpose = take_address_turn.purpose
      and address_turns.address = take_address_turn.address;
    perform private.refuse_turn(extract(epoch from free - at - interval '1 minute' + step));
  end if;
end;
$$;
comment on function private.take_address_turn is 'Take a turn of an address, or raise 429.';

-- security definer: hub_service may touch no table itself.
create function hub.count_page_token(site_id uuid, address text)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  site public.sites;
begin
  select * into site from public.sites where sites.id = count_page_token.site_id and sites.enabled;
  if not found then
    perform private.fail(401, 'unknown_site', 'There is no such site.');
  end if;
  perform private.take_address_turn(site.id, 'token', address, site.max_per_minute_per_address);
  perform private.take_site_turn(site.id, 'token', site.max_per_second_from_pages);
  return 'true';
end;
$$;
comment on function hub.count_page_token is 'Count a page token against what its site and address may have, or 429.';
grant execute on function hub.count_page_token to hub_service;
