-- The ground: three schemas as doors, the service's role, and what every later migration uses.
--
-- public is what people reach through REST under row level security, hub is what functions may call
-- as role hub_service, private is what nobody calls from outside.

set lock_timeout = '5s';
set statement_timeout = '60s';

create extension if not exists pg_net with schema extensions;
create extension if not exists pg_cron;
create extension if not exists supabase_vault cascade;

create schema hub;
create schema private;
comment on schema hub is 'What functions may call, as role hub_service. Not exposed to REST.';
comment on schema private is 'Helpers and partitions. Nobody calls them from outside.';

-- Roles belong to the server, not to the database: a restored dump finds it there already.
do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'hub_service') then
    create role hub_service with login noinherit;
  end if;
end;
$$;
alter role hub_service set statement_timeout = '15s';
alter role hub_service set idle_in_transaction_session_timeout = '10s';
grant usage on schema hub to hub_service;
-- Policies call private helpers as the person who asks.
grant usage on schema private to authenticated;

-- A hosted project still hands out TRUNCATE, TRIGGER and REFERENCES on new tables, which row level
-- security does not limit, and EXECUTE on new functions to PUBLIC.
alter default privileges for role postgres in schema public revoke all on tables from anon, authenticated, service_role;
alter default privileges for role postgres in schema public revoke all on sequences from anon, authenticated, service_role;
alter default privileges for role postgres in schema public revoke all on functions from anon, authenticated, service_role;
alter default privileges for role postgres revoke execute on functions from public;

-- The fraction of the millisecond follows the time, so that ids of one process sort as they were made.
-- plpgsql, here and in other small functions of the hot path: a SQL function that cannot be inlined is planned
-- anew in every statement.
create function private.uuid_v7(at timestamptz default clock_timestamp())
returns uuid
language plpgsql
volatile
set search_path = ''
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
grant usage on schema private to service_role;

create function private.uuid_v7_floor(at timestamptz)
returns uuid
language sql
immutable
set search_path = ''
as $$
  select encode(
    int8send((floor(extract(epoch from at) * 1000)::bigint << 16) | 28672) || '\x8000000000000000'::bytea,
    'hex')::uuid;
$$;
comment on function private.uuid_v7_floor is 'The smallest version 7 UUID of a time: the bound of a partition or of a search by time.';

create function private.touch_updated_at()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;
comment on function private.touch_updated_at is 'Trigger: keep updated_at true.';

create function private.refuse_change()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
    using errcode = 'PT409', detail = 'append_only';
end;
$$;
comment on function private.refuse_change is 'Trigger: history is not rewritten, by any role.';

-- Errors that a caller may see: SQLSTATE PTxyz is the HTTP status, detail the code.
create function private.fail(status integer, code text, message text)
returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception '%', message using errcode = 'PT' || status, detail = code;
end;
$$;
comment on function private.fail is 'Raise an error with its HTTP status and code.';
