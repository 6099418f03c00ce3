-- Version 7 UUIDs: ids sort by the time in them, so logs partition and page by id.

-- The fraction of the millisecond follows the time, so that ids of one process sort as they were made.
-- plpgsql, here and in other small functions of the hot path: a SQL function that cannot be inlined is planned
-- anew in every statement.
create function private.uuid_v7(at timestamptz default clock_timestamp())
returns uuid
language plpgsql volatile set search_path = ''
as $$
declare
  us bigint := extract(epoch from at) * 1000000;
begin
  return encode(
    int8send(((us / 1000) << 16) | 28672 | ((us % 1000) * 4096 / 1000)) || substring(uuid_send(gen_random_uuid()) from 9),
    'hex')::uuid;
end;
$$;
comment on function private.uuid_v7 is 'A version 7 UUID of a time: ids sort by it, so logs partition by id.';
grant execute on function private.uuid_v7 to authenticated, service_role;

create function private.uuid_v7_floor(at timestamptz)
returns uuid
language sql immutable set search_path = ''
as $$
  select encode(
    int8send((floor(extract(epoch from at) * 1000)::bigint << 16) | 28672) || '\x8000000000000000'::bytea,
    'hex')::uuid;
$$;
comment on function private.uuid_v7_floor is 'The smallest version 7 UUID of a time: the bound of a partition or of a search by time.';
grant execute on function private.uuid_v7_floor to authenticated, service_role;

create function private.uuid_v7_time(id uuid)
returns timestamptz
language sql immutable set search_path = ''
as $$
  select to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0);
$$;
comment on function private.uuid_v7_time is 'The time in a version 7 UUID.';
