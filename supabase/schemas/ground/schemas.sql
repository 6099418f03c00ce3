-- The ground: extensions, the three schemas, the hub's roles, and the rights that nobody has by default.
--
-- public is reached through REST under row level security. hub holds what functions may call as role hub_service.
-- private holds what nobody calls from outside.

-- Functions may name objects of a later storey: their bodies are read when they run.
set check_function_bodies = off;

create extension if not exists pg_net with schema extensions;
create extension if not exists pg_cron;
create extension if not exists supabase_vault cascade;

create schema hub;
create schema private;
comment on schema hub is 'SQL functions that serverless functions call, as role hub_service. Not exposed to REST.';
comment on schema private is 'Helpers and partitions. Nobody calls them from outside.';

-- Roles belong to the server, not to the database: a restored dump finds them there already.
do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'hub_service') then
    create role hub_service with login noinherit;
  end if;
  if not exists (select from pg_catalog.pg_roles where rolname = 'hub_reader') then
    create role hub_reader with nologin noinherit bypassrls;
  end if;
end;
$$;
alter role hub_service set statement_timeout = '15s';
alter role hub_service set idle_in_transaction_session_timeout = '10s';
grant usage on schema hub to hub_service;
-- hub_reader asks the invariants: it may read tables, and nothing else.
grant hub_reader to postgres;
grant usage on schema public, private to hub_reader;
-- Policies, views and functions of public call private helpers as the caller.
grant usage on schema private to authenticated, service_role;

-- A hosted project still hands out TRUNCATE, TRIGGER and REFERENCES on new tables, which row level
-- security does not limit, and EXECUTE on new functions to PUBLIC.
alter default privileges for role postgres in schema public revoke all on tables from anon, authenticated, service_role;
alter default privileges for role postgres in schema public revoke all on sequences from anon, authenticated, service_role;
alter default privileges for role postgres in schema public revoke all on functions from anon, authenticated, service_role;
alter default privileges for role postgres revoke execute on functions from public;
alter default privileges for role postgres in schema public grant select on tables to hub_reader;
