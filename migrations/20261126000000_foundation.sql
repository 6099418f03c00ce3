-- The foundation: what supabase/schemas said when the history began.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- ground/schemas.sql
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

-- ground/errors.sql
-- Errors that a caller may see: SQLSTATE PTxyz is the HTTP status, detail the code.

create function private.fail(status integer, code text, message text)
returns void
language plpgsql set search_path = ''
as $$
begin
  raise exception '%', message using errcode = 'PT' || status, detail = code;
end;
$$;
comment on function private.fail is 'Raise an error with its HTTP status and code.';
grant execute on function private.fail to authenticated, service_role;

-- ground/ids.sql
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

-- ground/row_triggers.sql
-- Triggers of many tables: they keep updated_at true and refuse to rewrite history.

create function private.touch_updated_at()
returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;
comment on function private.touch_updated_at is 'Trigger: keep updated_at true.';

create function private.refuse_change()
returns trigger
language plpgsql set search_path = ''
as $$
begin
  raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
    using errcode = 'PT409', detail = 'append_only';
end;
$$;
comment on function private.refuse_change is 'Trigger: history is not rewritten, by any role.';

-- tenancy/role_permissions.sql
-- The permissions of each role, in one place. Policies and API checks read the same rows.

create type public.member_role as enum ('admin', 'operator', 'closer', 'viewer');

create table public.role_permissions (
  role       public.member_role not null,
  permission text not null,

  primary key (role, permission)
);
comment on table public.role_permissions is 'The permissions of each role. Policies and API checks both read them.';

alter table public.role_permissions enable row level security, force row level security;
grant select on public.role_permissions to authenticated, service_role;
create policy "everybody signed in may read what roles may do" on public.role_permissions for select to authenticated
  using ((select auth.uid()) is not null);

-- tenancy/callers.sql
-- Callers: the organizations in which a caller has a permission.
--
-- Policies ask private.my_orgs('<table>.<verb>'); functions that act for a caller ask private.permit of one organization,
-- or private.caller_orgs.

-- security definer: a policy on memberships would otherwise ask itself.
create function private.my_orgs(permission text)
returns setof uuid
language plpgsql stable security definer set search_path = ''
as $$
begin
  return query
  select memberships.org_id
  from public.memberships
  join public.organizations on organizations.id = memberships.org_id and organizations.closed_at is null
  join public.role_permissions on role_permissions.role = memberships.role
  where memberships.user_id = (select auth.uid())
    and role_permissions.permission = my_orgs.permission;
end;
$$;
comment on function private.my_orgs is 'The organizations in which the caller has a permission.';
grant execute on function private.my_orgs to authenticated;

create function private.caller_orgs(permission text)
returns setof uuid
language plpgsql stable set search_path = ''
as $$
begin
  if (select auth.role()) = 'service_role' then
    return query select organizations.id from public.organizations where organizations.closed_at is null;
  else
    return query select private.my_orgs(caller_orgs.permission);
  end if;
end;
$$;
comment on function private.caller_orgs is 'The organizations in which the caller has a permission; for the hub''s secret key, every open one.';

create function private.permit(org_id uuid, permission text)
returns void
language plpgsql stable set search_path = ''
as $$
begin
  if (select auth.role()) = 'service_role' and permit.org_id is not null then
    return;
  elsif permit.org_id is null or permit.org_id not in (select private.my_orgs('organizations.read')) then
    perform private.fail(404, 'not_found', 'There is no such row here.');
  elsif permit.org_id not in (select private.my_orgs(permit.permission)) then
    perform private.fail(403, 'not_permitted', 'Your role may not do this.');
  end if;
end;
$$;
comment on function private.permit is 'Fail unless the caller has a permission in this organization.';

create function private.doer()
returns text
language sql stable set search_path = ''
as $$
  select coalesce('user:' || (select auth.uid()), 'hub');
$$;
comment on function private.doer is 'The source of an event that the caller makes: user:<id>, or hub for the hub''s secret key.';

-- tenancy/audit_change.sql
-- The trigger that writes a change to the audit log.

-- security definer: making a change needs no right to write the log.
create function private.audit_change()
returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
  after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
  present jsonb := coalesce(after, before);
begin
  -- agent_actions tells what agents do; the audit log tells what users do and what changes the rules.
  if tg_argv[0] = 'users' and (select auth.uid()) is null then
    return null;
  end if;
  if before - 'updated_at' is not distinct from after - 'updated_at' then
    return null;
  end if;
  perform private.write_audit(
    coalesce(present ->> 'org_id', present ->> 'id')::uuid, lower(tg_op), tg_table_name,
    coalesce(present ->> 'id', present ->> 'user_id'), before, after);
  return null;
end;
$$;
comment on function private.audit_change is 'Trigger: write a change down.';

-- tenancy/organizations.sql
-- Organizations: the tenants; each pays, and sees its own rows.

create table public.organizations (
  id           uuid primary key default private.uuid_v7(),
  slug         text not null,
  name         text not null,
  time_zone    text not null default 'UTC',
  locale       text not null default 'en',
  phone_region char(2) not null default 'NZ',
  paused       boolean not null default false,
  closed_at    timestamptz,
  alert_every  interval not null default '1 hour',
  settings     jsonb not null default '{}',
  created_at   timestamptz not null default now(),
  updated_at   timestamptz not null default now(),

  constraint organizations_slug_unique unique (slug),
  constraint organizations_slug_form check (slug ~ '^[a-z][a-z0-9-]{1,62}$'),
  constraint organizations_alert_every_range check (alert_every between interval '0' and interval '7 days')
);
comment on table public.organizations is 'The tenants; each pays, and sees its own rows.';
comment on column public.organizations.paused is 'Deliveries wait while true.';
comment on column public.organizations.closed_at is 'Closed for good: nobody sees it, nothing is sent for it.';
comment on column public.organizations.alert_every is 'How often at most one topic''s alerts are told.';

create trigger organizations_touch before update on public.organizations
  for each row execute function private.touch_updated_at();
create trigger organizations_audit after insert or update or delete on public.organizations
  for each row execute function private.audit_change('all');

alter table public.organizations enable row level security, force row level security;
grant select on public.organizations to authenticated, service_role;
grant update (
  name, time_zone, locale, phone_region, paused, settings, alert_every
) on public.organizations to authenticated;
create policy "members read their organizations" on public.organizations for select to authenticated
  using (id in (select private.my_orgs('organizations.read')));
create policy "admins change their organizations" on public.organizations for update to authenticated
  using (id in (select private.my_orgs('organizations.update')))
  with check (id in (select private.my_orgs('organizations.update')));

-- tenancy/audit_log.sql
-- The audit log: each change with its user, before and after, in a chain that shows every later tampering.
--
-- Each row carries the SHA-256 of itself and of the row before it in its organization; the head keeps the last one's
-- apart. Nobody may update, delete or truncate. Tampering with the triggers switched off is found by
-- private.verify_audit_log, unless the whole chain and its head were written anew.

create table public.audit_log (
  org_id        uuid not null references public.organizations (id),
  number        bigint not null,
  actor_type    text not null,
  actor_id      uuid,
  action        text not null,
  resource_type text not null,
  resource_id   text not null,
  before        jsonb,
  after         jsonb,
  at            timestamptz not null default now(),
  hash          bytea not null,

  primary key (org_id, number)
);
comment on table public.audit_log is 'Each change with its user; append-only, hash-chained per organization.';
create index audit_log_resource_idx on public.audit_log (org_id, resource_type, resource_id, number desc);

create trigger audit_log_append_only before update or delete on public.audit_log
  for each row execute function private.refuse_change();
create trigger audit_log_no_truncate before truncate on public.audit_log
  for each statement execute function private.refuse_change();

alter table public.audit_log enable row level security, force row level security;
grant select on public.audit_log to authenticated, service_role;
create policy "admins read the audit log" on public.audit_log for select to authenticated
  using (org_id in (select private.my_orgs('audit.read')));

create table private.audit_heads (
  org_id uuid primary key references public.organizations (id),
  number bigint not null,
  hash   bytea not null
);
comment on table private.audit_heads is 'The last entry of each organization''s audit log.';

create function private.write_audit(
  org_id uuid, action text, resource_type text, resource_id text, before jsonb default null, after jsonb default null)
returns void
language plpgsql set search_path = ''
as $$
declare
  entry public.audit_log;
  last private.audit_heads;
  doer uuid := (select auth.uid());
begin
  -- A chain has one end: writers of one organization take turns.
  insert into private.audit_heads (org_id, number, hash) values (write_audit.org_id, 0, '\x') on conflict do nothing;
  select * into last from private.audit_heads where audit_heads.org_id = write_audit.org_id for update;

  entry := row(
    write_audit.org_id, last.number + 1, case when doer is null then 'hub' else 'user' end, doer,
    write_audit.action, write_audit.resource_type, write_audit.resource_id, write_audit.before, write_audit.after, now(), '\x');
  entry.hash := private.audit_hash(last.hash, entry);
  insert into public.audit_log select entry.*;
  update private.audit_heads set number = entry.number, hash = entry.hash where audit_heads.org_id = entry.org_id;
end;
$$;
comment on function private.write_audit is 'Add an entry to an organization''s audit log.';

create function private.audit_hash(previous bytea, entry public.audit_log)
returns bytea
language sql immutable set search_path = ''
as $$
  select sha256(coalesce(previous, '\x') || convert_to(jsonb_build_array(
    entry.org_id, entry.number, entry.actor_type, entry.actor_id, entry.action, entry.resource_type, entry.resource_id,
    entry.before, entry.after, extract(epoch from entry.at))::text, 'UTF8'));
$$;
comment on function private.audit_hash is 'The hash of an entry, given the hash of the one before it.';

create function private.verify_audit_log(org_id uuid)
returns bigint
language sql stable set search_path = ''
as $$
  select min(chain.number)
  from (
    select audit_log.number,
           audit_log.hash = private.audit_hash(lag(audit_log.hash) over turn, audit_log) as is_true,
           audit_log.number = row_number() over turn as is_next
    from public.audit_log
    where audit_log.org_id = verify_audit_log.org_id
    window turn as (order by audit_log.number)
  ) as chain
  where not (chain.is_true and chain.is_next)
  having min(chain.number) is not null
  union all
  select audit_heads.number
  from private.audit_heads
  where audit_heads.org_id = verify_audit_log.org_id
    and not exists (
      select from public.audit_log
      where audit_log.org_id = audit_heads.org_id and audit_log.number = audit_heads.number and audit_log.hash = audit_heads.hash)
  limit 1;
$$;
comment on function private.verify_audit_log is 'The number of the first entry that was changed, or before which one is missing; null when the log is whole.';

-- tenancy/memberships.sql
-- Memberships: the users of an organization, each in a role.

create table public.memberships (
  org_id      uuid not null references public.organizations (id),
  user_id     uuid not null references auth.users (id) on delete cascade,
  role        public.member_role not null,
  can_approve boolean not null default false,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),

  primary key (org_id, user_id)
);
comment on table public.memberships is 'The users of an organization, each in a role.';
create index memberships_user_idx on public.memberships (user_id);

create trigger memberships_touch before update on public.memberships
  for each row execute function private.touch_updated_at();
create trigger memberships_audit after insert or update or delete on public.memberships
  for each row execute function private.audit_change('all');

alter table public.memberships enable row level security, force row level security;
grant select on public.memberships to authenticated, service_role;
create policy "members see who belongs to their organizations" on public.memberships for select to authenticated
  using (org_id in (select private.my_orgs('memberships.read')));

create function private.add_member(org_slug text, user_id uuid, role text)
returns void
language plpgsql set search_path = ''
as $$
declare
  organization uuid;
begin
  -- One change of roles at a time: else two admins could make each other something else at once.
  select organizations.id into organization from public.organizations where organizations.slug = add_member.org_slug for no key update;
  if organization is null then
    perform private.fail(404, 'unknown_organization', format('There is no organization %s.', add_member.org_slug));
  end if;
  if add_member.role <> 'admin'
    and exists (
      select from public.memberships
      where memberships.org_id = organization and memberships.user_id = add_member.user_id and memberships.role = 'admin')
    and not exists (
      select from public.memberships
      where memberships.org_id = organization and memberships.user_id <> add_member.user_id and memberships.role = 'admin')
  then
    perform private.fail(409, 'last_admin', format('This is the last admin of %s: make somebody else admin first.', add_member.org_slug));
  end if;
  insert into public.memberships (org_id, user_id, role)
  values (organization, add_member.user_id, add_member.role::public.member_role)
  on conflict on constraint memberships_pkey do update set role = excluded.role where memberships.role <> excluded.role;
end;
$$;
comment on function private.add_member is 'Make a user a member, or change their role; the last admin stays one.';

-- tenancy/system_controls.sql
-- Switches of the whole hub, for its operator.

create table public.system_controls (
  name       text primary key,
  is_on      boolean not null default false,
  updated_at timestamptz not null default now(),

  constraint system_controls_known check (name in ('global_pause'))
);
comment on table public.system_controls is 'Switches of the whole hub, for its operator.';

create trigger system_controls_touch before update on public.system_controls
  for each row execute function private.touch_updated_at();

alter table public.system_controls enable row level security, force row level security;
grant select on public.system_controls to authenticated, service_role;
grant update (is_on) on public.system_controls to service_role;
create policy "everybody signed in may see the switches" on public.system_controls for select to authenticated
  using ((select auth.uid()) is not null);

-- sites/business_hours.sql
-- Business hours: the form of a site's hours.

create function private.is_time_zone(name text)
returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
  perform timestamptz 'epoch' at time zone name;
  return true;
exception when invalid_parameter_value then
  return false;
end;
$$;
comment on function private.is_time_zone is 'Whether Postgres knows a time zone by this name.';
grant execute on function private.is_time_zone to authenticated;

create function private.are_business_hours(hours jsonb)
returns boolean
language sql immutable set search_path = ''
as $$
  select jsonb_typeof(hours) = 'object' and not exists (
    select from jsonb_each(case when jsonb_typeof(hours) = 'object' then hours else '{}' end) as day
    where day.key not in ('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')
      or day.value::text !~ '^\[("([01]\d|2[0-3]):[0-5]\d", "(([01]\d|2[0-3]):[0-5]\d|24:00)")?\]$');
$$;
comment on function private.are_business_hours is 'Whether these are hours of a week''s days: {"mon": ["07:30", "17:30"]}.';
grant execute on function private.are_business_hours to authenticated;

-- sites/sites.sql
-- Sites: places of business inside an organization. The hub accepts a site that has a row.

create table public.sites (
  id                         uuid primary key default private.uuid_v7(),
  org_id                     uuid not null references public.organizations (id),
  number                     integer not null,
  slug                       text not null,
  name                       text not null,
  url                        text not null,
  purpose                    text not null default '',
  data_types                 text[] not null default '{}',
  connection_method          text not null default 'webhook',
  trigger                    text not null default 'on form submit',
  time_zone                  text not null default 'UTC',
  business_hours             jsonb not null default '{}',
  phone_region               char(2) not null default 'NZ',
  allowed_origins            text[] not null default '{}',
  quiet_alert_after          interval not null default '2 hours',
  max_per_second             integer not null default 500,
  max_per_second_from_pages  integer not null default 50,
  max_per_minute_per_address integer not null default 20,
  enabled                    boolean not null default true,
  created_at                 timestamptz not null default now(),
  updated_at                 timestamptz not null default now(),

  constraint sites_slug_unique unique (slug),
  constraint sites_slug_form check (slug ~ '^[a-z][a-z0-9-]{1,62}$'),
  constraint sites_number_unique unique (org_id, number),
  constraint sites_of_org unique (org_id, id),
  constraint sites_time_zone_known check (private.is_time_zone(time_zone)),
  constraint sites_business_hours_form check (private.are_business_hours(business_hours)),
  constraint sites_quiet_alert_after_range check (quiet_alert_after between interval '15 minutes' and interval '60 days'),
  constraint sites_max_per_second_range check (max_per_second between 1 and 1000000),
  constraint sites_max_per_second_from_pages_range check (max_per_second_from_pages between 1 and 1000000),
  constraint sites_max_per_minute_per_address_range check (max_per_minute_per_address between 1 and 1000000)
);
comment on table public.sites is 'The site registry: a brand, a web source, its hours. The hub accepts a site that has a row.';
comment on column public.sites.allowed_origins is 'Web origins whose browsers may post forms.';
comment on column public.sites.max_per_second is 'Submissions of servers, in the long run; fifteen to twenty seconds'' worth may come at once.';
comment on column public.sites.max_per_second_from_pages is 'Submissions of browsers, counted apart: they cannot use up the turns of servers.';
comment on column public.sites.max_per_minute_per_address is 'Submissions of browsers from one address; a minute''s worth may come at once.';
comment on column public.sites.business_hours is 'When each day opens and closes, in the site''s time zone; a day left out is closed, none at all: always open.';
comment on column public.sites.quiet_alert_after is 'Open hours without a sign of life after which a site is silent at the latest; its own rate may say so sooner. To be raised for a site with little traffic.';

create function private.check_site_hours()
returns trigger
language plpgsql set search_path = ''
as $$
begin
  if not private.is_time_zone(new.time_zone) then
    perform private.fail(422, 'bad_time_zone', 'sites.time_zone is a name such as Pacific/Auckland.');
  elsif not private.are_business_hours(new.business_hours) then
    perform private.fail(422, 'bad_business_hours',
      'sites.business_hours says when days open and close, as {"mon": ["07:30", "17:30"]}; the days are mon, tue, wed, thu, fri, sat and sun.');
  elsif new.quiet_alert_after not between interval '15 minutes' and interval '60 days' then
    perform private.fail(422, 'bad_quiet_alert_after', 'sites.quiet_alert_after is from 15 minutes to 60 days.');
  end if;
  return new;
end;
$$;
comment on function private.check_site_hours is 'Trigger: hours and time zones that the constraints refuse by name are refused in words.';

create trigger sites_touch before update on public.sites
  for each row execute function private.touch_updated_at();
create trigger sites_audit after insert or update or delete on public.sites
  for each row execute function private.audit_change('all');
create trigger sites_hours before insert or update of time_zone, business_hours, quiet_alert_after on public.sites
  for each row execute function private.check_site_hours();

alter table public.sites enable row level security, force row level security;
grant select on public.sites to authenticated, service_role;
grant update (
  name, url, purpose, data_types, connection_method, trigger, time_zone, business_hours, phone_region,
  allowed_origins, quiet_alert_after, enabled, max_per_second, max_per_second_from_pages,
  max_per_minute_per_address
) on public.sites to authenticated;
create policy "members read their sites" on public.sites for select to authenticated
  using (org_id in (select private.my_orgs('sites.read')));
create policy "admins change their sites" on public.sites for update to authenticated
  using (org_id in (select private.my_orgs('sites.update')))
  with check (org_id in (select private.my_orgs('sites.update')));

-- sites/site_secrets.sql
-- Site secrets: a site proves itself with a secret of a kind.
--
-- static is the secret itself in a header: accepted, and weak, for anybody who sees one request has it. standard
-- (Standard Webhooks) and hmac sign timestamp and body. page signs the short-lived tokens that browsers post with. A site
-- may have secrets of several kinds at once, so that it can change from one to another without losing a form. Keys that
-- sign are kept in the vault, for a digest cannot check a signature.

create type public.secret_kind as enum ('static', 'standard', 'hmac', 'page');

create table private.site_secrets (
  id         uuid primary key default private.uuid_v7(),
  site_id    uuid not null references public.sites (id) on delete cascade,
  kind       public.secret_kind not null,
  sha256     bytea not null,
  vault_id   uuid,
  valid_from timestamptz not null default now(),
  valid_to   timestamptz,
  created_at timestamptz not null default now(),

  constraint site_secrets_digest check (length(sha256) = 32),
  constraint site_secrets_unique unique (sha256)
);
comment on table private.site_secrets is 'The secrets by which sites prove themselves; two are valid at once while one replaces the other.';
comment on column private.site_secrets.sha256 is 'The digest of the secret as it is written; of a static one nothing else is kept.';
comment on column private.site_secrets.vault_id is 'The key in the vault, while it may sign.';
create index site_secrets_site_idx on private.site_secrets (site_id);

-- security definer: who changes a secret needs no right to write the audit log.
create function private.audit_secret()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.write_audit(
    (select sites.org_id from public.sites where sites.id = new.site_id), lower(tg_op), 'site_secrets', new.id::text, null,
    to_jsonb(new) - 'sha256');
  return null;
end;
$$;
comment on function private.audit_secret is 'Trigger: a site''s secret was set or ended; the digest stays out of the log.';

create trigger site_secrets_audit after insert or update on private.site_secrets
  for each row execute function private.audit_secret();

-- sites/address_turns.sql
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

-- sites/open_times.sql
-- Open times: the spans in which a site was open.

create function private.open_times(site public.sites, since timestamptz, until timestamptz)
returns table (opens timestamptz, closes timestamptz)
language sql stable set search_path = ''
as $$
  select greatest(days.opens, since), least(days.closes, until)
  from (
    select
      (day::date + (hours ->> 0)::time) at time zone site.time_zone as opens,
      (day::date + (hours ->> 1)::time + case when (hours ->> 1)::time <= (hours ->> 0)::time then interval '1 day' else '0' end)
        at time zone site.time_zone as closes
    from generate_series(
      date_trunc('day', since at time zone site.time_zone) - interval '1 day', until at time zone site.time_zone, interval '1 day') as day
    cross join lateral (select site.business_hours -> to_char(day, 'dy') as hours) as week
    where jsonb_array_length(hours) = 2
    union all
    select since, until where site.business_hours = '{}'
  ) as days
  where days.opens < until and days.closes > since and since < until;
$$;
comment on function private.open_times is 'The spans in which a site was open between two times, by its hours in its time zone.';

-- sites/page_keys.sql
-- Page keys: the secrets that sign page tokens, made with a site and changed each week.

-- security definer: adding a site needs no right to write secrets.
create function private.make_page_key()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.new_site_secret(new.slug, 'page');
  return null;
end;
$$;
comment on function private.make_page_key is 'Trigger: a site has a key for the tokens of its pages.';

create trigger sites_page_key after insert on public.sites
  for each row execute function private.make_page_key();

create function private.rotate_page_keys()
returns void
language plpgsql set search_path = ''
as $$
begin
  perform private.new_site_secret(sites.slug, 'page', '1 hour') from public.sites;
end;
$$;
comment on function private.rotate_page_keys is 'New keys for page tokens; tokens that were handed out stay valid until they expire.';

create function private.forget_ended_keys()
returns void
language plpgsql set search_path = ''
as $$
begin
  with ended as (
    update private.site_secrets set vault_id = null
    from private.site_secrets as before
    where before.id = site_secrets.id and before.vault_id is not null and before.valid_to < now()
    returning before.vault_id
  )
  delete from vault.secrets using ended where secrets.id = ended.vault_id;
end;
$$;
comment on function private.forget_ended_keys is 'Remove from the vault the keys that sign nothing any more; their rows stay.';

-- sites/refusals.sql
-- Refusals: how many requests of a site stored nothing, and why.

create table public.refusals (
  org_id  uuid not null,
  site_id uuid not null,
  reason  text not null,
  minute  timestamptz not null,
  count   integer not null,

  primary key (site_id, reason, minute),
  constraint refusals_site foreign key (org_id, site_id) references public.sites (org_id, id) on delete cascade,
  constraint refusals_reason_known check (reason in ('missing', 'secret', 'signature', 'timestamp', 'page_token', 'origin', 'revoked', 'rate', 'duplicate'))
);
comment on table public.refusals is 'How many requests stored nothing: per site, reason and minute, for two days.';
comment on column public.refusals.reason is 'Why the request was refused; duplicate: it was accepted, being here already.';
create index refusals_site_idx on public.refusals (org_id, site_id, minute);
create index refusals_minute_idx on public.refusals (minute);

alter table public.refusals enable row level security, force row level security;
grant select on public.refusals to authenticated, service_role;
create policy "members read refusals" on public.refusals for select to authenticated
  using (org_id in (select private.my_orgs('events.read')));

-- security definer: hub_service may touch no table itself.
create function hub.count_refusals(refusals jsonb)
returns jsonb
language sql security definer set search_path = ''
as $$
  -- In order, so that two instances lock in the same order.
  insert into public.refusals (org_id, site_id, reason, minute, count)
  select sites.org_id, sites.id, refused.reason, date_trunc('minute', now()), sum(refused.count)
  from jsonb_to_recordset(count_refusals.refusals) as refused (site text, reason text, count integer)
  join public.sites on sites.slug = refused.site
  group by sites.id, refused.reason
  order by sites.id, refused.reason
  on conflict on constraint refusals_pkey do update set count = refusals.count + excluded.count;
  select 'true'::jsonb;
$$;
comment on function hub.count_refusals is 'Add up the requests that an instance refused lately, and those that were sent again.';
grant execute on function hub.count_refusals to hub_service;

create function private.prune_limits()
returns void
language sql set search_path = ''
as $$
  delete from private.address_turns where address_turns.free_at < now();
  delete from public.refusals where refusals.minute < now() - interval '2 days';
$$;
comment on function private.prune_limits is 'Remove addresses that have rested and old refusals.';

-- sites/set_site_secret.sql
-- Giving a site a secret; its older ones stay valid for a while.

create function private.set_site_secret(
  site_slug text, secret text, old_valid_for interval, kind public.secret_kind)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  digest bytea := sha256(convert_to(secret, 'UTF8'));
  target uuid;
  known private.site_secrets;
begin
  if kind = 'standard' and secret !~ '^whsec_(?:[A-Za-z0-9+/]{4}){8,21}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$' then
    perform private.fail(422, 'bad_secret', 'A Standard Webhooks secret is whsec_ and the base64 of 24 to 64 bytes.');
  elsif length(secret) < (case when kind = 'static' then 16 else 32 end) then
    perform private.fail(422, 'weak_secret', 'A static secret has at least 16 characters, one that signs 32.');
  end if;
  select sites.id into target from public.sites where sites.slug = site_slug;
  if target is null then
    perform private.fail(404, 'unknown_site', 'There is no site ' || site_slug || '.');
  end if;

  -- Page keys replace page keys only, and secrets of any other kind replace those.
  update private.site_secrets set valid_to = now() + old_valid_for
  where site_secrets.site_id = target
    and site_secrets.sha256 <> digest
    and (site_secrets.kind = 'page') = (set_site_secret.kind = 'page')
    and coalesce(site_secrets.valid_to, 'infinity') > now() + old_valid_for;

  select * into known from private.site_secrets where site_secrets.sha256 = digest for update;
  if known.site_id <> target or known.kind <> set_site_secret.kind then
    perform private.fail(409, 'secret_in_use', 'This secret is in use at another site, or as another kind.');
  end if;
  if kind <> 'static' and known.vault_id is null then
    known.vault_id := vault.create_secret(secret, format('site %s %s', site_slug, encode(substring(digest for 6), 'hex')));
  end if;
  if known.id is not null then
    update private.site_secrets set valid_to = null, vault_id = known.vault_id where site_secrets.id = known.id;
  else
    insert into private.site_secrets (site_id, kind, sha256, vault_id)
    values (target, set_site_secret.kind, digest, known.vault_id)
    returning site_secrets.id into known.id;
  end if;
  return known.id;
end;
$$;
comment on function private.set_site_secret(text, text, interval, public.secret_kind) is
  'Give a site a secret of a kind; its older ones stay valid for a while.';

create function private.set_site_secret(site_slug text, secret text, old_valid_for interval default '0')
returns uuid
language sql set search_path = ''
as $$
  select private.set_site_secret(
    site_slug, secret, old_valid_for, case when secret like 'whsec\_%' then 'standard' else 'static' end::public.secret_kind);
$$;
comment on function private.set_site_secret(text, text, interval) is
  'Give a site a secret, of the kind that it looks like: whsec_… signs, any other text is static.';

create function private.new_site_secret(
  site_slug text, kind public.secret_kind default 'standard', old_valid_for interval default '0')
returns text
language plpgsql set search_path = ''
as $$
declare
  -- Each UUID brings 122 random bits.
  random bytea := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
  secret text := encode(sha256(random), 'hex');
begin
  if kind = 'standard' then
    secret := 'whsec_' || encode(sha256(random), 'base64');
  end if;
  perform private.set_site_secret(site_slug, secret, old_valid_for, kind);
  return secret;
end;
$$;
comment on function private.new_site_secret is
  'Make a secret for a site and answer it, this once: Standard Webhooks unless told otherwise; older ones stay valid for a while.';

-- sites/site.sql
-- The site as an ingest function knows it: its row and its secrets.

-- security definer: hub_service may touch no table itself.
create function hub.site(slug text)
returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'id', sites.id,
    'org_id', sites.org_id,
    'slug', sites.slug,
    'phone_region', sites.phone_region,
    'allowed_origins', sites.allowed_origins,
    'secrets', coalesce((
      select jsonb_agg(jsonb_build_object(
        'id', site_secrets.id,
        'kind', site_secrets.kind,
        'sha256', encode(site_secrets.sha256, 'hex'),
        'key', private.plain_key(site_secrets.vault_id),
        'valid_from', site_secrets.valid_from,
        'valid_to', site_secrets.valid_to) order by site_secrets.valid_from desc, site_secrets.id desc)
      from private.site_secrets
      where site_secrets.site_id = sites.id
        and coalesce(site_secrets.valid_to, 'infinity') > now()
    ), '[]'))
  from public.sites
  join public.organizations on organizations.id = sites.org_id and organizations.closed_at is null
  where sites.slug = site.slug
    and sites.enabled;
$$;
comment on function hub.site is 'A site as its ingest function must know it, keys that sign included; null when there is none.';
grant execute on function hub.site to hub_service;

create function private.plain_key(vault_id uuid)
returns text
language plpgsql stable set search_path = ''
as $$
begin
  return (select decrypted_secrets.decrypted_secret from vault.decrypted_secrets where decrypted_secrets.id = vault_id);
exception when others then
  -- After a restore under another vault key the site's other secrets work on.
  raise warning 'the vault cannot read key %: %', vault_id, sqlstate;
  return null;
end;
$$;
comment on function private.plain_key is 'A key from the vault; null when it is not there or cannot be read.';

-- sites/site_secret_kinds.sql
-- Secret kinds: the kinds of secret that a site has, and which is weak; users and the status see no more of secrets.

create view private.site_secret_kinds as
  select sites.org_id, site_secrets.id, sites.id as site_id, sites.slug, site_secrets.kind, site_secrets.kind = 'static' as is_weak,
         site_secrets.valid_from, site_secrets.valid_to
  from private.site_secrets
  join public.sites on sites.id = site_secrets.site_id
  where coalesce(site_secrets.valid_to, 'infinity') > now();
comment on view private.site_secret_kinds is 'The secrets that sites have now, by kind; is_weak: anybody who sees one request can send others.';

create function public.site_secret_kinds()
returns setof private.site_secret_kinds
language sql stable set search_path = ''
as $$
  select * from private.site_secret_kinds_for_caller();
$$;
comment on function public.site_secret_kinds is 'The kinds of secret that the caller''s sites have now, never the secrets; is_weak: anybody who sees one request can send others.';
grant execute on function public.site_secret_kinds to authenticated, service_role;

-- security definer: nobody reads secrets; members read only their kinds.
create function private.site_secret_kinds_for_caller()
returns setof private.site_secret_kinds
language plpgsql stable security definer set search_path = ''
as $$
begin
  return query
  select * from private.site_secret_kinds
  where site_secret_kinds.org_id in (select private.caller_orgs('sites.read'));
end;
$$;
comment on function private.site_secret_kinds_for_caller is 'The kinds of secret of the sites in the caller''s organizations.';
grant execute on function private.site_secret_kinds_for_caller to authenticated, service_role;

-- sites/turns.sql
-- Turns: each submission takes one, and a site has only so many a second.
--
-- A site's turns are a bucket that leaks at the site's rate and holds twenty seconds' worth. A form takes its turn in
-- the bucket if nobody holds that row, else aside, in another row that nobody holds: so no form waits for another one.
-- The next form that gets the bucket pours in the turns taken aside. While the bucket is less than half full, one form of
-- several takes the turns of all of them, by chance: a site far from its limit costs a look-up.

create unlogged table private.site_turns (
  site_id uuid not null references public.sites (id) on delete cascade,
  purpose text not null,
  level   double precision not null,
  at      timestamptz not null,
  poured  bigint not null,

  primary key (site_id, purpose)
) with (fillfactor = 50);
comment on table private.site_turns is 'How full a site''s bucket was at a time. Unlogged: after a crash every site has rested.';
comment on column private.site_turns.poured is 'How many of the turns taken aside the level contains.';

create unlogged table private.site_turns_aside (
  site_id uuid not null references public.sites (id) on delete cascade,
  purpose text not null,
  slot    bigint generated always as identity,
  taken   bigint not null,

  primary key (site_id, purpose, slot)
) with (fillfactor = 50);
comment on table private.site_turns_aside is
  'Turns taken while another transaction held the bucket: per site as many rows as there ever were such transactions at once.';

create function private.take_site_turn(site_id uuid, purpose text, per_second integer)
returns void
language plpgsql set search_path = ''
as $$
declare
  burst constant double precision := per_second * 20;
  taken_at constant timestamptz := clock_timestamp();
  used double precision;
  turns integer := 1;
begin
  select private.turns_used(bucket.level, bucket.at, 0, taken_at, per_second) into used
  from private.site_turns as bucket
  where bucket.site_id = take_site_turn.site_id and bucket.purpose = take_site_turn.purpose;
  if used < burst / 2 then
    turns := least(16, 1 + per_second / 10);
    if random() * turns >= 1 then
      return;
    end if;
  end if;

  with mine as (
    select
      bucket.site_id, bucket.purpose, greatest(aside.taken, bucket.poured) as poured,
      private.turns_used(bucket.level, bucket.at, aside.taken - bucket.poured, taken_at, per_second) + turns as level
    from private.site_turns as bucket
    cross join (
      select coalesce(sum(beside.taken), 0)::bigint as taken
      from private.site_turns_aside as beside
      where beside.site_id = take_site_turn.site_id and beside.purpose = take_site_turn.purpose
    ) as aside
    where bucket.site_id = take_site_turn.site_id and bucket.purpose = take_site_turn.purpose
    for update of bucket skip locked
  )
  update private.site_turns as bucket
  set level = mine.level, at = taken_at, poured = mine.poured
  from mine
  where bucket.site_id = mine.site_id and bucket.purpose = mine.purpose and mine.level <= burst;
  if not found then
    perform private.take_turns_aside(site_id, purpose, per_second, turns);
  end if;
end;
$$;
comment on function private.take_site_turn is 'Take a turn of a site, or raise 429. Forms that come at the same instant may not see each other.';

create function private.take_turns_aside(site_id uuid, purpose text, per_second integer, turns integer)
returns void
language plpgsql set search_path = ''
as $$
declare
  taken_at constant timestamptz := clock_timestamp();
  used double precision;
begin
  select private.turns_used(bucket.level, bucket.at, aside.taken - bucket.poured, taken_at, per_second)
  into used
  from private.site_turns as bucket
  cross join (
    select coalesce(sum(beside.taken), 0)::bigint as taken
    from private.site_turns_aside as beside
    where beside.site_id = take_turns_aside.site_id and beside.purpose = take_turns_aside.purpose
  ) as aside
  where bucket.site_id = take_turns_aside.site_id and bucket.purpose = take_turns_aside.purpose;
  if used + turns > per_second * 20 then
    perform private.refuse_turn(((used + turns) / per_second - 20)::numeric);
  elsif used is null and pg_try_advisory_xact_lock(hashtextextended(purpose || site_id, 0)) then
    -- The first form of a site makes the row; a form at the same instant goes aside and waits for nobody.
    insert into private.site_turns (site_id, purpose, level, at, poured)
    values (take_turns_aside.site_id, take_turns_aside.purpose, 0, taken_at, 0)
    on conflict on constraint site_turns_pkey do nothing;
  end if;

  update private.site_turns_aside as beside
  set taken = beside.taken + turns
  from (
    select free.site_id, free.purpose, free.slot
    from private.site_turns_aside as free
    where free.site_id = take_turns_aside.site_id and free.purpose = take_turns_aside.purpose
    limit 1
    for update skip locked
  ) as mine
  where beside.site_id = mine.site_id and beside.purpose = mine.purpose and beside.slot = mine.slot;
  if not found then
    insert into private.site_turns_aside (site_id, purpose, taken)
    values (take_turns_aside.site_id, take_turns_aside.purpose, turns);
  end if;
end;
$$;
comment on function private.take_turns_aside is 'Take turns in a row that nobody holds, or raise 429.';

-- A level above the burst was taken at a higher rate, and a time in the future by a clock that was set back.
create function private.turns_used(level double precision, at timestamptz, aside bigint, taken_at timestamptz, per_second integer)
returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return greatest(least(level, per_second * 20) - per_second * abs(date_part('epoch', taken_at - at)), 0) + greatest(aside, 0);
end;
$$;
comment on function private.turns_used is 'How full a bucket is: its level, less the turns that have leaked since, and those taken aside.';

create function private.refuse_turn(seconds numeric)
returns void
language plpgsql set search_path = ''
as $$
begin
  raise exception 'Too many requests; nothing of this one was stored.'
    using errcode = 'PT429', detail = 'rate_limited', hint = greatest(1, ceil(seconds))::text;
end;
$$;
comment on function private.refuse_turn is 'Raise 429; the hint says after how many seconds to come again.';

-- contacts/match_keys.sql
-- Match keys: one mailbox has many spellings and one key, and keys are compared.
--
-- jo.smith@gmail.com and JoSmith+prime@googlemail.com are one. The right domain is suggested beside a mistyped one, for
-- a person to see; nothing is changed.

create type public.identifier_kind as enum ('email', 'phone');

create function private.match_key(kind public.identifier_kind, value text)
returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return case when kind = 'email' then private.email_key(value) else value end;
end;
$$;
comment on function private.match_key is 'The key by which an identifier matches.';

-- A provider that is not named takes dots and tags as part of the name, and so do we: two contacts can be merged,
-- two people in one contact are a leak.
create function private.email_key(address text)
returns text
language plpgsql immutable set search_path = ''
as $$
declare
  given text := lower(address);
  domain text := split_part(given, '@', -1);
  untagged text := split_part(left(given, -length(domain) - 1), '+', 1);
begin
  if untagged = '' then
    return given;
  elsif domain in ('gmail.com', 'googlemail.com') then
    return coalesce(nullif(replace(untagged, '.', ''), ''), untagged) || '@gmail.com';
  elsif domain in ('icloud.com', 'me.com', 'mac.com', 'fastmail.com', 'fastmail.fm', 'proton.me', 'protonmail.com', 'pm.me', 'msn.com')
    -- Microsoft has these names under many countries' endings.
    or domain ~ '^(outlook|hotmail|live)\.((com?\.)?[a-z]{2}|com)$'
  then
    return untagged || '@' || domain;
  end if;
  return given;
end;
$$;
comment on function private.email_key is 'The key by which an address matches: its case, dots and tags dropped where its provider drops them.';

create function private.email_suggestion(address text)
returns text
language plpgsql immutable set search_path = ''
as $$
declare
  domain text := lower(split_part(address, '@', -1));
  name text := split_part(domain, '.', 1);
  ending text := substr(domain, length(name) + 2);
begin
  name := coalesce('{
    "gmial": "gmail", "gmal": "gmail", "gmai": "gmail", "gamil": "gmail", "gnail": "gmail", "gmil": "gmail", "gmaill": "gmail",
    "gmaii": "gmail", "gmqil": "gmail", "gmsil": "gmail", "gimail": "gmail", "ggmail": "gmail", "gmeil": "gmail", "gmall": "gmail",
    "hotmial": "hotmail", "hotmal": "hotmail", "hotmil": "hotmail", "homail": "hotmail", "hotmai": "hotmail", "hotmaill": "hotmail",
    "htmail": "hotmail", "hotamil": "hotmail", "hotnail": "hotmail", "hormail": "hotmail", "hitmail": "hotmail", "hotmali": "hotmail",
    "outlok": "outlook", "outook": "outlook", "oulook": "outlook", "outloook": "outlook", "outlool": "outlook", "outllook": "outlook",
    "yaho": "yahoo", "yahooo": "yahoo", "yhaoo": "yahoo", "yahho": "yahoo", "yaoo": "yahoo", "tahoo": "yahoo",
    "iclod": "icloud", "icoud": "icloud", "iclould": "icloud", "icloude": "icloud", "iclud": "icloud", "icluod": "icloud",
    "protonmial": "protonmail", "protonmal": "protonmail", "xtar": "xtra", "xrta": "xtra"}'::jsonb ->> name, name);
  ending := coalesce('{
    "con": "com", "cmo": "com", "ocm": "com", "vom": "com", "xom": "com", "cpm": "com", "comm": "com", "c0m": "com",
    "co.nx": "co.nz", "co.ns": "co.nz", "co.bz": "co.nz", "c.nz": "co.nz", "co.n": "co.nz", "con.nz": "co.nz",
    "com.ua.au": "com.au", "con.au": "com.au", "cm.au": "com.au", "co.ul": "co.uk", "co.uj": "co.uk", "con.uk": "co.uk"}'::jsonb ->> ending, ending);
  -- .co and .cm are real endings, but no address of these providers ends in them.
  if name in ('gmail', 'hotmail', 'outlook', 'icloud') and ending in ('co', 'cm', 'om', 'cim', 'net') then
    ending := 'com';
  end if;
  return nullif(left(address, -length(domain)) || name || '.' || ending, lower(address));
end;
$$;
comment on function private.email_suggestion is 'The address that was probably meant, when its domain looks mistyped; else null.';

-- contacts/my_assigned_contacts.sql
-- The contacts that a closer reads: those of the leads assigned to the caller.

-- security definer: a closer reads a contact because of a lead, and the leads because of the assignment.
create function private.my_assigned_contacts()
returns setof uuid
language plpgsql stable security definer set search_path = ''
as $$
begin
  return query
  -- A lead is with the visible contact of its family.
  with mine as (
    select leads.org_id, leads.contact_id
    from public.leads
    where leads.assigned_to = (select auth.uid())
      and leads.org_id in (select private.my_orgs('leads.read_assigned'))
  )
  select mine.contact_id from mine
  union
  select merged.id
  from mine
  join public.contacts as merged on merged.org_id = mine.org_id and merged.merged_into = mine.contact_id;
end;
$$;
comment on function private.my_assigned_contacts is 'The contacts of the leads assigned to the caller, with those merged into them.';
grant execute on function private.my_assigned_contacts to authenticated;

-- contacts/contacts.sql
-- Contacts: one per person, whichever site and channel they came through.

create table public.contacts (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null references public.organizations (id),
  name        text,
  language    text,
  time_zone   text,
  merged_into uuid,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),

  constraint contacts_of_org unique (org_id, id),
  constraint contacts_merged_within_org foreign key (org_id, merged_into) references public.contacts (org_id, id),
  constraint contacts_not_into_itself check (merged_into <> id)
);
comment on table public.contacts is 'A person, once, whichever site and channel they came through.';
create index contacts_merged_into_idx on public.contacts (org_id, merged_into) where merged_into is not null;

create trigger contacts_touch before update on public.contacts
  for each row execute function private.touch_updated_at();
create trigger contacts_audit after update or delete on public.contacts
  for each row execute function private.audit_change('users');

alter table public.contacts enable row level security, force row level security;
grant select on public.contacts to authenticated, service_role;
grant update (name, language, time_zone) on public.contacts to authenticated;
create policy "members read contacts, closers those of their leads" on public.contacts for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or id in (select private.my_assigned_contacts()));
create policy "operators change contacts" on public.contacts for update to authenticated
  using (org_id in (select private.my_orgs('contacts.update')))
  with check (org_id in (select private.my_orgs('contacts.update')));

-- contacts/leads.sql
-- Leads: one interest of one contact at one site; a contact may have several.

create type public.lead_stage as enum ('new', 'enriched', 'contacted', 'replied', 'booked', 'won', 'lost');

create table public.leads (
  id             uuid primary key default private.uuid_v7(),
  org_id         uuid not null,
  contact_id     uuid not null,
  home_id        uuid not null,
  folded_into    uuid,
  site_id        uuid not null,
  source         text not null,
  stage          public.lead_stage not null default 'new',
  is_open        boolean not null generated always as (stage not in ('won', 'lost') and folded_into is null) stored,
  score          smallint,
  band           char(1) generated always as (case when score >= 70 then 'A' when score >= 40 then 'B' when score >= 0 then 'C' end) stored,
  reasons        text[] not null default '{}',
  next_step      text,
  scored_by      uuid,
  assigned_to    uuid,
  last_action_at timestamptz,
  created_at     timestamptz not null default now(),
  updated_at     timestamptz not null default now(),

  constraint leads_of_org unique (org_id, id),
  constraint leads_contact foreign key (org_id, contact_id) references public.contacts (org_id, id),
  constraint leads_site foreign key (org_id, site_id) references public.sites (org_id, id),
  constraint leads_assignee foreign key (org_id, assigned_to) references public.memberships (org_id, user_id) on delete set null (assigned_to),
  constraint leads_folded_into foreign key (org_id, folded_into) references public.leads (org_id, id),
  constraint leads_not_into_itself check (folded_into <> id),
  constraint leads_score_range check (score between 0 and 100)
);
comment on table public.leads is 'One interest of one contact at one site; a contact may have several.';
comment on column public.leads.scored_by is 'The event whose qualification gave the score: an older event never overwrites a newer.';
comment on column public.leads.home_id is
  'The contact that it belongs to; contact_id is the contact that holds it because of a merge. No foreign key: a second one would make contacts(name) ambiguous over REST.';
comment on column public.leads.is_open is 'It is neither won nor lost, and no other lead stands for it.';
comment on column public.leads.folded_into is 'Set while the same person''s other lead at this site stands for it because of a merge.';
create unique index leads_one_open on public.leads (org_id, contact_id, site_id) where is_open;
create index leads_contact_idx on public.leads (org_id, contact_id);
create index leads_site_idx on public.leads (org_id, site_id);
create index leads_assignee_idx on public.leads (org_id, assigned_to);
create index leads_folded_into_idx on public.leads (org_id, folded_into) where folded_into is not null;
create index leads_won_idx on public.leads (org_id, contact_id) where stage = 'won';

create trigger leads_touch before update on public.leads
  for each row execute function private.touch_updated_at();
create trigger leads_audit after update or delete on public.leads
  for each row execute function private.audit_change('users');

alter table public.leads enable row level security, force row level security;
grant select on public.leads to authenticated, service_role;
grant update (stage, assigned_to, next_step) on public.leads to authenticated;
create policy "members read leads, closers their own" on public.leads for select to authenticated
  using (
    org_id in (select private.my_orgs('leads.read'))
    or (assigned_to = (select auth.uid()) and org_id in (select private.my_orgs('leads.read_assigned'))));
create policy "operators change leads, closers their own" on public.leads for update to authenticated
  using (
    org_id in (select private.my_orgs('leads.update'))
    or (assigned_to = (select auth.uid()) and org_id in (select private.my_orgs('leads.update_assigned'))))
  with check (
    org_id in (select private.my_orgs('leads.update'))
    or (assigned_to = (select auth.uid()) and org_id in (select private.my_orgs('leads.update_assigned'))));

-- contacts/names.sql
-- Names: whether two may be one person's, and whether one says less than another.

-- "Jo Smith" agrees with "Smith, Jo" and with "Jo"; no name agrees with no name only.
create function private.names_agree(one text, other text)
returns boolean
language plpgsql immutable set search_path = ''
as $$
declare
  words text[] := private.name_words(one);
  other_words text[] := private.name_words(other);
begin
  if cardinality(words) = 0 or cardinality(other_words) = 0 then
    return cardinality(words) = cardinality(other_words);
  end if;
  return words <@ other_words or other_words <@ words;
end;
$$;
comment on function private.names_agree is 'Whether two names may be one person''s.';
grant execute on function private.names_agree to authenticated, service_role;

create function private.says_less(name text, known text)
returns boolean
language plpgsql immutable set search_path = ''
as $$
declare
  words text[] := private.name_words(name);
  known_words text[] := private.name_words(known);
begin
  return words <@ known_words and not known_words <@ words;
end;
$$;
comment on function private.says_less is 'Whether a name is only a part of the one that is known.';

create function private.name_words(name text)
returns text[]
language plpgsql immutable set search_path = ''
as $$
begin
  return array_remove(regexp_split_to_array(lower(coalesce(name, '')), '[^[:alnum:]]+'), '');
end;
$$;
comment on function private.name_words is 'The words of a name, in lower case.';
grant execute on function private.name_words to authenticated, service_role;

-- contacts/merge_candidates.sql
-- Merge candidates: two contacts that may be one person; a user decides.

create type public.merge_decision as enum ('merge', 'keep_apart');

create table public.merge_candidates (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  contact_id  uuid not null,
  other_id    uuid not null,
  reason      text not null,
  decision    public.merge_decision,
  decided_by  uuid,
  decided_at  timestamptz,
  created_at  timestamptz not null default now(),

  constraint merge_candidates_contact foreign key (org_id, contact_id) references public.contacts (org_id, id) on delete cascade,
  constraint merge_candidates_other foreign key (org_id, other_id) references public.contacts (org_id, id) on delete cascade,
  constraint merge_candidates_pair unique (org_id, contact_id, other_id),
  constraint merge_candidates_order check (contact_id < other_id),
  constraint merge_candidates_decided check ((decision is null) = (decided_at is null))
);
comment on table public.merge_candidates is 'Two contacts that may be one person; a person decides.';
comment on column public.merge_candidates.decision is 'The decision of a user; keeping two apart is remembered.';
create index merge_candidates_other_idx on public.merge_candidates (org_id, other_id);
create index merge_candidates_open_idx on public.merge_candidates (org_id, id desc) where decided_at is null;

create trigger merge_candidates_audit after update or delete on public.merge_candidates
  for each row execute function private.audit_change('users');

alter table public.merge_candidates enable row level security, force row level security;
grant select on public.merge_candidates to authenticated, service_role;
create policy "members read merge candidates" on public.merge_candidates for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')));

-- contacts/merge_contacts.sql
-- Merging two contacts that are one person.

create function public.merge_contacts(winner uuid, loser uuid, reason text)
returns jsonb
language sql set search_path = ''
as $$
  select private.merge_contacts_for_caller(winner, loser, reason);
$$;
comment on function public.merge_contacts is 'Merge a contact into another: everything of the loser is seen under the winner. Answers the merge_id that undoes it.';
grant execute on function public.merge_contacts to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.merge_contacts_for_caller(winner uuid, loser uuid, reason text)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.permit((select contacts.org_id from public.contacts where contacts.id = winner), 'contacts.merge');
  perform private.permit((select contacts.org_id from public.contacts where contacts.id = loser), 'contacts.merge');
  return jsonb_build_object('merge_id', private.merge_contacts(winner, loser, reason));
end;
$$;
comment on function private.merge_contacts_for_caller is 'Merge within the caller''s organizations.';
grant execute on function private.merge_contacts_for_caller to authenticated, service_role;

create function private.merge_contacts(winner_id uuid, loser_id uuid, reason text, candidate_id uuid default null)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  winner public.contacts;
  loser public.contacts;
  merge_id uuid := private.uuid_v7();
  folded jsonb;
begin
  if winner_id = loser_id then
    perform private.fail(422, 'same_contact', 'A contact cannot be merged into itself.');
  end if;
  perform private.hold_contacts(array[winner_id, loser_id]);
  select contacts.* into winner from public.contacts where contacts.id = winner_id;
  select contacts.* into loser from public.contacts where contacts.id = loser_id;
  if winner.id is null or loser.id is null or winner.org_id <> loser.org_id then
    perform private.fail(404, 'unknown_contact', 'There is no such contact.');
  elsif winner.merged_into is not null or loser.merged_into is not null then
    perform private.fail(409, 'already_merged', 'One of the two is merged into another contact; merge that one, or undo it.');
  elsif private.are_kept_apart(winner_id, loser_id, candidate_id) then
    perform private.fail(409, 'kept_apart', 'A user decided that these two are not one; decide that candidate anew.');
  end if;

  update public.contacts set merged_into = winner.id
  where contacts.id = loser.id or (contacts.org_id = loser.org_id and contacts.merged_into = loser.id);
  folded := private.fold_leads(winner.org_id, array[winner.id, loser.id]);
  insert into public.contact_merges (id, org_id, winner_id, loser_id, reason, candidate_id, merged_by, moved)
  values (
    merge_id, winner.org_id, winner.id, loser.id, merge_contacts.reason, merge_contacts.candidate_id, (select auth.uid()),
    private.move_rows(winner.org_id, loser.id, winner.id) || jsonb_build_object('folded_leads', folded));

  perform private.write_event(
    winner.org_id, 'contact.merged',
    jsonb_build_object('merge_id', merge_id, 'loser_id', loser.id, 'reason', merge_contacts.reason),
    source => private.doer(), contact_id => winner.id, subject_type => 'contact', subject_id => loser.id);
  return merge_id;
end;
$$;
comment on function private.merge_contacts is 'Make one contact of two, so that it can be undone.';

create function private.are_kept_apart(one uuid, other uuid, except_candidate uuid default null)
returns boolean
language plpgsql stable set search_path = ''
as $$
declare
  family uuid[] := private.contact_family(one);
  other_family uuid[] := private.contact_family(other);
begin
  return exists (
    select from public.merge_candidates as decided
    where decided.org_id = (select contacts.org_id from public.contacts where contacts.id = one)
      and decided.decision = 'keep_apart'
      and decided.id is distinct from except_candidate
      and ((decided.contact_id = any (family) and decided.other_id = any (other_family))
        or (decided.contact_id = any (other_family) and decided.other_id = any (family))));
end;
$$;
comment on function private.are_kept_apart is 'Whether a user decided that these two, or any merged into them, are not one.';
grant execute on function private.are_kept_apart to authenticated, service_role;

create function private.move_rows(org_id uuid, from_contact uuid, to_contact uuid, homes uuid[] default null)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  reference record;
  ids jsonb;
  moved jsonb := '{}';
begin
  for reference in
    select contact_references.table_name from private.contact_references
    where contact_references.on_merge = 'moves' and contact_references.column_name = 'contact_id'
    order by 1
  loop
    execute format(
      'with moved as (
         update public.%I as t set contact_id = $1
         where t.org_id = $2 and t.contact_id = $3 and ($4 is null or t.home_id = any ($4)) returning t.id
       ) select coalesce(jsonb_agg(moved.id), ''[]'') from moved', reference.table_name)
      into ids using to_contact, org_id, from_contact, homes;
    moved := moved || jsonb_build_object(reference.table_name, ids);
  end loop;
  return moved;
end;
$$;
comment on function private.move_rows is 'Move the rows of a contact to another: all, or those of certain homes.';

-- contacts/contact_facts.sql
-- Facts: each thing that is known of a contact, with the event that said it and the time.
--
-- The later event wins, in whatever order they are written: a replayed or late one never overwrites. A correction by
-- a user stays until a user corrects it again. A fact stays with the contact by whose identifier its event came;
-- merges change how facts are read, not whose they are.

create table public.contact_facts (
  org_id     uuid not null,
  contact_id uuid not null,
  key        text not null,
  value      jsonb not null,
  event_id   uuid,
  said_by    uuid,
  said_at    timestamptz not null,

  primary key (org_id, contact_id, key),
  constraint contact_facts_contact foreign key (org_id, contact_id) references public.contacts (org_id, id) on delete cascade,
  constraint contact_facts_key_length check (length(key) between 1 and 100),
  constraint contact_facts_said check (event_id is null or said_by is null)
);
comment on table public.contact_facts is 'The facts about a contact: which event or user said each, and when.';
comment on column public.contact_facts.event_id is 'The event that said it. No foreign key: partitions of events are archived one by one.';
comment on column public.contact_facts.said_by is 'The user who corrected it: events do not overwrite it any more.';

alter table public.contact_facts enable row level security, force row level security;
grant select on public.contact_facts to authenticated, service_role;
create policy "who reads a contact reads its facts" on public.contact_facts for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or contact_id in (select private.my_assigned_contacts()));

create function private.learn_facts(org_id uuid, contact_id uuid, facts jsonb, event_id uuid, said_at timestamptz)
returns void
language plpgsql set search_path = ''
as $$
begin
  insert into public.contact_facts as known (org_id, contact_id, key, value, event_id, said_at)
  select learn_facts.org_id, learn_facts.contact_id, said.key, said.value, learn_facts.event_id, learn_facts.said_at
  from jsonb_each(facts) as said (key, value)
  where said.value not in ('null', '""')
  on conflict on constraint contact_facts_pkey do update
    set value = excluded.value, event_id = excluded.event_id, said_at = excluded.said_at
    where known.said_by is null
      and (known.said_at, known.event_id) < (excluded.said_at, excluded.event_id)
      -- "Jo" after "Jo Smith" says less, not something else.
      and (known.key <> 'name' or known.value = excluded.value
           or not private.says_less(excluded.value #>> '{}', known.value #>> '{}'));

  if facts ? 'name'
    and (select contacts.name from public.contacts where contacts.id = learn_facts.contact_id) is distinct from facts ->> 'name'
  then
    update public.contacts set name = known.value #>> '{}'
    from public.contact_facts as known
    where known.org_id = learn_facts.org_id and known.contact_id = learn_facts.contact_id and known.key = 'name'
      and contacts.id = learn_facts.contact_id and contacts.name is distinct from known.value #>> '{}';
  end if;
end;
$$;
comment on function private.learn_facts is 'Keep the facts that an event said of a contact, unless a later event or a user has said otherwise.';

-- security definer: changing a contact needs no right to write facts.
create function private.learn_correction()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.contact_facts (org_id, contact_id, key, value, said_by, said_at)
  select new.org_id, new.id, said.key, to_jsonb(said.value), (select auth.uid()), now()
  from (values ('name', old.name, new.name), ('language', old.language, new.language)) as said (key, before, value)
  where said.value is distinct from said.before and said.value is not null
  on conflict on constraint contact_facts_pkey do update
    set value = excluded.value, said_by = excluded.said_by, said_at = excluded.said_at, event_id = null;
  return null;
end;
$$;
comment on function private.learn_correction is 'Trigger: a correction by a user is a fact that events do not overwrite.';

create trigger contacts_corrected after update of name, language on public.contacts
  for each row
  when (auth.uid() is not null and (old.name is distinct from new.name or old.language is distinct from new.language))
  execute function private.learn_correction();

-- contacts/contact_family.sql
-- A contact's family: the contact that is visible, and those merged into it.

create function private.visible_contact(contact_id uuid)
returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  return (select coalesce(contacts.merged_into, contacts.id) from public.contacts where contacts.id = visible_contact.contact_id);
end;
$$;
comment on function private.visible_contact is 'The contact under which this contact is visible: itself, or the one it is merged into.';
grant execute on function private.visible_contact to authenticated, service_role;

-- merged_into is always the visible contact, however long the chain of merges: contact_merges keeps the chain.
create function private.contact_family(contact_id uuid)
returns uuid[]
language plpgsql stable set search_path = ''
as $$
declare
  root uuid := private.visible_contact(contact_id);
begin
  return array(
    select root where root is not null
    union all
    select merged.id
    from public.contacts
    join public.contacts as merged on merged.org_id = contacts.org_id and merged.merged_into = contacts.id
    where contacts.id = root);
end;
$$;
comment on function private.contact_family is 'The family of a contact: the visible contact first, then those merged into it.';
grant execute on function private.contact_family to authenticated, service_role;

-- contacts/contact_identifiers.sql
-- Identifiers: addresses and numbers that point to a contact. A strong one points to one contact only; a weak one may
-- be shared.
--
-- They match by a key and keep the spelling that was given. Both rules are computed columns, so no writer can forget
-- them. While a contact is merged into another, its identifiers and leads are with that one, and home_id names the
-- contact to which an unmerge returns them.

create type public.identifier_strength as enum ('strong', 'weak');

create table public.contact_identifiers (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  contact_id  uuid not null,
  home_id     uuid not null,
  kind        public.identifier_kind not null,
  value       text not null,
  match_key   text not null generated always as (private.match_key(kind, value)) stored,
  suggestion  text generated always as (case when kind = 'email' then private.email_suggestion(value) end) stored,
  strength    public.identifier_strength not null,
  event_id    uuid,
  verified_at timestamptz,
  created_at  timestamptz not null default now(),

  constraint contact_identifiers_of_org foreign key (org_id, contact_id) references public.contacts (org_id, id) on delete cascade,
  constraint contact_identifiers_value check (length(value) between 3 and 320)
);
comment on table public.contact_identifiers is 'Addresses and numbers that point to a contact. A strong one points to one contact only; a weak one may be shared.';
comment on column public.contact_identifiers.value is 'The address or number as it was given; messages go to it.';
comment on column public.contact_identifiers.match_key is 'The key by which it matches: jo.smith+prime@gmail.com and josmith@gmail.com have one key.';
comment on column public.contact_identifiers.suggestion is 'The address that was probably meant, when the domain looks mistyped. Nothing is sent to it.';
comment on column public.contact_identifiers.home_id is
  'The contact that it belongs to; contact_id is the contact that holds it because of a merge. No foreign key: a second one would make contacts(name) ambiguous over REST.';
comment on column public.contact_identifiers.event_id is 'The event that first gave it. No foreign key: partitions of events are archived one by one.';
create unique index contact_identifiers_strong_unique on public.contact_identifiers (org_id, kind, match_key) where strength = 'strong';
create index contact_identifiers_contact_idx on public.contact_identifiers (org_id, contact_id);
create unique index contact_identifiers_once on public.contact_identifiers (org_id, kind, match_key, home_id);

alter table public.contact_identifiers enable row level security, force row level security;
grant select on public.contact_identifiers to authenticated, service_role;
create policy "who reads a contact reads its identifiers" on public.contact_identifiers for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or contact_id in (select private.my_assigned_contacts()));

-- contacts/contact_merges.sql
-- Merges: each contact that was merged into another, why, the rows that moved, and whether it was undone.
--
-- The loser stays and names the contact under which it is visible. State (identifiers, leads) moves to the winner and
-- keeps its home_id. Rows that an event said or caused stay with the contact by whose identifier the event came, and are
-- read through private.contact_family. So unmerging is not a guess: all that came by the loser's own identifiers, before
-- or since, is the loser's. private.contact_references says of every table which of the two it does.

create table public.contact_merges (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null,
  winner_id    uuid not null,
  loser_id     uuid not null,
  reason       text not null,
  candidate_id uuid references public.merge_candidates (id) on delete set null,
  moved        jsonb not null default '{}',
  merged_by    uuid,
  merged_at    timestamptz not null default clock_timestamp(),
  undone_by    uuid,
  undone_at    timestamptz,

  constraint contact_merges_winner foreign key (org_id, winner_id) references public.contacts (org_id, id),
  constraint contact_merges_loser foreign key (org_id, loser_id) references public.contacts (org_id, id),
  constraint contact_merges_two check (winner_id <> loser_id),
  constraint contact_merges_reason_length check (length(reason) between 1 and 1000)
);
comment on table public.contact_merges is 'Each contact that was merged into another, why, the rows that moved, and whether it was undone.';
comment on column public.contact_merges.moved is 'The rows that went from the loser to the winner, by table.';
create unique index contact_merges_one_winner on public.contact_merges (org_id, loser_id) where undone_at is null;
create index contact_merges_loser_idx on public.contact_merges (org_id, loser_id, id desc);
create index contact_merges_winner_idx on public.contact_merges (org_id, winner_id, id desc);
create index contact_merges_candidate_idx on public.contact_merges (candidate_id) where candidate_id is not null;

create trigger contact_merges_audit after insert or update or delete on public.contact_merges
  for each row execute function private.audit_change('all');

alter table public.contact_merges enable row level security, force row level security;
grant select on public.contact_merges to authenticated, service_role;
create policy "members read merges" on public.contact_merges for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')));

-- contacts/contact_references.sql
-- Contact references: whether a merge moves a column that holds a contact, or leaves it.

create type private.merge_behaviour as enum ('moves', 'stays');

create table private.contact_references (
  table_name  text not null,
  column_name text not null,
  on_merge    private.merge_behaviour not null,

  primary key (table_name, column_name)
);
comment on table private.contact_references is
  'Every column that holds a contact. A table that moves has contact_id and home_id, and moves by these rows alone; a table that stays is read through contact_family.';

-- contacts/contact_timeline.sql
-- The timeline of a contact: its events and the actions of agents, newest first, a page at a time.
--
-- Ids are made in the order of time in every log, so one id is a cursor for all of them. Each source gives at most one
-- page per contact of the family, from the end of its index; another source is another branch. Row level security
-- decides which rows a caller sees.

create function public.contact_timeline(contact_id uuid, before_cursor uuid default null, page_size integer default 50)
returns table (id uuid, source text, type text, at timestamptz, home_id uuid, site_id uuid, data jsonb)
language plpgsql stable set search_path = ''
-- The planner cannot know which few contacts have most events: it would sort all of theirs for one page.
set enable_sort = off
-- A plan that ends in a sort looks dear enough to compile; it is not.
set jit = off
as $$
declare
  org uuid := (select contacts.org_id from public.contacts where contacts.id = contact_timeline.contact_id);
  cursor_id uuid := coalesce(before_cursor, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
  page integer := least(greatest(page_size, 1), 200);
begin
  return query
  select entry.*
  from unnest(private.contact_family(contact_timeline.contact_id)) as member
  cross join lateral (
    (select events.id, 'event', events.type, events.occurred_at, member, events.site_id, events.data
     from public.events
     where events.org_id = org and events.contact_id = member and events.id < cursor_id
     order by events.id desc limit page)
    union all
    (select actions.id, 'action', actions.decision, actions.created_at, member, null, jsonb_build_object(
       'agent', actions.agent, 'reasons', actions.reasons, 'confidence', actions.confidence, 'outcome', actions.outcome,
       'event_id', actions.event_id, 'lead_id', actions.lead_id)
     from public.agent_actions as actions
     where actions.org_id = org and actions.contact_id = member and actions.id < cursor_id
     order by actions.id desc limit page)
  ) as entry (id, source, type, at, home_id, site_id, data)
  order by entry.id desc
  limit page;
end;
$$;
comment on function public.contact_timeline is
  'Events and actions of a contact and those merged into it, newest first; before_cursor is the id of the last row of the page before. home_id of a row is the contact that it belongs to.';
grant execute on function public.contact_timeline to authenticated, service_role;

-- contacts/cross_sell_events.sql
-- Cross-selling: contacts of one site who asked at another.

-- Read from leads: a form opens one at each site, and leads follow merges and their undoing.
create view public.cross_sell_events with (security_invoker = true) as
select
  leads.id, leads.org_id, leads.contact_id, contacts.name as contact_name,
  known.site_id as known_site_id, known_site.slug as known_site, leads.site_id, sites.slug as site,
  known.created_at as known_at, leads.created_at as asked_at
from public.leads
join public.contacts on contacts.org_id = leads.org_id and contacts.id = leads.contact_id
join public.sites on sites.org_id = leads.org_id and sites.id = leads.site_id
cross join lateral (
  select earlier.site_id, earlier.created_at
  from public.leads as earlier
  where earlier.org_id = leads.org_id and earlier.contact_id = leads.contact_id
    and earlier.site_id <> leads.site_id and earlier.id < leads.id
  order by earlier.id
  limit 1
) as known
join public.sites as known_site on known_site.org_id = leads.org_id and known_site.id = known.site_id
where not exists (
  select from public.leads as before
  where before.org_id = leads.org_id and before.contact_id = leads.contact_id
    and before.site_id = leads.site_id and before.id < leads.id);
comment on view public.cross_sell_events is
  'A person known at one site who asked at another for the first time: one row per person and further site, naming both; id is the lead''s.';
grant select on public.cross_sell_events to authenticated, service_role;
create trigger cross_sell_events_read_only instead of insert or update or delete on public.cross_sell_events
  for each row execute function private.refuse_change();

-- contacts/customers.sql
-- Customers: contacts with a won lead.

create view public.customers with (security_invoker = true) as
select contacts.id, contacts.org_id, contacts.name, won.leads as won_leads, won.sites, contacts.created_at
from (
  select leads.org_id, leads.contact_id, count(*) as leads, array_agg(distinct sites.slug) as sites
  from public.leads
  join public.sites on sites.org_id = leads.org_id and sites.id = leads.site_id
  where leads.stage = 'won'
  group by leads.org_id, leads.contact_id
) as won
join public.contacts on contacts.org_id = won.org_id and contacts.id = won.contact_id;
comment on view public.customers is 'Contacts with a won lead.';
grant select on public.customers to authenticated, service_role;
create trigger customers_read_only instead of insert or update or delete on public.customers
  for each row execute function private.refuse_change();

-- contacts/decide_merge.sql
-- Deciding about a candidate of the merge queue.

create function public.decide_merge(
  candidate uuid, decision public.merge_decision, winner uuid default null, reason text default null)
returns jsonb
language sql set search_path = ''
as $$
  select private.decide_merge_for_caller(candidate, decision, winner, reason);
$$;
comment on function public.decide_merge is 'Decide whether two contacts of the merge queue are one (merge) or not (keep_apart). The older is the winner unless told otherwise.';
grant execute on function public.decide_merge to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.decide_merge_for_caller(candidate uuid, decision public.merge_decision, winner uuid, reason text)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  pair public.merge_candidates;
  one uuid;
  other uuid;
  merge_id uuid;
begin
  perform private.permit(
    (select merge_candidates.org_id from public.merge_candidates where merge_candidates.id = candidate), 'contacts.merge');
  select merge_candidates.* into pair from public.merge_candidates where merge_candidates.id = candidate;
  perform private.hold_contacts(array[pair.contact_id, pair.other_id]);
  one := private.visible_contact(pair.contact_id);
  other := private.visible_contact(pair.other_id);

  if decide_merge_for_caller.decision = 'keep_apart' and one = other then
    perform private.fail(409, 'already_merged', 'These two are merged; undo that merge.');
  elsif decide_merge_for_caller.decision = 'merge' and one <> other then
    winner := case when winner is null then one else private.visible_contact(winner) end;
    if winner is null or winner not in (one, other) then
      perform private.fail(422, 'not_of_the_pair', 'The winner is one of the two.');
    end if;
    merge_id := private.merge_contacts(
      winner, case winner when one then other else one end, coalesce(decide_merge_for_caller.reason, pair.reason), pair.id);
  end if;

  update public.merge_candidates
  set decision = decide_merge_for_caller.decision, decided_at = now(), decided_by = (select auth.uid())
  where merge_candidates.id = pair.id and merge_candidates.decision is distinct from decide_merge_for_caller.decision;
  return jsonb_build_object('candidate_id', pair.id, 'decision', decide_merge_for_caller.decision, 'merge_id', merge_id);
end;
$$;
comment on function private.decide_merge_for_caller is 'Decide about a candidate within the caller''s organizations.';
grant execute on function private.decide_merge_for_caller to authenticated, service_role;

-- contacts/fold_leads.sql
-- Leads of merged contacts: one open lead a site stands for the others, until an unmerge.

-- The furthest of several open leads of one person at one site stands for the others.
create function private.fold_leads(org_id uuid, contacts uuid[])
returns jsonb
language sql set search_path = ''
as $$
  with ranked as (
    select leads.id, first_value(leads.id) over best as stands
    from public.leads
    where leads.org_id = fold_leads.org_id and leads.contact_id = any (contacts)
      and leads.is_open
    window best as (partition by leads.site_id order by leads.stage desc, leads.score desc nulls last, leads.id)
  ), folded as (
    update public.leads set folded_into = ranked.stands
    from ranked
    where leads.id = ranked.id and ranked.stands <> ranked.id
    returning leads.id
  )
  select coalesce(jsonb_agg(folded.id), '[]') from folded;
$$;
comment on function private.fold_leads is 'Let one open lead per site stand for those of several contacts; answers which were folded.';

-- A lead whose stand-in went to another contact stands for itself again, beside the leads that its contact has by now.
create function private.unfold_leads(org_id uuid, contacts uuid[])
returns void
language plpgsql set search_path = ''
as $$
declare
  freed public.leads;
  rival public.leads;
begin
  for freed in
    select leads.*
    from public.leads
    join public.leads as stands on stands.org_id = leads.org_id and stands.id = leads.folded_into
    where leads.org_id = unfold_leads.org_id and leads.contact_id = any (contacts) and stands.contact_id <> leads.contact_id
    order by leads.id
  loop
    select leads.* into rival
    from public.leads
    where leads.org_id = freed.org_id and leads.contact_id = freed.contact_id and leads.site_id = freed.site_id
      and leads.is_open and freed.stage not in ('won', 'lost');
    if rival.id is null then
      update public.leads set folded_into = null where leads.id = freed.id;
    elsif (rival.stage, coalesce(rival.score, -1), freed.id) > (freed.stage, coalesce(freed.score, -1), rival.id) then
      update public.leads set folded_into = rival.id where leads.id = freed.id;
    else
      update public.leads set folded_into = freed.id where leads.id = rival.id;
      update public.leads set folded_into = null where leads.id = freed.id;
    end if;
  end loop;
end;
$$;
comment on function private.unfold_leads is 'Undo the folding of leads whose stand-in is another contact''s.';

-- While two contacts were one, a form of the one may have found the other's lead open. Each that asked keeps a lead.
create function private.reopen_leads(org_id uuid, contacts uuid[], since timestamptz)
returns void
language plpgsql set search_path = ''
as $$
begin
  perform private.open_lead(asked.org_id, asked.contact_id, asked.site_id, asked.source)
  from (
    select distinct on (private.visible_contact(events.contact_id), events.site_id)
           events.org_id, events.contact_id, events.site_id, events.source
    from public.events
    join public.leads on leads.org_id = events.org_id and leads.id = events.subject_id
    where events.org_id = reopen_leads.org_id and events.contact_id = any (contacts)
      and events.type in (select event_types.name from public.event_types where event_types.makes_lead)
      -- An event has its id before it waits for its turn.
      and events.id >= private.uuid_v7_floor(since - interval '1 minute')
      and events.subject_type = 'lead' and events.site_id is not null
      and leads.contact_id <> private.visible_contact(events.contact_id)
      and not exists (
        select from public.leads as theirs
        where theirs.org_id = events.org_id and theirs.contact_id = private.visible_contact(events.contact_id)
          and theirs.site_id = events.site_id and theirs.created_at >= events.recorded_at)
    order by private.visible_contact(events.contact_id), events.site_id, events.id
  ) as asked;
end;
$$;
comment on function private.reopen_leads is 'Open a lead for each contact that asked while merged and whose lead was the other''s.';

-- contacts/golden_contacts.sql
-- Golden contacts: one row per person, with the latest facts of any of their contacts.
--
-- A view cannot differ from the tables it is made of; security_invoker shows each caller the rows that the tables would.
-- So do customers and cross_sell_events.

create view public.golden_contacts with (security_invoker = true) as
select
  contacts.id, contacts.org_id, coalesce(contacts.name, facts.latest ->> 'name') as name,
  coalesce(contacts.language, facts.latest ->> 'language') as language, contacts.time_zone,
  facts.latest - 'name' as attributes, facts.merged_ids, contacts.created_at, contacts.updated_at
from public.contacts
cross join lateral (
  select
    coalesce(jsonb_object_agg(known.key, known.value order by known.said_at, known.event_id) filter (where known.key is not null), '{}') as latest,
    coalesce(array_agg(distinct family.id) filter (where family.id <> contacts.id), '{}') as merged_ids
  from (
    select contacts.id
    union all
    select merged.id from public.contacts as merged where merged.org_id = contacts.org_id and merged.merged_into = contacts.id
  ) as family
  left join public.contact_facts as known on known.org_id = contacts.org_id and known.contact_id = family.id
) as facts
where contacts.merged_into is null;
comment on view public.golden_contacts is
  'The visible contacts: one row per person, without those merged into another, with the latest facts of any of them.';
grant select on public.golden_contacts to authenticated, service_role;
-- Without this trigger a write is a 500: Postgres says that a view cannot be written before it asks for the right.
create trigger golden_contacts_read_only instead of insert or update or delete on public.golden_contacts
  for each row execute function private.refuse_change();

-- contacts/hold_contacts.sql
-- Locking whole families of contacts, for a merge or its undoing.
--
-- A merge never waits for a row while it holds another: it takes all it needs at once or lets go and tries again.

create function private.hold_contacts(contacts uuid[])
returns void
language plpgsql set search_path = ''
as $$
declare
  deadline timestamptz := clock_timestamp() + interval '5 seconds';
begin
  loop
    begin
      perform private.take_contacts(contacts);
      return;
    exception when lock_not_available or deadlock_detected then
      -- The locks go with the block, so that the transaction ahead can finish; then they are asked for again.
      if clock_timestamp() > deadline then
        perform private.fail(503, 'contacts_busy', 'Something else is being done with these contacts. Try again.');
      end if;
      perform pg_sleep(0.002 + random() * 0.02);
    end;
  end loop;
end;
$$;
comment on function private.hold_contacts is 'Lock the families of some contacts until the end of the transaction.';

create function private.take_contacts(contacts uuid[])
returns void
language plpgsql set search_path = ''
as $$
declare
  org uuid := (select contacts.org_id from public.contacts where contacts.id = any (take_contacts.contacts) limit 1);
  visible uuid[];
  family uuid[];
  keys text[];
begin
  select array_agg(distinct private.visible_contact(id)) into visible from unnest(take_contacts.contacts) as id;
  family := array(select unnest(private.contact_family(id)) from unnest(visible) as id order by 1);
  keys := array(
    select identifiers.match_key from public.contact_identifiers as identifiers
    where identifiers.org_id = org and identifiers.contact_id = any (visible)
    order by identifiers.id);

  -- Waits its turn among the submissions of these contacts, then keeps others out.
  perform private.lock_identifiers(org, keys);
  perform from public.contacts where contacts.id = any (family) order by contacts.id for update nowait;
  perform from public.leads where leads.org_id = org and leads.contact_id = any (visible) order by leads.id for update nowait;

  if keys is distinct from array(
      select identifiers.match_key from public.contact_identifiers as identifiers
      where identifiers.org_id = org and identifiers.contact_id = any (visible)
      order by identifiers.id for update nowait)
    or family is distinct from array(select unnest(private.contact_family(id)) from unnest(visible) as id order by 1)
  then
    raise exception 'these contacts changed meanwhile' using errcode = 'lock_not_available';
  end if;
end;
$$;
comment on function private.take_contacts is 'Lock the families of some contacts (identifiers, contacts, leads), or fail at once.';

-- contacts/merge_queue.sql
-- The merge queue: candidates that wait, with agreeing and differing facts side by side.

create view public.merge_queue with (security_invoker = true) as
select
  pair.id, pair.org_id, pair.reason, pair.created_at,
  one.id as contact_id, other.id as other_id,
  one.name, other.name as other_name,
  held.emails, held.other_emails, held.phones, held.other_phones,
  shared.identifiers as shared,
  array_remove(array[
    case when one.name is not null and other.name is not null and private.names_agree(one.name, other.name) then 'name' end,
    case when held.phones && held.other_phones then 'phone' end,
    case when shared.has_email then 'email' end], null) as agrees,
  array_remove(array[
    case when one.name is not null and other.name is not null and not private.names_agree(one.name, other.name) then 'name' end,
    case when not held.phones && held.other_phones and held.phones <> '{}' and held.other_phones <> '{}' then 'phone' end,
    case when not shared.has_email and held.emails <> '{}' and held.other_emails <> '{}' then 'email' end], null) as differs
from public.merge_candidates as pair
join public.contacts as said_one on said_one.org_id = pair.org_id and said_one.id = pair.contact_id
join public.contacts as said_other on said_other.org_id = pair.org_id and said_other.id = pair.other_id
join public.contacts as one on one.org_id = pair.org_id and one.id = coalesce(said_one.merged_into, said_one.id)
join public.contacts as other on other.org_id = pair.org_id and other.id = coalesce(said_other.merged_into, said_other.id)
cross join lateral (
  select
    coalesce(array_agg(value order by identifiers.id) filter (where contact_id = one.id and kind = 'email'), '{}') as emails,
    coalesce(array_agg(value order by identifiers.id) filter (where contact_id = other.id and kind = 'email'), '{}') as other_emails,
    coalesce(array_agg(value order by identifiers.id) filter (where contact_id = one.id and kind = 'phone'), '{}') as phones,
    coalesce(array_agg(value order by identifiers.id) filter (where contact_id = other.id and kind = 'phone'), '{}') as other_phones
  from public.contact_identifiers as identifiers
  where identifiers.org_id = pair.org_id and identifiers.contact_id in (one.id, other.id)
) as held
cross join lateral (
  select
    coalesce(jsonb_agg(jsonb_build_object(
      'kind', ours.kind, 'value', ours.value, 'other_value', theirs.value,
      'event_id', ours.event_id, 'other_event_id', theirs.event_id)), '[]') as identifiers,
    coalesce(bool_or(ours.kind = 'email'), false) as has_email
  from public.contact_identifiers as ours
  join public.contact_identifiers as theirs
    on theirs.org_id = ours.org_id and theirs.contact_id = other.id and theirs.kind = ours.kind and theirs.match_key = ours.match_key
  where ours.org_id = pair.org_id and ours.contact_id = one.id
) as shared
where pair.decided_at is null
  and one.id <> other.id
  and not private.are_kept_apart(one.id, other.id);
comment on view public.merge_queue is
  'Contacts that may be one person, with agreeing and differing facts side by side, and the events that gave the shared ones. decide_merge(id, …) decides.';
grant select on public.merge_queue to authenticated, service_role;
-- Without this trigger a write is a 500: Postgres says that a view cannot be written before it asks for the right.
create trigger merge_queue_read_only instead of insert or update or delete on public.merge_queue
  for each row execute function private.refuse_change();

-- contacts/open_lead.sql
-- The open lead of a contact at a site: found, or made.

create function private.open_lead(org uuid, contact uuid, site uuid, source text)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  visible constant uuid := private.visible_contact(contact);
  lead uuid;
begin
  -- Forms of one contact by different identifiers may be here at once; the index lets one of their leads be.
  select leads.id into lead
  from public.leads
  where leads.org_id = org and leads.contact_id = visible and leads.site_id = site
    and leads.is_open;
  if lead is null then
    insert into public.leads (org_id, contact_id, home_id, site_id, source)
    values (org, visible, contact, site, open_lead.source)
    on conflict (org_id, contact_id, site_id) where is_open
      do update set updated_at = now()
    returning leads.id into lead;
  end if;
  return lead;
end;
$$;
comment on function private.open_lead is 'The open lead of a contact at a site: found, or made.';

-- contacts/opt_out.sql
-- Opting out: a contact is never written to or called again, on a channel or at all.

create function public.opt_out(
  org_id uuid, reason text, contact_id uuid default null, kind public.identifier_kind default null, value text default null,
  channel text default null, event_id uuid default null)
returns jsonb
language sql set search_path = ''
as $$
  select private.opt_out_for_caller(org_id, reason, contact_id, kind, value, channel, event_id);
$$;
comment on function public.opt_out is
  'Never write to or call a contact again (kind and value may name the identifier it was said by), or, without a contact, one identifier. One channel, or all.';
grant execute on function public.opt_out to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.opt_out_for_caller(
  org_id uuid, reason text, contact_id uuid, kind public.identifier_kind, value text, channel text, event_id uuid)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  if opt_out_for_caller.contact_id is null or opt_out_for_caller.contact_id not in (select private.my_assigned_contacts()) then
    perform private.permit(opt_out_for_caller.org_id, 'suppressions.write');
  end if;
  if opt_out_for_caller.contact_id is not null and not exists (
      select from public.contacts where contacts.id = opt_out_for_caller.contact_id and contacts.org_id = opt_out_for_caller.org_id) then
    perform private.fail(404, 'not_found', 'There is no such row here.');
  end if;
  return jsonb_build_object('suppressions', private.opt_out(
    org_id, reason, contact_id, kind, value, channel, event_id));
end;
$$;
comment on function private.opt_out_for_caller is 'Write an opt-out down within the caller''s organizations.';
grant execute on function private.opt_out_for_caller to authenticated, service_role;

create function private.opt_out(
  org_id uuid, reason text, contact_id uuid, kind public.identifier_kind, value text, channel text, event_id uuid)
returns integer
language plpgsql set search_path = ''
as $$
declare
  written integer;
begin
  if opt_out.contact_id is not null then
    -- A merge or its undoing waits, or we wait for it.
    perform from public.contacts where contacts.id = any (private.contact_family(opt_out.contact_id)) order by contacts.id for key share;
  elsif opt_out.value is null or opt_out.kind is null then
    perform private.fail(422, 'nobody_named', 'An opt-out names a contact, or an identifier by kind and value.');
  elsif (opt_out.kind = 'phone' and opt_out.value !~ '^\+[1-9][0-9]{6,14}$') or (opt_out.kind = 'email' and opt_out.value !~ '@') then
    perform private.fail(422, 'bad_identifier', 'A phone number begins with + and its country, as in +64211234567; an e-mail address has an @.');
  end if;
  if opt_out.event_id is not null
     and not exists (select from public.events where events.id = opt_out.event_id and events.org_id = opt_out.org_id) then
    perform private.fail(422, 'unknown_event', 'There is no such event.');
  end if;

  insert into public.suppressions (org_id, contact_id, channel, reason, event_id, said_by, kind, match_key)
  select opt_out.org_id, said.contact_id, opt_out.channel, opt_out.reason, opt_out.event_id, (select auth.uid()), said.kind, said.match_key
  from (
    select speaker, null, null
    from unnest(private.speakers(opt_out.contact_id, opt_out.kind, opt_out.value)) as speaker
    where opt_out.contact_id is not null
    union all
    select null, opt_out.kind, private.match_key(opt_out.kind, lower(opt_out.value))
    where opt_out.contact_id is null
  ) as said (contact_id, kind, match_key)
  order by said.contact_id
  on conflict on constraint suppressions_once do nothing;
  get diagnostics written = row_count;

  if written > 0 then
    perform private.write_event(
      opt_out.org_id, 'contact.opted_out',
      jsonb_strip_nulls(jsonb_build_object('reason', opt_out.reason, 'channel', opt_out.channel, 'kind', opt_out.kind)),
      source => private.doer(), contact_id => opt_out.contact_id, cause_id => opt_out.event_id);
  end if;
  return written;
end;
$$;
comment on function private.opt_out is 'Write an opt-out down, once.';

-- An opt-out by a contact's own identifier is that contact's; any other is every contact's of the family.
create function private.speakers(contact_id uuid, kind public.identifier_kind, value text)
returns uuid[]
language plpgsql stable set search_path = ''
as $$
declare
  family uuid[] := private.contact_family(speakers.contact_id);
  owners uuid[] := array(
    select distinct known.home_id
    from public.contact_identifiers as known
    where known.org_id = (select contacts.org_id from public.contacts where contacts.id = speakers.contact_id)
      and known.kind = speakers.kind and known.match_key = private.match_key(speakers.kind, speakers.value)
    limit 2);
begin
  if cardinality(owners) = 1 and owners <@ family then
    return owners;
  end if;
  return family;
end;
$$;
comment on function private.speakers is 'The contacts for which an opt-out holds that was said by this identifier, or by none that is known.';

-- contacts/resolve_contact.sql
-- Resolving: the contact of a submission. An address decides; a number decides when the name agrees with one contact.
--
-- The answer is the contact by whose identifier the submission came. While that contact is merged into another it is
-- visible under that other, and leads open there; but the event keeps its own contact, so an unmerge has nothing to
-- guess. An ambiguous submission becomes a new contact and a row for a user to judge.

create function private.resolve_contact(org_id uuid, name text, email text, phone text, event_id uuid default null)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  email_key text := private.email_key(email);
  home uuid;
  visible uuid;
  phone_is_known boolean := false;
  email_is_new boolean := false;
  phone_is_new boolean := false;
begin
  perform private.lock_identifiers(resolve_contact.org_id, array[email_key, phone]);

  if email is not null then
    select known.home_id, known.contact_id into home, visible
    from public.contact_identifiers as known
    where known.org_id = resolve_contact.org_id and known.kind = 'email' and known.match_key = email_key
      and known.strength = 'strong';
    email_is_new := home is null;
  end if;
  if phone is not null then
    phone_is_known := exists (
      select from public.contact_identifiers as known
      where known.org_id = resolve_contact.org_id and known.kind = 'phone' and known.match_key = phone);
    if phone_is_known and home is null then
      home := private.holder_of_phone(resolve_contact.org_id, phone, coalesce(name, ''), email is not null);
      visible := private.visible_contact(home);
    end if;
    phone_is_new := not phone_is_known or not exists (
      select from public.contact_identifiers as known
      where known.org_id = resolve_contact.org_id and known.kind = 'phone' and known.match_key = phone
        and known.home_id = home);
  end if;
  if home is null then
    insert into public.contacts (org_id, name) values (resolve_contact.org_id, nullif(name, '')) returning id into home;
    visible := home;
  end if;

  if email_is_new or phone_is_new then
    insert into public.contact_identifiers (org_id, contact_id, home_id, kind, value, strength, event_id)
    select resolve_contact.org_id, visible, home, kind::public.identifier_kind, value,
           strength::public.identifier_strength, resolve_contact.event_id
    from (values ('email', email, 'strong', email_is_new), ('phone', phone, 'weak', phone_is_new)) as given (kind, value, strength, is_new)
    where is_new
    -- An address may be here already as a weak identifier, from before there was a key.
    on conflict do nothing;
  end if;
  if phone_is_new and phone_is_known then
    perform private.doubt_holders(resolve_contact.org_id, home, visible, phone);
  end if;
  return home;
end;
$$;
comment on function private.resolve_contact is 'The contact that gave a name, an address, a number: found, or made.';

create function private.lock_identifiers(org_id uuid, match_keys text[])
returns void
language plpgsql set search_path = ''
as $$
begin
  -- Another submission with the same address or number waits here, and so does a merge.
  -- Sorted by key: two transactions with the same two identifiers cannot lock crosswise.
  perform pg_advisory_xact_lock(key)
  from (
    select distinct hashtextextended(lock_identifiers.org_id || match_key, 0) as key
    from unnest(match_keys) as match_key
    where match_key is not null
    order by 1
  ) as keys;
end;
$$;
comment on function private.lock_identifiers is 'Until the end of the transaction, no other resolves, merges or unmerges a contact with one of these identifiers.';

-- A number decides only for one contact. When several agree by name, the contact known by the number alone is meant.
create function private.holder_of_phone(org_id uuid, phone text, name text, has_email boolean)
returns uuid
language plpgsql stable set search_path = ''
as $$
declare
  homes uuid[];
  all_visible uuid[];
begin
  with holders as (
    select known.home_id as home, known.contact_id as visible, contacts.name
    from public.contact_identifiers as known
    join public.contacts on contacts.id = known.home_id
    where known.org_id = holder_of_phone.org_id and known.kind = 'phone' and known.match_key = holder_of_phone.phone
    -- A number that more than fifty contacts gave says nothing; a contact that comes back is among the newest.
    order by known.home_id desc
    limit 50
  ), agreeing as (
    select home, visible, private.name_words(holders.name) <@ private.name_words(holder_of_phone.name)
                     and private.name_words(holder_of_phone.name) <@ private.name_words(holders.name) as is_exact
    from holders
    -- No name on either side agrees on nothing: then a new address is another person's.
    where private.names_agree(holders.name, holder_of_phone.name) and (holder_of_phone.name <> '' or not has_email)
  ), best as (
    select home, visible from agreeing
    where is_exact or not exists (select from agreeing where is_exact)
  )
  select array_agg(home order by home), array_agg(distinct visible) into homes, all_visible from best;

  if cardinality(all_visible) = 1 then
    return homes[1];
  elsif has_email then
    return null;
  end if;
  return (
    select visible from unnest(all_visible) as visible
    where not exists (
      select from public.contact_identifiers as strong
      where strong.org_id = holder_of_phone.org_id and strong.contact_id = visible and strong.strength = 'strong')
    order by visible
    limit 1);
end;
$$;
comment on function private.holder_of_phone is 'The one contact that has this number, judging by the name; null when there is none or several.';

-- Once, when a contact first gives a number: another contact that has it may be the same person.
create function private.doubt_holders(org_id uuid, home uuid, visible uuid, phone text)
returns void
language plpgsql set search_path = ''
as $$
begin
  insert into public.merge_candidates (org_id, contact_id, other_id, reason)
  select doubt_holders.org_id, least(doubt_holders.home, holder.home), greatest(doubt_holders.home, holder.home), 'same phone'
  from (
    select known.home_id as home
    from public.contact_identifiers as known
    where known.org_id = doubt_holders.org_id and known.kind = 'phone' and known.match_key = doubt_holders.phone
      and known.contact_id <> doubt_holders.visible
    order by known.home_id desc
    limit 5
  ) as holder
  order by 1, 2, 3
  on conflict on constraint merge_candidates_pair do nothing;
end;
$$;
comment on function private.doubt_holders is 'Let a person judge whether a contact is one of those that gave the same number.';

-- contacts/suppressions.sql
-- Suppressions: contacts and identifiers that must not be written to or called any more, and who said so.
--
-- A suppression is of an identifier (this address, this number) or of a contact by whatever identifier, on one channel
-- or on all. A merge makes the stricter side hold for both, because a contact is suppressed when any of its family is.
-- An unmerge never widens: an opt-out that a merged contact said by an identifier clearly its own is its own; any other
-- was written down for each of the family.

create table public.suppressions (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  contact_id uuid,
  kind       public.identifier_kind,
  match_key  text,
  channel    text,
  reason     text not null,
  event_id   uuid,
  said_by    uuid,
  created_at timestamptz not null default now(),

  constraint suppressions_contact foreign key (org_id, contact_id) references public.contacts (org_id, id),
  constraint suppressions_of_one check ((contact_id is null) <> (match_key is null) and (kind is null) = (match_key is null)),
  constraint suppressions_channel_form check (channel ~ '^[a-z][a-z_]{1,29}$'),
  constraint suppressions_match_key_length check (length(match_key) between 3 and 320),
  constraint suppressions_reason_length check (length(reason) between 1 and 1000),
  constraint suppressions_once unique nulls not distinct (org_id, contact_id, kind, match_key, channel)
);
comment on table public.suppressions is 'Identifiers and contacts that must not be written to or called, on a channel or, without one, on all.';
comment on column public.suppressions.match_key is 'The key of the identifier; no contact need have it.';
comment on column public.suppressions.event_id is 'The event in which it was said. No foreign key: partitions of events are archived one by one.';

create trigger suppressions_audit after insert or update or delete on public.suppressions
  for each row execute function private.audit_change('users');

alter table public.suppressions enable row level security, force row level security;
grant select on public.suppressions to authenticated, service_role;
create policy "members read suppressions, closers those of their leads" on public.suppressions for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or contact_id in (select private.my_assigned_contacts()));

create function private.is_suppressed(contact_id uuid, kind public.identifier_kind, value text, channel text)
returns boolean
language plpgsql stable set search_path = ''
as $$
declare
  org uuid := (select contacts.org_id from public.contacts where contacts.id = is_suppressed.contact_id);
  family uuid[] := private.contact_family(is_suppressed.contact_id);
begin
  return exists (
    select from public.suppressions as said
    where said.org_id = org and said.contact_id = any (family)
      and (said.channel is null or said.channel = is_suppressed.channel)
  ) or exists (
    select from public.suppressions as said
    where said.org_id = org and said.contact_id is null and said.kind = is_suppressed.kind
      and said.match_key = private.match_key(is_suppressed.kind, is_suppressed.value)
      and (said.channel is null or said.channel = is_suppressed.channel));
end;
$$;
comment on function private.is_suppressed is 'Whether a contact must not be written to or called by this identifier on this channel.';

-- contacts/unmerge_contacts.sql
-- Taking a merge back.

create function public.unmerge_contacts(merge_id uuid)
returns jsonb
language sql set search_path = ''
as $$
  select private.unmerge_contacts_for_caller(merge_id);
$$;
comment on function public.unmerge_contacts is 'Undo a merge: the loser gets back its own rows, also those that came by its identifiers since.';
grant execute on function public.unmerge_contacts to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.unmerge_contacts_for_caller(merge_id uuid)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.permit(
    (select contact_merges.org_id from public.contact_merges where contact_merges.id = unmerge_contacts_for_caller.merge_id), 'contacts.merge');
  perform private.unmerge_contacts(merge_id);
  return jsonb_build_object('merge_id', merge_id, 'undone', true);
end;
$$;
comment on function private.unmerge_contacts_for_caller is 'Undo a merge within the caller''s organizations.';
grant execute on function private.unmerge_contacts_for_caller to authenticated, service_role;

create function private.unmerge_contacts(merge_id uuid)
returns void
language plpgsql set search_path = ''
as $$
declare
  merge public.contact_merges;
  visible uuid;
  returning_ids uuid[];
begin
  select contact_merges.* into merge from public.contact_merges where contact_merges.id = merge_id;
  perform private.hold_contacts(array[merge.loser_id]);
  -- Asked again: somebody else may have undone it while we waited.
  select contact_merges.* into merge from public.contact_merges where contact_merges.id = merge_id;
  if merge.undone_at is not null then
    perform private.fail(409, 'already_undone', 'This merge is undone already.');
  end if;
  visible := private.visible_contact(merge.loser_id);

  with recursive returning_tree (id) as (
    select merge.loser_id
    union
    select deeper.loser_id
    from returning_tree
    join public.contact_merges as deeper
      on deeper.org_id = merge.org_id and deeper.winner_id = returning_tree.id and deeper.undone_at is null
  )
  select array_agg(returning_tree.id) into returning_ids from returning_tree;

  update public.contact_merges set undone_at = clock_timestamp(), undone_by = (select auth.uid()) where contact_merges.id = merge.id;
  update public.contacts set merged_into = nullif(merge.loser_id, contacts.id) where contacts.id = any (returning_ids);
  perform private.move_rows(merge.org_id, visible, merge.loser_id, returning_ids);
  perform private.unfold_leads(merge.org_id, array[visible, merge.loser_id]);
  perform private.reopen_leads(
    merge.org_id, private.contact_family(visible) || private.contact_family(merge.loser_id), merge.merged_at);
  -- Undoing a merge that the queue proposed decides its candidate.
  update public.merge_candidates set decision = 'keep_apart', decided_at = now(), decided_by = (select auth.uid())
  where merge_candidates.id = merge.candidate_id;

  perform private.write_event(
    merge.org_id, 'contact.unmerged', jsonb_build_object('merge_id', merge.id, 'winner_id', merge.winner_id),
    source => private.doer(), contact_id => merge.loser_id, subject_type => 'contact', subject_id => visible);
end;
$$;
comment on function private.unmerge_contacts is 'Undo a merge: the loser''s own rows, from before or since, return to it.';

-- events/event_types.sql
-- Event types: the catalogue of happenings, one name for each kind, whatever a sender calls it.

create table public.event_types (
  name        text primary key,
  description text not null,
  aliases     text[] not null default '{}',
  from_sites  boolean not null default false,
  makes_lead  boolean not null default false,
  schema      jsonb not null default '{}',
  sample      jsonb not null default '{}',

  constraint event_types_form check (name ~ '^[a-z_]+\.[a-z_]+$')
);
comment on table public.event_types is 'The catalogue of happenings: their names, aliases and schemas.';
comment on column public.event_types.from_sites is 'A site may say that it happened; else only the hub does.';
comment on column public.event_types.makes_lead is 'An event of this type opens a lead, and needs an address or a number for the answer.';

alter table public.event_types enable row level security, force row level security;
grant select on public.event_types to authenticated, service_role;
create policy "everybody signed in may read the catalogue" on public.event_types for select to authenticated
  using ((select auth.uid()) is not null);

-- security definer: writing a type needs no right to change subscriptions.
create function private.learn_event_type()
returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  taken text;
begin
  select other.name into taken from public.event_types as other
  where other.name <> new.name and (other.aliases || other.name) && (new.aliases || new.name);
  if taken is not null then
    perform private.fail(409, 'event_name_taken', new.name || ' or an alias of it is a name of ' || taken || '.');
  end if;
  update public.subscriptions set event_types = subscriptions.event_types where subscriptions.event_types && new.aliases;
  return null;
end;
$$;
comment on function private.learn_event_type is 'Trigger: a name means one thing; subscriptions that used an alias learn its name.';

create trigger event_types_learn after insert or update on public.event_types
  for each row execute function private.learn_event_type();

create function private.canonical_type(type text)
returns text
language plpgsql stable set search_path = ''
as $$
declare
  written text := lower(replace(canonical_type.type, '-', '_'));
begin
  return (select event_types.name from public.event_types
          where event_types.name = written or written = any (event_types.aliases));
end;
$$;
comment on function private.canonical_type is 'The name of a kind of event that may be called by an alias; null for an unknown one.';
grant execute on function private.canonical_type to authenticated, service_role;

create function private.canonical_types(types text[])
returns text[]
language sql stable set search_path = ''
as $$
  select coalesce(array_agg(coalesce(private.canonical_type(written.type), written.type) order by written.place), '{}')
  from unnest(types) with ordinality as written (type, place);
$$;
comment on function private.canonical_types is 'Names for names, aliases and patterns, in their order; an unknown one stays as it is.';
grant execute on function private.canonical_types to authenticated, service_role;

-- events/events.sql
-- Events: each is a thing that happened, with its time and its cause; never changed.
--
-- The table is partitioned month by month by its v7 id, so the primary key is the id alone. Partitions live in
-- private, where no API role reaches past the policies of the parent. work/dispatch_events.sql makes the deliveries.

create table public.events (
  id           uuid not null default private.uuid_v7(),
  org_id       uuid not null references public.organizations (id),
  site_id      uuid,
  type         text not null,
  contact_id   uuid,
  subject_type text,
  subject_id   uuid,
  source       text not null default 'sql',
  data         jsonb not null default '{}',
  trace_id     text not null default replace(gen_random_uuid()::text, '-', ''),
  cause_id     uuid,
  unrecognised boolean not null default false,
  occurred_at  timestamptz not null default now(),
  recorded_at  timestamptz not null default now(),

  constraint events_pkey primary key (id),
  constraint events_site foreign key (org_id, site_id) references public.sites (org_id, id),
  constraint events_contact foreign key (org_id, contact_id) references public.contacts (org_id, id),
  constraint events_data_object check (jsonb_typeof(data) = 'object'),
  constraint events_trace_form check (trace_id ~ '^[0-9a-f]{32}$')
) partition by range (id);
comment on table public.events is 'A thing that happened, with its time and its cause; never changed.';
comment on column public.events.cause_id is 'The event that led to this one. No foreign key: partitions are archived one by one.';
comment on column public.events.unrecognised is 'The catalogue did not know this type when the event came.';
create index events_inbox_idx on public.events (org_id, type, id desc);
create index events_site_idx on public.events (org_id, site_id, id desc);
create index events_contact_idx on public.events (org_id, contact_id, id desc);
create index events_trace_idx on public.events (trace_id);
create index events_cause_idx on public.events (cause_id) where cause_id is not null;
create index events_unrecognised_idx on public.events (org_id, id desc) where unrecognised;

create function private.name_event()
returns trigger
language plpgsql set search_path = ''
as $$
declare
  name text;
begin
  -- The two names that nearly every event has need no look-up. Not a condition of the trigger, which would be parsed
  -- anew in every statement, at 25 µs.
  if new.type in ('form.submitted', 'lead.qualified') then
    new.unrecognised := false;
    return new;
  end if;
  name := private.canonical_type(new.type);
  new.unrecognised := name is null;
  new.type := coalesce(name, new.type);
  return new;
end;
$$;
comment on function private.name_event is 'Trigger: an event is stored under its name; a type that nobody knows is marked.';

create trigger events_append_only before update or delete on public.events
  for each row execute function private.refuse_change();
create trigger events_no_truncate before truncate on public.events
  for each statement execute function private.refuse_change();
create trigger events_name before insert on public.events
  for each row execute function private.name_event();

alter table public.events enable row level security, force row level security;
grant select on public.events to authenticated, service_role;
create policy "members read events, closers those of their leads" on public.events for select to authenticated
  using (org_id in (select private.my_orgs('events.read')) or contact_id in (select private.my_assigned_contacts()));

-- A row out of every range (a clock years off) must not be lost: the default partition takes it.
create table private.events_elsewhere partition of public.events default;

create trigger events_no_truncate before truncate on private.events_elsewhere
  for each statement execute function private.refuse_change();

-- events/event_partitions.sql
-- The partitions of events, made ahead of time.

create function private.make_event_partitions(months_ahead integer default 3)
returns integer
language plpgsql set search_path = '' set lock_timeout = '2s'
as $$
declare
  month timestamptz;
  partition text;
  lower_bound uuid;
  upper_bound uuid;
  has_strays boolean;
  made integer := 0;
begin
  for month in
    select date_trunc('month', now(), 'UTC') + make_interval(months => ahead)
    from generate_series(0, months_ahead) as ahead
  loop
    partition := 'events_' || to_char(month at time zone 'UTC', 'YYYY_MM');
    continue when to_regclass('private.' || partition) is not null;
    lower_bound := private.uuid_v7_floor(month);
    upper_bound := private.uuid_v7_floor(month + interval '1 month');
    -- Rows of this month in the default partition stand in the way, and belong here.
    select exists (select from private.events_elsewhere where id >= lower_bound and id < upper_bound) into has_strays;
    if has_strays then
      alter table public.events detach partition private.events_elsewhere;
    end if;
    execute format('create table private.%I partition of public.events for values from (%L) to (%L)',
      partition, lower_bound, upper_bound);
    if has_strays then
      -- Not through public.events: these happenings were dispatched when they came.
      execute format('insert into private.%I select * from private.events_elsewhere where id >= %L and id < %L',
        partition, lower_bound, upper_bound);
      delete from private.events_elsewhere where id >= lower_bound and id < upper_bound;
      alter table public.events attach partition private.events_elsewhere default;
    end if;
    execute format('create trigger events_no_truncate before truncate on private.%I for each statement execute function private.refuse_change()', partition);
    made := made + 1;
  end loop;
  return made;
end;
$$;
comment on function private.make_event_partitions is 'Make the partitions of events ahead of time; run often.';

select private.make_event_partitions();

-- events/receipts.sql
-- Receipts: each submission that was accepted, by its keys. The same submission again gets the first answer.

create table public.receipts (
  source      text not null,
  key         text not null,
  org_id      uuid not null references public.organizations (id),
  body_sha256 bytea,
  event_id    uuid not null,
  secret_id   uuid,
  created_at  timestamptz not null default now(),
  expires_at  timestamptz not null,

  primary key (source, key),
  constraint receipts_key_length check (length(key) between 1 and 300)
);
comment on table public.receipts is 'Each submission that was accepted, by its keys: the same submission again gets the first answer.';
comment on column public.receipts.secret_id is 'The secret that proved its site, so that a secret can be ended when nobody uses it any more. No foreign key: it would cost a look-up for each form.';
comment on column public.receipts.body_sha256 is 'Null for a pulled submission: any body under this key is the same submission.';
create index receipts_expired_idx on public.receipts (expires_at);
create index receipts_org_idx on public.receipts (org_id);

alter table public.receipts enable row level security, force row level security;
grant select on public.receipts to authenticated, service_role;
create policy "members read receipts" on public.receipts for select to authenticated
  using (org_id in (select private.my_orgs('events.read')));

-- events/sources.sql
-- Sources: who an event came from, read from events.source.

create function private.is_from_outside(source text)
returns boolean
language sql immutable set search_path = ''
as $$
  select source ~ '^(site|pull|webhook|email|phone|sms|whatsapp|provider):';
$$;
comment on function private.is_from_outside is 'Whether somebody outside did the event of this source.';
grant execute on function private.is_from_outside to authenticated, service_role;

-- events/write_event.sql
-- Writing one event; statements that write many insert them themselves.

create function private.write_event(
  org_id uuid, type text, data jsonb, source text default 'hub', site_id uuid default null, contact_id uuid default null,
  subject_type text default null, subject_id uuid default null, cause_id uuid default null, trace_id text default null,
  occurred_at timestamptz default null, id uuid default private.uuid_v7())
returns uuid
language plpgsql set search_path = ''
as $$
begin
  insert into public.events (id, org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, cause_id, occurred_at)
  values (
    write_event.id, write_event.org_id, write_event.site_id, write_event.type, write_event.contact_id, write_event.subject_type,
    write_event.subject_id, write_event.source, write_event.data,
    coalesce(write_event.trace_id, replace(gen_random_uuid()::text, '-', '')), write_event.cause_id,
    coalesce(write_event.occurred_at, now()));
  return write_event.id;
end;
$$;
comment on function private.write_event is 'Write an event; answers its id. The trace is a new one unless it is given.';

-- agents/agents.sql
-- Agents: each decides about events of some types. A version is its brain at a moment.

create type public.agent_status as enum ('idle', 'running', 'paused', 'blocked');

create type public.autonomy as enum ('off', 'draft', 'approve', 'auto');

create table public.agents (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  site_id    uuid,
  kind       text not null,
  name       text not null,
  status     public.agent_status not null default 'idle',
  autonomy   public.autonomy not null default 'auto',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),

  constraint agents_of_org unique (org_id, id),
  constraint agents_name_unique unique (org_id, name),
  constraint agents_site foreign key (org_id, site_id) references public.sites (org_id, id)
);
comment on table public.agents is 'Something that decides: lead qualifier, email responder, voice intake.';
comment on column public.agents.autonomy is 'auto: decisions take effect; approve and draft: each waits for a user''s review; off: its deliveries wait.';
create index agents_site_idx on public.agents (org_id, site_id);

create trigger agents_touch before update on public.agents
  for each row execute function private.touch_updated_at();
create trigger agents_audit after insert or update or delete on public.agents
  for each row execute function private.audit_change('all');

alter table public.agents enable row level security, force row level security;
grant select on public.agents to authenticated, service_role;
grant update (status, autonomy) on public.agents to authenticated;
create policy "members read agents" on public.agents for select to authenticated
  using (org_id in (select private.my_orgs('agents.read')));
create policy "operators pause agents" on public.agents for update to authenticated
  using (org_id in (select private.my_orgs('agents.pause')))
  with check (org_id in (select private.my_orgs('agents.pause')));

-- agents/agent_versions.sql
-- Versions: an agent's rules, prompt, model and limits at a moment. A published one is never edited.

create type public.version_status as enum ('draft', 'published', 'archived');

create table public.agent_versions (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null,
  agent_id     uuid not null,
  version      integer not null,
  config       jsonb not null,
  status       public.version_status not null default 'draft',
  published_at timestamptz,
  created_at   timestamptz not null default now(),

  constraint agent_versions_of_org unique (org_id, id),
  constraint agent_versions_agent foreign key (org_id, agent_id) references public.agents (org_id, id) on delete cascade,
  constraint agent_versions_number unique (agent_id, version),
  constraint agent_versions_published_at check ((status = 'draft') = (published_at is null))
);
comment on table public.agent_versions is 'An agent''s brain at a moment: rules, prompt, model, limits.';
create unique index agent_versions_one_published on public.agent_versions (agent_id) where status = 'published';
create index agent_versions_agent_idx on public.agent_versions (org_id, agent_id);

create function private.guard_agent_version()
returns trigger
language plpgsql set search_path = ''
as $$
begin
  if old.status <> 'draft' and (new.config, new.version, new.agent_id) is distinct from (old.config, old.version, old.agent_id) then
    perform private.fail(409, 'version_published', 'A published version is never edited; make a new one.');
  end if;
  return new;
end;
$$;

create trigger agent_versions_immutable before update on public.agent_versions
  for each row execute function private.guard_agent_version();
create trigger agent_versions_audit after insert or update or delete on public.agent_versions
  for each row execute function private.audit_change('all');

alter table public.agent_versions enable row level security, force row level security;
grant select on public.agent_versions to authenticated, service_role;
create policy "members read agent versions" on public.agent_versions for select to authenticated
  using (org_id in (select private.my_orgs('agents.read')));

-- agents/agent_deployments.sql
-- Deployments: each publishing or rolling back of a version.

create table public.agent_deployments (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  agent_id    uuid not null,
  version_id  uuid not null,
  deployed_by uuid,
  deployed_at timestamptz not null default now(),

  constraint agent_deployments_agent foreign key (org_id, agent_id) references public.agents (org_id, id) on delete cascade,
  constraint agent_deployments_version foreign key (org_id, version_id) references public.agent_versions (org_id, id) on delete cascade
);
comment on table public.agent_deployments is 'Each publishing or rolling back of a version: by whom and when.';
create index agent_deployments_agent_idx on public.agent_deployments (org_id, agent_id, id desc);
create index agent_deployments_version_idx on public.agent_deployments (org_id, version_id);

alter table public.agent_deployments enable row level security, force row level security;
grant select on public.agent_deployments to authenticated, service_role;
create policy "members read agent deployments" on public.agent_deployments for select to authenticated
  using (org_id in (select private.my_orgs('agents.read')));

-- agents/agent_memory.sql
-- Memory: what an agent remembers of a contact or a site.

create table public.agent_memory (
  id              uuid primary key default private.uuid_v7(),
  org_id          uuid not null,
  agent_id        uuid not null,
  subject_type    text not null,
  subject_id      uuid not null,
  key             text not null,
  value           jsonb not null,
  source_event_id uuid,
  expires_at      timestamptz,
  updated_at      timestamptz not null default now(),

  constraint agent_memory_agent foreign key (org_id, agent_id) references public.agents (org_id, id) on delete cascade,
  constraint agent_memory_once unique (agent_id, subject_type, subject_id, key),
  constraint agent_memory_key_length check (length(key) between 1 and 100)
);
comment on table public.agent_memory is 'The facts that an agent remembers of a contact or a site.';
create index agent_memory_agent_idx on public.agent_memory (org_id, agent_id);

create trigger agent_memory_touch before update on public.agent_memory
  for each row execute function private.touch_updated_at();

alter table public.agent_memory enable row level security, force row level security;
grant select on public.agent_memory to authenticated, service_role;
create policy "members read what agents remember" on public.agent_memory for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')));

-- agents/create_version.sql
-- Drafting a version; it decides nothing until it is published.

create function public.create_version(agent text, config jsonb, org_id uuid default null)
returns integer
language sql set search_path = ''
as $$
  select private.create_version_for_caller(agent, config, org_id);
$$;
comment on function public.create_version is 'Draft a version of an agent; it decides nothing until it is published. Answers its number.';
grant execute on function public.create_version to authenticated;

-- security definer: versions are written by nobody but these functions, which ask for the permission themselves.
create function private.create_version_for_caller(agent text, config jsonb, org_id uuid)
returns integer
language plpgsql security definer set search_path = ''
as $$
declare
  made integer;
  owner public.agents := private.agent_named(create_version_for_caller.agent, create_version_for_caller.org_id, 'agents.publish');
begin
  -- Two drafts never get one number.
  perform from public.agents where agents.id = owner.id for update;
  if jsonb_typeof(create_version_for_caller.config) is distinct from 'object' or length(create_version_for_caller.config::text) > 200000 then
    perform private.fail(422, 'bad_config', 'A version is an object of at most 200,000 characters.');
  end if;
  insert into public.agent_versions (org_id, agent_id, version, config)
  select owner.org_id, owner.id, coalesce(max(versions.version), 0) + 1, create_version_for_caller.config
  from public.agent_versions as versions
  where versions.agent_id = owner.id
  returning version into made;
  return made;
end;
$$;
comment on function private.create_version_for_caller is 'Draft a version of an agent; it decides nothing until it is published. Answers its number.';
grant execute on function private.create_version_for_caller to authenticated;

-- security definer: agents of several organizations may have this name; only those of the caller's are looked at.
create function private.agent_named(agent text, org_id uuid, permission text)
returns public.agents
language plpgsql stable security definer set search_path = ''
as $$
declare
  meant public.agents[];
begin
  meant := array(
    select agents from public.agents
    where agents.name = agent_named.agent and (agent_named.org_id is null or agents.org_id = agent_named.org_id)
      and agents.org_id in (select private.caller_orgs(agent_named.permission))
    limit 2);
  if cardinality(meant) = 0 then
    if exists (
      select from public.agents
      where agents.name = agent_named.agent and (agent_named.org_id is null or agents.org_id = agent_named.org_id)
        and agents.org_id in (select private.my_orgs('agents.read')))
    then
      perform private.fail(403, 'not_permitted', format('Your role may see this agent; this needs the permission %s.', permission));
    end if;
    perform private.fail(404, 'unknown_agent', 'There is no such agent of yours.');
  elsif cardinality(meant) > 1 then
    perform private.fail(422, 'which_organization', 'Several of your organizations have this agent: say which, as org_id.');
  end if;
  return meant[1];
end;
$$;
comment on function private.agent_named is 'The agent of this name for which the caller has the permission.';
grant execute on function private.agent_named to authenticated, service_role;

-- agents/publish_version.sql
-- Publishing a version, or going back to an earlier one.

create function public.publish_version(agent text, version integer, org_id uuid default null)
returns uuid
language sql set search_path = ''
as $$
  select private.publish_version_for_caller(agent, version, org_id);
$$;
comment on function public.publish_version is 'Let a version decide from the next claim on; with an earlier number, roll back.';
grant execute on function public.publish_version to authenticated;

-- security definer: nobody writes versions but these functions, which ask for the permission.
create function private.publish_version_for_caller(agent text, version integer, org_id uuid)
returns uuid
language plpgsql security definer set search_path = ''
as $$
begin
  return private.publish_version(
    (private.agent_named(publish_version_for_caller.agent, publish_version_for_caller.org_id, 'agents.publish')).id, publish_version_for_caller.version);
end;
$$;
comment on function private.publish_version_for_caller is 'Let a version decide from the next claim on; with an earlier number, roll back.';
grant execute on function private.publish_version_for_caller to authenticated;

create function private.publish_version(agent_id uuid, version integer)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  chosen public.agent_versions;
begin
  -- One publishing at a time per agent.
  perform from public.agents where agents.id = publish_version.agent_id for update;
  select * into chosen from public.agent_versions as versions
  where versions.agent_id = publish_version.agent_id and versions.version = publish_version.version;
  if chosen.id is null then
    perform private.fail(404, 'unknown_version', 'This agent has no such version.');
  end if;

  update public.agent_versions set status = 'archived'
  where agent_versions.agent_id = publish_version.agent_id and status = 'published' and id <> chosen.id;
  update public.agent_versions set status = 'published', published_at = coalesce(published_at, now())
  where id = chosen.id;
  insert into public.agent_deployments (org_id, agent_id, version_id, deployed_by)
  values (chosen.org_id, chosen.agent_id, chosen.id, (select auth.uid()));
  return chosen.id;
end;
$$;
comment on function private.publish_version is 'Publish a version, or go back to an earlier one; the history keeps both.';

-- work/wants.sql
-- Whether a subscription's patterns name an event type.

create function private.wants(patterns text[], type text)
returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
  -- A pattern can only end in a dot and a star, so a type has few that name it.
  return patterns && array[type, split_part(type, '.', 1) || '.*', '*'];
end;
$$;
comment on function private.wants is 'Whether one of the patterns names this event type.';

-- work/webhook_urls.sql
-- The URLs that a webhook can have.
--
-- A URL that could never be reached is refused when a webhook is made or changed. The addresses behind a name are known
-- only when an event is sent: then the sender looks at each address, by the same ranges.

-- When the hub runs on one machine, partners may be on it too. Everywhere else a URL has TLS.
create function private.is_webhook_url(url text)
returns boolean
language sql immutable set search_path = ''
as $$
  select length(url) <= 2000
    and url ~ '^(https://[a-z0-9.-]+|http://(127\.0\.0\.1|localhost|[a-z0-9.-]+\.localhost))(:[0-9]{1,5})?([/?][!-"$-?A-~]*)?$';
$$;
comment on function private.is_webhook_url is 'Whether a webhook can have this URL: https without user or fragment; http on loopback, which only a local hub sends to.';
grant execute on function private.is_webhook_url to authenticated;

create function private.webhook_url_problem(url text, may_be_local boolean)
returns text
language plpgsql immutable set search_path = ''
as $$
declare
  host text := regexp_replace(substring(url from '^https?://([^/:?]*)'), '\.$', '');
  port integer := substring(url from '^https?://[^/:?]*:([0-9]{1,5})');
  octet constant text := '(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])';
begin
  if not coalesce(private.is_webhook_url(url), false) or (url like 'http:%' and not may_be_local) then
    return 'A webhook''s URL is https with the name of a host, in lower case up to its path, without user or fragment.';
  elsif port not between 1 and 65535 then
    return 'A webhook''s port is between 1 and 65535.';
  elsif may_be_local and (host ~ '(^|\.)localhost$' or host ~ ('^127(\.' || octet || '){3}$')) then
    return null;
  -- Resolvers take a host that ends in a number for an address, in whatever notation: 127.1 and 0x7f.1 are 127.0.0.1.
  elsif host ~ '(^|\.)([0-9]+|0x[0-9a-f]*)$' then
    if host !~ ('^' || octet || '(\.' || octet || '){3}$') then
      return format('The address %s is not written as four decimal numbers.', host);
    elsif host::inet <<= any (
      '{0.0.0.0/8,10.0.0.0/8,100.64.0.0/10,127.0.0.0/8,169.254.0.0/16,172.16.0.0/12,192.0.0.0/24,192.0.2.0/24,
        192.88.99.0/24,192.168.0.0/16,198.18.0.0/15,198.51.100.0/24,203.0.113.0/24,224.0.0.0/3}'::inet[]) then
      return format('The address %s is not public.', host);
    end if;
  -- These endings are reserved for use inside a network, or for none. example is left: documents and tests use it.
  elsif length(host) > 253 or host !~ '^[^.]{1,63}(\.[^.]{1,63})+$'
    or host ~ '(^|\.)(localhost|local|internal|home\.arpa|invalid|test|onion|alt)$' then
    return format('A webhook cannot go to %s: the internet has no such name.', host);
  end if;
  return null;
end;
$$;
comment on function private.webhook_url_problem is 'Why a webhook with this URL could never be reached, as a sentence; null when it might be.';

-- work/subscriptions.sql
-- Subscriptions: each has events of some types delivered to a function or a URL.

create type public.target_kind as enum ('function', 'webhook');

create table public.subscriptions (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null references public.organizations (id),
  name         text not null,
  event_types  text[] not null,
  target_kind  public.target_kind not null default 'function',
  target       text not null,
  agent_id     uuid,
  paused       boolean not null default false,
  ordered      boolean not null default false,
  max_attempts smallint not null default 8,
  retry_base   interval not null default '5 seconds',
  created_at   timestamptz not null default now(),
  updated_at   timestamptz not null default now(),

  constraint subscriptions_of_org unique (org_id, id),
  constraint subscriptions_name_unique unique (org_id, name),
  constraint subscriptions_agent foreign key (org_id, agent_id) references public.agents (org_id, id),
  constraint subscriptions_target_form check (target_kind <> 'function' or target ~ '^[a-z][a-z0-9-]{1,62}$'),
  constraint subscriptions_url_form check (target_kind <> 'webhook' or private.is_webhook_url(target)),
  constraint subscriptions_max_attempts_range check (max_attempts between 1 and 50),
  constraint subscriptions_retry_base_range check (retry_base between interval '0' and interval '1 hour')
);
comment on table public.subscriptions is 'Events of these types are delivered to this function or URL.';
comment on column public.subscriptions.event_types is 'Names, or patterns such as form.*';
comment on column public.subscriptions.ordered is 'One delivery at a time and in order for each contact.';
create index subscriptions_agent_idx on public.subscriptions (org_id, agent_id);
create index subscriptions_target_idx on public.subscriptions (target);
-- Deliveries to a function are claimed by its name, those to a webhook by this expression.
create index subscriptions_webhook_idx on public.subscriptions (('webhook-sender/' || id)) where target_kind = 'webhook';

-- security definer: changing a subscription needs no right to read the catalogue.
create function private.name_subscribed_types()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  new.event_types := private.canonical_types(new.event_types);
  return new;
end;
$$;
comment on function private.name_subscribed_types is 'Trigger: subscriptions hold names, not aliases.';

-- security definer: only the vault knows whether the hub runs on one machine, and admins may not read it.
create function private.refuse_unreachable_webhook()
returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  problem text := private.webhook_url_problem(new.target, exists (
    select from vault.decrypted_secrets
    where decrypted_secrets.name = 'functions_url' and decrypted_secrets.decrypted_secret like 'http://127.0.0.1:%'));
begin
  if problem is not null then
    perform private.fail(422, 'bad_url', problem);
  end if;
  return new;
end;
$$;
comment on function private.refuse_unreachable_webhook is 'Trigger: a webhook has a URL that a partner can be reached at.';

create trigger subscriptions_touch before update on public.subscriptions
  for each row execute function private.touch_updated_at();
create trigger subscriptions_audit after insert or update or delete on public.subscriptions
  for each row execute function private.audit_change('all');
create trigger subscriptions_names before insert or update of event_types on public.subscriptions
  for each row execute function private.name_subscribed_types();
create trigger subscriptions_reachable before insert or update of target, target_kind on public.subscriptions
  for each row when (new.target_kind = 'webhook') execute function private.refuse_unreachable_webhook();

alter table public.subscriptions enable row level security, force row level security;
grant select on public.subscriptions to authenticated, service_role;
grant update (event_types, paused, max_attempts, retry_base) on public.subscriptions to authenticated;
create policy "members read subscriptions" on public.subscriptions for select to authenticated
  using (org_id in (select private.my_orgs('subscriptions.read')));
create policy "admins change subscriptions" on public.subscriptions for update to authenticated
  using (org_id in (select private.my_orgs('subscriptions.write')))
  with check (org_id in (select private.my_orgs('subscriptions.write')));

-- work/replays.sql
-- Replays: requests that put deliveries in line again, or let a version decide about the past.
--
-- A replay is a row and its deliveries point to it, so its progress is a count and a kill changes nothing.

create type public.delivery_mode as enum ('live', 'rehearsal');

create table public.replays (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null references public.organizations (id),
  mode         public.delivery_mode not null,
  filter       jsonb not null,
  subscription text,
  version_id   uuid,
  asked_by     uuid,
  matched      integer not null,
  created_at   timestamptz not null default now(),

  constraint replays_of_org unique (org_id, id),
  constraint replays_version foreign key (org_id, version_id) references public.agent_versions (org_id, id) on delete cascade
);
comment on table public.replays is 'Requests that put deliveries in line again (live), or let a version decide about the past (rehearsal).';
create index replays_list_idx on public.replays (org_id, id desc);
create index replays_version_idx on public.replays (org_id, version_id);

alter table public.replays enable row level security, force row level security;
grant select on public.replays to authenticated, service_role;
create policy "members read replays" on public.replays for select to authenticated
  using (org_id in (select private.my_orgs('deliveries.read')));

-- work/deliveries.sql
-- Deliveries: the duty to bring one event to one subscriber, with lease, attempts and outcome.

create type public.delivery_status as enum ('pending', 'running', 'done', 'failed', 'dead', 'skipped');

create table public.deliveries (
  id                 uuid primary key default private.uuid_v7(),
  org_id             uuid not null,
  event_id           uuid not null,
  subscription_id    uuid not null,
  mode               public.delivery_mode not null default 'live',
  replay_id          uuid,
  version_id         uuid,
  status             public.delivery_status not null default 'pending',
  is_waiting         boolean not null generated always as (status in ('pending', 'failed')) stored,
  attempts           smallint not null default 0,
  run_at             timestamptz not null default now(),
  order_key          uuid,
  lease_token        uuid,
  leased_until       timestamptz,
  claimed_at         timestamptz,
  last_error         text,
  result             jsonb,
  effects_applied_at timestamptz,
  created_at         timestamptz not null default now(),
  updated_at         timestamptz not null default now(),

  constraint deliveries_subscription foreign key (org_id, subscription_id) references public.subscriptions (org_id, id) on delete cascade,
  constraint deliveries_replay foreign key (org_id, replay_id) references public.replays (org_id, id),
  constraint deliveries_version foreign key (org_id, version_id) references public.agent_versions (org_id, id) on delete cascade,
  constraint deliveries_leased check ((status = 'running') = (lease_token is not null))
);
comment on table public.deliveries is 'Each is the duty to bring one event to one subscriber.';
comment on column public.deliveries.event_id is 'No foreign key: only the trigger on events makes deliveries, and partitions of events are archived one by one.';
comment on column public.deliveries.effects_applied_at is 'Effects happen once, however often the delivery is replayed.';
comment on column public.deliveries.replay_id is 'The last replay that put the delivery in line again.';
comment on column public.deliveries.version_id is 'The version that decides; without one, the published version.';
create unique index deliveries_once on public.deliveries (event_id, subscription_id) where mode = 'live';
create index deliveries_subscription_idx on public.deliveries (org_id, subscription_id, id desc);
create index deliveries_due_idx on public.deliveries (subscription_id, run_at) where is_waiting and mode = 'live';
create index deliveries_leased_idx on public.deliveries (leased_until) where status = 'running';
create index deliveries_order_idx on public.deliveries (subscription_id, order_key, id)
  where order_key is not null and status in ('pending', 'failed', 'running');
create index deliveries_dead_idx on public.deliveries (id) where status = 'dead' and mode = 'live';
create unique index deliveries_once_per_rehearsal on public.deliveries (replay_id, event_id, subscription_id) where mode = 'rehearsal';
create index deliveries_replay_idx on public.deliveries (org_id, replay_id) where replay_id is not null;
create index deliveries_version_idx on public.deliveries (org_id, version_id) where version_id is not null;
create index deliveries_failed_idx on public.deliveries (org_id, subscription_id, id) where status in ('failed', 'dead');
create index deliveries_rehearsed_idx on public.deliveries (subscription_id, run_at) where is_waiting and mode = 'rehearsal';

create trigger deliveries_touch before update on public.deliveries
  for each row execute function private.touch_updated_at();

alter table public.deliveries enable row level security, force row level security;
grant select on public.deliveries to authenticated, service_role;
create policy "members read deliveries" on public.deliveries for select to authenticated
  using (org_id in (select private.my_orgs('deliveries.read')));

-- work/willing_subscriptions.sql
-- Willing subscriptions: those whose deliveries may be handled now. Nothing about them is paused or closed.

-- Two halves, so that a function's target is still looked up by its index.
create view private.willing_subscriptions as
  select willing.*
  from (
    select subscriptions.* from public.subscriptions where subscriptions.target_kind = 'function'
    union all
    select
      subscriptions.id, subscriptions.org_id, subscriptions.name, subscriptions.event_types, subscriptions.target_kind,
      'webhook-sender/' || subscriptions.id, subscriptions.agent_id, subscriptions.paused, subscriptions.ordered,
      subscriptions.max_attempts, subscriptions.retry_base, subscriptions.created_at, subscriptions.updated_at
    from public.subscriptions where subscriptions.target_kind = 'webhook'
  ) as willing
  join public.organizations on organizations.id = willing.org_id
  left join public.agents on agents.id = willing.agent_id
  where not willing.paused
    and not organizations.paused
    and organizations.closed_at is null
    and (agents.id is null or (agents.status in ('idle', 'running') and agents.autonomy <> 'off'))
    and not exists (select from public.system_controls where system_controls.name = 'global_pause' and system_controls.is_on);
comment on view private.willing_subscriptions is 'Subscriptions whose deliveries may be handled now, by the target that claims them: nothing about them is paused or closed.';

-- work/replay_filter.sql
-- The filter of a replay, read once: the events that it means, within one organization.

create type private.replay_filter as (
  event_ids uuid[], types text[], statuses public.delivery_status[], since uuid, until uuid, site_ids uuid[], contact_ids uuid[],
  replayed_before timestamptz, most integer);
comment on type private.replay_filter is 'The events that are meant, within one organization; a null field means any.';

create function private.read_replay_filter(org_id uuid, filter jsonb)
returns private.replay_filter
language plpgsql stable set search_path = ''
as $$
declare
  unknown text;
  meant private.replay_filter;
begin
  select key into unknown from jsonb_object_keys(filter) as key
  where key not in ('event_ids', 'types', 'statuses', 'since', 'until', 'site', 'contact_id', 'replayed_before', 'limit') limit 1;
  if unknown is not null then
    perform private.fail(422, 'unknown_filter', 'There is no filter ' || unknown || '.');
  end if;
  -- A delivery that waits or runs is never replayed.
  meant.statuses := array(
    select jsonb_array_elements_text(coalesce(filter -> 'statuses', '["failed", "dead"]')) except values ('pending'), ('running'));
  meant.since := private.uuid_v7_floor((filter ->> 'since')::timestamptz);
  meant.until := private.uuid_v7_floor((filter ->> 'until')::timestamptz);
  meant.replayed_before := filter ->> 'replayed_before';
  meant.most := filter ->> 'limit';
  if meant.most < 1 then
    perform private.fail(422, 'unreadable_filter', 'The limit is 1 or more.');
  end if;
  if filter ? 'event_ids' then
    meant.event_ids := array(select jsonb_array_elements_text(filter -> 'event_ids'));
  end if;
  if filter ? 'types' then
    meant.types := private.canonical_types(array(select jsonb_array_elements_text(filter -> 'types')));
  end if;
  if filter ? 'site' then
    meant.site_ids := array(
      select sites.id from public.sites where sites.org_id = read_replay_filter.org_id and sites.slug = filter ->> 'site');
  end if;
  if filter ? 'contact_id' then
    meant.contact_ids := private.contact_family((filter ->> 'contact_id')::uuid);
  end if;
  return meant;
exception when data_exception then
  perform private.fail(422, 'unreadable_filter', 'The filter cannot be read: ' || sqlerrm || '.');
end;
$$;
comment on function private.read_replay_filter is 'The filter of a request: only failed deliveries unless it names statuses, a contact with those merged into it. A filter that would silently not filter is refused.';
grant execute on function private.read_replay_filter to authenticated, service_role;

create function private.read_event_filter(org_id uuid, filter jsonb)
returns private.replay_filter
language plpgsql stable set search_path = ''
as $$
begin
  if filter ?| '{statuses,replayed_before}' then
    perform private.fail(422, 'unknown_filter', 'A rehearsal has no filter by statuses or replayed_before: it takes events whatever became of their deliveries.');
  end if;
  return private.read_replay_filter(org_id, filter);
end;
$$;
comment on function private.read_event_filter is 'The filter of a rehearsal, or of a comparison of two versions.';
grant execute on function private.read_event_filter to authenticated, service_role;

-- work/change_webhooks.sql
-- Making, changing and removing webhooks, by an admin of the organization.

create function public.create_webhook_subscription(name text, url text, event_types text[], org_id uuid default null)
returns jsonb
language sql set search_path = ''
as $$
  select private.create_webhook_subscription_for_caller(name, url, event_types, org_id);
$$;
comment on function public.create_webhook_subscription is 'Have events of these types posted to a URL. The answer has the signing secret, which is shown only now.';
grant execute on function public.create_webhook_subscription to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.create_webhook_subscription_for_caller(name text, url text, event_types text[], org_id uuid)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  mine uuid[] := array(
    select orgs.id
    from private.caller_orgs('subscriptions.write') as orgs (id)
    where create_webhook_subscription_for_caller.org_id is null or orgs.id = create_webhook_subscription_for_caller.org_id);
  made public.subscriptions;
begin
  if cardinality(mine) = 0 then
    perform private.fail(403, 'not_permitted', 'Your role may not make webhooks.');
  elsif cardinality(mine) > 1 then
    perform private.fail(422, 'which_organization', 'Say for which organization: org_id.');
  elsif coalesce(trim(name), '') = '' or length(name) > 100 then
    perform private.fail(422, 'bad_name', 'A webhook has a name of up to 100 characters.');
  elsif coalesce(cardinality(event_types), 0) not between 1 and 100
    or exists (select from unnest(event_types) as pattern where coalesce(pattern !~ '^(\*|[a-z_]+\.(\*|[a-z_]+))$', true)) then
    perform private.fail(422, 'bad_event_types', 'Event types are names such as form.submitted, or patterns such as form.* or *.');
  elsif exists (select from public.subscriptions where subscriptions.org_id = mine[1] and subscriptions.name = create_webhook_subscription_for_caller.name) then
    perform private.fail(409, 'name_taken', 'There is a subscription of this name.');
  end if;
  -- Forty tries, up to an hour apart, are about a day and a half at most.
  insert into public.subscriptions (org_id, name, event_types, target_kind, target, max_attempts, retry_base)
  values (mine[1], create_webhook_subscription_for_caller.name, create_webhook_subscription_for_caller.event_types, 'webhook', create_webhook_subscription_for_caller.url, 40, '10 seconds')
  returning * into made;
  return jsonb_build_object('id', made.id, 'secret', private.add_webhook_secret(made.id));
end;
$$;
comment on function private.create_webhook_subscription_for_caller is 'Make a webhook in the caller''s organization.';
grant execute on function private.create_webhook_subscription_for_caller to authenticated, service_role;

create function public.rotate_webhook_secret(subscription_id uuid, old_valid_for interval default '1 day')
returns jsonb
language sql set search_path = ''
as $$
  select private.rotate_webhook_secret_for_caller(subscription_id, old_valid_for);
$$;
comment on function public.rotate_webhook_secret is 'A new signing secret for a webhook; until the old one ends, both sign.';
grant execute on function public.rotate_webhook_secret to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.rotate_webhook_secret_for_caller(subscription_id uuid, old_valid_for interval)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  owned public.subscriptions := private.own_webhook(subscription_id);
begin
  if (old_valid_for between interval '0' and interval '30 days') is not true then
    perform private.fail(422, 'bad_overlap', 'The old secret signs for up to 30 days more.');
  end if;
  perform private.write_audit(owned.org_id, 'rotate', 'webhook_secrets', owned.id::text, null, jsonb_build_object('old_valid_for', old_valid_for));
  return jsonb_build_object('id', owned.id, 'secret', private.add_webhook_secret(owned.id, old_valid_for));
end;
$$;
comment on function private.rotate_webhook_secret_for_caller is 'Give a webhook of the caller''s a new secret.';
grant execute on function private.rotate_webhook_secret_for_caller to authenticated, service_role;

create function public.delete_webhook_subscription(subscription_id uuid)
returns void
language sql set search_path = ''
as $$
  select private.delete_webhook_subscription_for_caller(subscription_id);
$$;
comment on function public.delete_webhook_subscription is 'Send nothing more to a webhook, and forget its deliveries. To stop for a while, set paused.';
grant execute on function public.delete_webhook_subscription to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.delete_webhook_subscription_for_caller(subscription_id uuid)
returns void
language plpgsql security definer set search_path = ''
as $$
declare
  owned public.subscriptions := private.own_webhook(subscription_id);
begin
  delete from public.subscriptions where subscriptions.id = owned.id;
end;
$$;
comment on function private.delete_webhook_subscription_for_caller is 'Remove a webhook of the caller''s with its deliveries; the events stay.';
grant execute on function private.delete_webhook_subscription_for_caller to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.own_webhook(subscription_id uuid)
returns public.subscriptions
language plpgsql security definer set search_path = ''
as $$
declare
  owned public.subscriptions;
begin
  select * into owned from public.subscriptions
  where subscriptions.id = own_webhook.subscription_id and subscriptions.target_kind = 'webhook'
    and subscriptions.org_id in (select private.caller_orgs('subscriptions.write'));
  if owned.id is null then
    perform private.fail(404, 'unknown_webhook', 'You may change no webhook with this id.');
  end if;
  return owned;
end;
$$;
comment on function private.own_webhook is 'A webhook that the caller may change, or 404.';

-- work/claim_deliveries.sql
-- Claiming: a function takes a batch of due deliveries under leases, with all that it needs to handle them.

-- Every step goes by an index and takes few rows. The planner cannot know that of a batch whose size is an argument: it
-- planned anew for each call, at several times the price of the call, or read whole tables into hashes.
-- security definer: hub_service may touch no table itself.
create function hub.claim_deliveries(target text, batch_size integer default 10, lease_seconds integer default 20)
returns jsonb
language plpgsql security definer set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $$
begin
  return private.deliveries_in_full(private.lease_deliveries(target, least(batch_size, 100), least(lease_seconds, 600)));
end;
$$;
comment on function hub.claim_deliveries is 'Take up to batch_size due deliveries of a target under a lease, with all that is needed to handle them.';
grant execute on function hub.claim_deliveries to hub_service;

create function private.lease_deliveries(target text, wanted integer, lease_seconds integer)
returns uuid[]
language plpgsql set search_path = ''
as $$
declare
  leased uuid[];
begin
  with willing as (
    select willing_subscriptions.id
    from private.willing_subscriptions
    where willing_subscriptions.target = lease_deliveries.target
    -- At random, so that no tenant's backlog always goes first.
    order by random()
  ),
  live as (
    select next.id
    from willing
    cross join lateral (
      select deliveries.id
      from public.deliveries
      where deliveries.subscription_id = willing.id and deliveries.is_waiting and deliveries.mode = 'live'
        and deliveries.run_at <= now()
        and (deliveries.order_key is null or not exists (
          select from public.deliveries as earlier
          where earlier.subscription_id = deliveries.subscription_id
            and earlier.order_key = deliveries.order_key
            and earlier.id < deliveries.id
            and earlier.status in ('pending', 'failed', 'running')))
      order by deliveries.run_at
      limit wanted
      for update of deliveries skip locked
    ) as next
    limit wanted
  ),
  rehearsed as (
    select next.id
    from willing
    cross join lateral (
      select deliveries.id
      from public.deliveries
      where deliveries.subscription_id = willing.id and deliveries.is_waiting and deliveries.mode = 'rehearsal'
        and deliveries.run_at <= now()
      order by deliveries.run_at
      limit wanted
      for update of deliveries skip locked
    ) as next
    limit wanted - (select count(*) from live)
  ),
  claimed as (
    update public.deliveries
    set status = 'running',
        attempts = deliveries.attempts + 1,
        lease_token = gen_random_uuid(),
        claimed_at = clock_timestamp(),
        leased_until = clock_timestamp() + make_interval(secs => lease_deliveries.lease_seconds)
    from (select live.id from live union all select rehearsed.id from rehearsed) as due
    where deliveries.id = due.id
    returning deliveries.id
  )
  select array_agg(claimed.id) into leased from claimed;
  return leased;
end;
$$;
comment on function private.lease_deliveries is 'Lease the deliveries of a target that are due, live ones before rehearsals; answers their ids.';

create function private.deliveries_in_full(ids uuid[])
returns jsonb
language plpgsql set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', claimed.id,
      'lease_token', claimed.lease_token,
      'attempt', claimed.attempts,
      'mode', claimed.mode,
      'subscription', subscriptions.name,
      'org_id', claimed.org_id,
      'event', jsonb_build_object(
        'id', events.id, 'type', events.type, 'site_id', events.site_id, 'site', sites.slug, 'contact_id', events.contact_id,
        'subject_type', events.subject_type, 'subject_id', events.subject_id, 'source', events.source,
        'data', events.data, 'trace_id', events.trace_id, 'occurred_at', events.occurred_at),
      'contact', case when contacts.id is not null then jsonb_build_object(
        'id', contacts.id, 'name', contacts.name, 'is_repeat', history.earlier > 0, 'earlier_events', history.earlier) end,
      'agent', case when agents.id is not null then jsonb_build_object(
        'id', agents.id, 'name', agents.name, 'version_id', versions.id, 'version', versions.version, 'config', versions.config) end,
      'memory', coalesce(memory.facts, '{}')
    ) order by claimed.mode, claimed.run_at), '[]')
    from public.deliveries as claimed
    join public.subscriptions on subscriptions.id = claimed.subscription_id
    join public.events on events.id = claimed.event_id
    left join public.sites on sites.id = events.site_id
    left join public.contacts as given on given.id = events.contact_id
    left join public.contacts on contacts.id = coalesce(given.merged_into, given.id)
    -- Like private.contact_family, which costs more than all the rest of a row here.
    cross join lateral (
      select contacts.id || array(
        select merged.id from public.contacts as merged where merged.org_id = contacts.org_id and merged.merged_into = contacts.id) as ids
      -- offset 0: worked out once, not at each use.
      offset 0
    ) as family
    left join public.agents on agents.id = subscriptions.agent_id
    left join public.agent_versions as versions on versions.agent_id = agents.id
      and case when claimed.version_id is null then versions.status = 'published' else versions.id = claimed.version_id end
    cross join lateral (
      select count(*) as earlier
      from unnest(family.ids) as home (id)
      cross join lateral (
        select from public.events as before
        where before.org_id = events.org_id and before.contact_id = home.id and before.id < events.id
          -- `is true` forces the index of the contact: that of the type would be read from its beginning.
          and (before.type = events.type) is true
        limit 50
      ) as seen
    ) as history
    -- Only memories from before the event: a replay and a rehearsal see those that the first handling saw, or fewer.
    left join lateral (
      select jsonb_object_agg(agent_memory.key, agent_memory.value order by agent_memory.source_event_id nulls first) as facts
      from public.agent_memory
      where agent_memory.agent_id = agents.id
        and agent_memory.subject_type = 'contact'
        and agent_memory.subject_id = any (family.ids)
        and coalesce(agent_memory.source_event_id < events.id, true)
        and coalesce(agent_memory.expires_at, 'infinity') > now()
    ) as memory on true
    where claimed.id = any (deliveries_in_full.ids));
end;
$$;
comment on function private.deliveries_in_full is 'Deliveries with their event, contact, agent, version and memory, as functions get them.';

-- work/compare_versions.sql
-- Comparing versions: decisions of the latest rehearsals that differ between two versions of an agent, and why.

create function public.compare_versions(agent text, a integer, b integer, filter jsonb default '{}', org_id uuid default null)
returns jsonb
language plpgsql stable set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  compared constant public.agents := private.agent_named(compare_versions.agent, compare_versions.org_id, 'agents.read');
  meant constant private.replay_filter := private.read_event_filter(compared.org_id, filter);
begin
  return (
    with pairs as (
      select
        events.id as event_id, events.type, contacts.name as contact,
        before.decision as was, after.decision as would_be, before.score as score, after.score as new_score,
        array(select unnest(before.reasons) except select unnest(after.reasons)) as reasons_gone,
        array(select unnest(after.reasons) except select unnest(before.reasons)) as reasons_new
      from private.rehearsed(compared.id, a) as before
      join private.rehearsed(compared.id, b) as after on after.event_id = before.event_id
      join public.events on events.id = before.event_id
      left join public.contacts on contacts.id = events.contact_id
      where (meant.event_ids is null or events.id = any (meant.event_ids))
        and (meant.types is null or events.type = any (meant.types))
        and (meant.since is null or events.id >= meant.since)
        and (meant.until is null or events.id < meant.until)
        and (meant.site_ids is null or events.site_id = any (meant.site_ids))
        and (meant.contact_ids is null or events.contact_id = any (meant.contact_ids))
    ),
    changed as (
      select * from pairs where (was, score) is distinct from (would_be, new_score) order by event_id desc
    )
    select jsonb_build_object(
      'agent', compare_versions.agent, 'a', a, 'b', b,
      'compared', (select count(*) from pairs),
      'changed', (select count(*) from changed),
      'decisions', (
        select coalesce(jsonb_agg(jsonb_build_object('from', moved.was, 'to', moved.would_be, 'count', moved.count) order by moved.count desc), '[]')
        from (select was, would_be, count(*) from changed where was is distinct from would_be group by was, would_be) as moved),
      'changes', (
        select coalesce(jsonb_agg(to_jsonb(shown)), '[]')
        from (select * from changed limit coalesce(meant.most, 100)) as shown)));
end;
$$;
comment on function public.compare_versions is 'The decisions of the latest rehearsals that differ between two versions of an agent, and why.';
grant execute on function public.compare_versions to authenticated, service_role;

create function private.rehearsed(agent_id uuid, version integer)
returns table (event_id uuid, decision text, score integer, confidence numeric, reasons text[])
language sql stable set search_path = ''
as $$
  select distinct on (deliveries.event_id)
    deliveries.event_id,
    deliveries.result #>> '{effects,action,decision}',
    (deliveries.result #>> '{effects,lead,score}')::integer,
    (deliveries.result #>> '{effects,action,confidence}')::numeric,
    array(select jsonb_array_elements_text(coalesce(deliveries.result #> '{effects,action,reasons}', '[]')))
  from public.agent_versions as versions
  join public.deliveries on deliveries.org_id = versions.org_id and deliveries.version_id = versions.id
  where versions.agent_id = rehearsed.agent_id and versions.version = rehearsed.version
    and deliveries.mode = 'rehearsal' and deliveries.status = 'done'
  order by deliveries.event_id, deliveries.id desc;
$$;
comment on function private.rehearsed is 'The decisions of a version in its latest rehearsal, by event.';
grant execute on function private.rehearsed to authenticated, service_role;

-- work/delivery_attempts.sql
-- Attempts: each try of a delivery and how it ended.

create table public.delivery_attempts (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  delivery_id uuid not null references public.deliveries (id) on delete cascade,
  attempt     smallint not null,
  outcome     text not null,
  error       text,
  duration_ms integer,
  started_at  timestamptz,
  ended_at    timestamptz not null default clock_timestamp()
);
comment on table public.delivery_attempts is 'Each try of a delivery and how it ended.';
create index delivery_attempts_delivery_idx on public.delivery_attempts (delivery_id);
-- Failures only, so that a delivery that is done costs nothing here and the index stays small.
create index delivery_attempts_failed_idx on public.delivery_attempts (org_id, id) where outcome in ('retry', 'dead', 'lapsed');

alter table public.delivery_attempts enable row level security, force row level security;
grant select on public.delivery_attempts to authenticated, service_role;
create policy "members read delivery attempts" on public.delivery_attempts for select to authenticated
  using (org_id in (select private.my_orgs('deliveries.read')));

-- work/dispatch_events.sql
-- Dispatch: one delivery per matching subscription, one kick per target and statement.

-- security definer: writing an event needs no right to write deliveries.
create function private.dispatch_events()
returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  waiting text[];
begin
  with made as (
    insert into public.deliveries (org_id, event_id, subscription_id, order_key)
    select fresh.org_id, fresh.id, subscriptions.id, case when subscriptions.ordered then fresh.contact_id end
    from fresh
    join public.subscriptions on subscriptions.org_id = fresh.org_id and private.wants(subscriptions.event_types, fresh.type)
    where (fresh.cause_id is null and fresh.type not in ('alert.opened', 'alert.closed'))
       or not private.is_echo(fresh.id, fresh.cause_id, subscriptions.id)
    returning subscription_id
  )
  select array_agg(distinct willing.target) into waiting
  from made
  join private.willing_subscriptions as willing on willing.id = made.subscription_id;

  if waiting is not null then
    perform private.kick(target) from unnest(waiting) as target;
  end if;
  return null;
end;
$$;
comment on function private.dispatch_events is 'Trigger: one delivery per matching subscription, one kick per target and statement.';

create trigger events_dispatch after insert on public.events
  referencing new table as fresh
  for each statement execute function private.dispatch_events();

-- An agent never gets an event that its own action caused. A partner only reads, so it may get an event whose cause it
-- was sent; but never, in circles, the news that it cannot be reached.
create function private.is_echo(event_id uuid, cause_id uuid, subscription_id uuid)
returns boolean
language plpgsql stable set search_path = ''
as $$
declare
  subscriber public.subscriptions;
begin
  select * into subscriber from public.subscriptions where subscriptions.id = is_echo.subscription_id;
  if subscriber.target_kind = 'function' then
    return is_echo.cause_id is not null and private.has_acted_on_cause(is_echo.cause_id, subscriber.id);
  end if;
  return exists (
    with recursive chain (id, type, data, cause_id) as (
      select events.id, events.type, events.data, events.cause_id
      from public.events where events.id = is_echo.event_id
      union
      select events.id, events.type, events.data, events.cause_id
      from chain
      join public.events on events.id = chain.cause_id
    )
    select from chain
    where (chain.type = 'delivery.dead' and chain.data ->> 'subscription' = subscriber.name)
       or (chain.type in ('alert.opened', 'alert.closed') and chain.data #>> '{details,subscription}' = subscriber.name));
end;
$$;
comment on function private.is_echo is 'Whether a subscriber itself caused an event, so that delivering it there would never end.';

create function private.has_acted_on_cause(cause_id uuid, subscription_id uuid)
returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return exists (
    with recursive chain (id) as (
      select has_acted_on_cause.cause_id
      union
      select events.cause_id
      from chain
      join public.events on events.id = chain.id and events.cause_id is not null
    )
    select from chain
    join public.deliveries on deliveries.event_id = chain.id
    -- A rehearsal did not act.
    where deliveries.subscription_id = has_acted_on_cause.subscription_id and deliveries.mode = 'live');
end;
$$;
comment on function private.has_acted_on_cause is 'Whether a subscription was delivered one of the events that led to this one.';

-- work/due_work.sql
-- Due work: when the oldest live delivery of each willing subscription was due.

create view private.due_work as
  select willing.id as subscription_id, willing.org_id, willing.name, willing.target, oldest.run_at as due_since
  from private.willing_subscriptions as willing
  cross join lateral (
    select deliveries.run_at
    from public.deliveries
    where deliveries.subscription_id = willing.id and deliveries.is_waiting and deliveries.mode = 'live'
      and deliveries.run_at <= now()
    order by deliveries.run_at
    limit 1
  ) as oldest;
comment on view private.due_work is 'Willing subscriptions with a live delivery that is due, and the time since which the oldest is.';

-- work/extend_leases.sql
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

-- work/invoke.sql
-- Calling a function over HTTP: the one place in the database that knows URL and secret.

create function private.invoke(name text, body jsonb default '{}', timeout_ms integer default 2000)
returns bigint
language plpgsql set search_path = ''
as $$
declare
  base text;
  key text;
begin
  select max(decrypted_secret) filter (where decrypted_secrets.name = 'functions_url'),
         max(decrypted_secret) filter (where decrypted_secrets.name = 'hub_invoke_secret')
  into base, key
  from vault.decrypted_secrets
  where decrypted_secrets.name in ('functions_url', 'hub_invoke_secret');
  if base is null or key is null then
    perform private.fail(500, 'vault_secret_missing', 'The vault lacks functions_url or hub_invoke_secret.');
  end if;
  return net.http_post(
    url => base || '/' || invoke.name,
    body => body,
    headers => jsonb_build_object(
      'Content-Type', 'application/json',
      'apikey', key,
      'traceparent', format('00-%s-%s-01', replace(gen_random_uuid()::text, '-', ''),
                            left(replace(gen_random_uuid()::text, '-', ''), 16))),
    timeout_milliseconds => timeout_ms);
end;
$$;
comment on function private.invoke is 'Call a function over HTTP, after commit. The only place that knows URL and secret.';

-- work/kick.sql
-- Kicks: a function that has deliveries waiting is called.
--
-- pg_net may lose a kick: the sweep finds what is due. One kick in a tenth of a second is enough for a target, because
-- a kicked function lingers and finds what comes meanwhile.

create table private.kicks (
  target     text primary key,
  kicked_at  timestamptz not null default '-infinity',
  failures   integer not null default 0,
  last_error text,
  failed_at  timestamptz
) with (fillfactor = 50);
comment on table private.kicks is 'When each target was last kicked, and why a kick failed. The event stands all the same: the sweep delivers it later.';

create function private.kick(target text)
returns boolean
language plpgsql set search_path = ''
as $$
declare
  moment constant timestamptz := clock_timestamp();
begin
  -- A time in the future was written by a clock that was set back.
  if exists (
    select from private.kicks
    where kicks.target = kick.target and kicks.kicked_at between moment - interval '100 milliseconds' and moment)
  -- One of the kicks at the same instant is enough, and nobody waits for its commit.
    or not pg_try_advisory_xact_lock(hashtext(kick.target), (extract(epoch from moment) * 10 % 1000000000)::integer)
  then
    return false;
  end if;
  update private.kicks
  set kicked_at = moment
  from (select free.target from private.kicks as free where free.target = kick.target for update skip locked) as mine
  where kicks.target = mine.target;
  begin
    perform private.invoke(kick.target, jsonb_build_object('target', kick.target));
  exception when others then
    update private.kicks
    set failures = kicks.failures + 1, last_error = sqlerrm, failed_at = now()
    from (select free.target from private.kicks as free where free.target = kick.target for update skip locked) as mine
    where kicks.target = mine.target;
    return false;
  end;
  return true;
end;
$$;
comment on function private.kick is 'Call a function that has deliveries waiting; at most every 100 ms, and never an error for the caller.';

create function private.kick_target(subscription public.subscriptions)
returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return case subscription.target_kind when 'webhook' then 'webhook-sender/' || subscription.id else subscription.target end;
end;
$$;
comment on function private.kick_target is 'The path at which a subscription''s function is kicked.';

-- security definer: changing a subscription needs no right to write kicks.
create function private.follow_target()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_op = 'DELETE' then
    delete from private.kicks where kicks.target = private.kick_target(old);
  else
    insert into private.kicks (target) values (private.kick_target(new)) on conflict on constraint kicks_pkey do nothing;
  end if;
  return null;
end;
$$;
comment on function private.follow_target is 'Trigger: a target that can be kicked has a row, and a webhook that is gone has none.';
create trigger subscriptions_kicks after insert or update of target on public.subscriptions
  for each row execute function private.follow_target();
create trigger subscriptions_no_kicks after delete on public.subscriptions
  for each row when (old.target_kind = 'webhook') execute function private.follow_target();

-- work/mark_dead.sql
-- Dead deliveries: a delivery that is tried no more stays, with its error; an alert and an event say so.

create function private.mark_dead(delivery_id uuid, error text)
returns void
language plpgsql set search_path = ''
as $$
declare
  dead record;
begin
  update public.deliveries
  set status = 'dead', last_error = mark_dead.error, lease_token = null, leased_until = null
  where deliveries.id = mark_dead.delivery_id;

  select
    deliveries.mode, events.id as event_id, events.org_id, events.site_id, events.contact_id, events.type, events.trace_id,
    case when events.subject_type = 'lead' then events.subject_id end as lead_id,
    subscriptions.name, agents.id as agent_id, agents.name as agent, versions.id as version_id
  into dead
  from public.deliveries
  join public.events on events.id = deliveries.event_id
  join public.subscriptions on subscriptions.id = deliveries.subscription_id
  left join public.agents on agents.id = subscriptions.agent_id
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  where deliveries.id = mark_dead.delivery_id;

  -- Nobody was promised anything by a rehearsal.
  if dead.mode = 'rehearsal' then
    return;
  end if;

  if dead.version_id is not null then
    begin
      insert into public.agent_actions (
        org_id, agent_id, agent, version_id, delivery_id, event_id, contact_id, lead_id, decision, reasons, outcome, trace_id)
      values (
        dead.org_id, dead.agent_id, dead.agent, dead.version_id, mark_dead.delivery_id, dead.event_id, dead.contact_id,
        dead.lead_id, 'dead', array[mark_dead.error], 'failed', dead.trace_id);
    exception when others then
      -- The failed run may be unwritable for the reason that the delivery is dead: it is marked all the same.
      raise warning 'the failed run of delivery % could not be written: %', mark_dead.delivery_id, sqlstate;
    end;
  end if;

  -- When a subscriber is down, all its deliveries are dead for one reason, which is told once.
  perform private.open_alert(
    dead.org_id, 'delivery_dead', mark_dead.delivery_id::text, 'critical',
    format('The delivery of a %s event to %s is dead: %s', dead.type, dead.name, mark_dead.error),
    jsonb_build_object('event_id', dead.event_id, 'subscription', dead.name, 'trace_id', dead.trace_id),
    topic => dead.name, event_id => dead.event_id, site_id => dead.site_id);

  -- A subscriber that fails on every event would otherwise make dead deliveries without end.
  if dead.type <> 'delivery.dead' then
    perform private.write_event(
      dead.org_id, 'delivery.dead',
      jsonb_build_object('delivery_id', mark_dead.delivery_id, 'subscription', dead.name, 'error', mark_dead.error),
      site_id => dead.site_id, contact_id => dead.contact_id, subject_type => 'delivery', subject_id => mark_dead.delivery_id,
      cause_id => dead.event_id, trace_id => dead.trace_id);
  end if;
end;
$$;
comment on function private.mark_dead is 'Make a delivery dead: it stays with its error; an alert and an event say so.';

-- work/overdue_targets.sql
-- Overdue targets: functions with work waiting that the database should have kicked.
--
-- Both the trigger on events and the sweep kick through pg_net. When pg_net sends nothing, or pg_cron runs nothing, a
-- clock outside of the database asks here, and kicks the targets itself.

-- security definer: hub_service may touch no table itself.
create function hub.overdue_targets()
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  -- The sweep takes back leases that ran out; its own job may stand still.
  perform private.sweep_deliveries();
  return (
    select coalesce(jsonb_agg(overdue.target), '[]')
    from (
      select due.target from private.due_targets(for_at_least => '10 seconds') as due (target)
      union
      select 'pull-site' where exists (select from private.due_pulls() as due where due.next_at <= now() - interval '1 minute')
      limit 100
    ) as overdue);
end;
$$;
comment on function hub.overdue_targets is 'Take back leases that ran out; answer the targets whose work has been due for ten seconds, pulls for a minute.';
grant execute on function hub.overdue_targets to hub_service;

-- work/prune_history.sql
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

-- work/rehearse_events.sql
-- Rehearsing: a version of an agent decides about past events, without effects.
--
-- A rehearsal's delivery is claimed like any other, after all live ones. Its would-be effects stay in its result.

create function private.rehearse_events(org_id uuid, filter jsonb, subscription text, version integer, dry_run boolean)
returns jsonb
language plpgsql set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  subscriber public.subscriptions;
  brain uuid;
  chosen uuid[];
  replay uuid;
  meant constant private.replay_filter := private.read_event_filter(org_id, filter);
begin
  select * into subscriber from public.subscriptions
  where subscriptions.org_id = rehearse_events.org_id and subscriptions.name = rehearse_events.subscription
    and subscriptions.agent_id is not null;
  if not found then
    return null;
  end if;
  select id into brain from public.agent_versions as versions
  where versions.agent_id = subscriber.agent_id
    and case when rehearse_events.version is null then versions.status = 'published' else versions.version = rehearse_events.version end;
  if brain is null then
    perform private.fail(404, 'unknown_version', 'This agent has no such version.');
  end if;

  chosen := array(
    select events.id
    from public.events
    where events.org_id = rehearse_events.org_id
      and private.wants(subscriber.event_types, events.type)
      and (events.cause_id is null or not private.has_acted_on_cause(events.cause_id, subscriber.id))
      and (meant.event_ids is null or events.id = any (meant.event_ids))
      and (meant.types is null or events.type = any (meant.types))
      and (meant.since is null or events.id >= meant.since)
      and (meant.until is null or events.id < meant.until)
      and (meant.site_ids is null or events.site_id = any (meant.site_ids))
      and (meant.contact_ids is null or events.contact_id = any (meant.contact_ids))
    order by events.id desc
    limit least(coalesce(meant.most, 1000), 10000));
  if dry_run or cardinality(chosen) = 0 then
    return jsonb_build_object('matched', cardinality(chosen));
  end if;

  insert into public.replays (org_id, mode, filter, subscription, version_id, asked_by, matched)
  values (rehearse_events.org_id, 'rehearsal', filter, subscriber.name, brain, (select auth.uid()), cardinality(chosen))
  returning id into replay;
  insert into public.deliveries (org_id, event_id, subscription_id, mode, replay_id, version_id)
  select subscriber.org_id, event_id, subscriber.id, 'rehearsal', replay, brain from unnest(chosen) as event_id;
  perform private.kick(willing.target) from private.willing_subscriptions as willing where willing.id = subscriber.id;
  return jsonb_build_object('matched', cardinality(chosen), 'replay_id', replay);
end;
$$;
comment on function private.rehearse_events is 'Let a version of an agent decide about past events, without effects: the latest 1000 unless the filter has a limit, 10000 at most. Null where no agent has such a subscription.';

create function private.prune_rehearsals()
returns void
language plpgsql set search_path = ''
as $$
begin
  delete from public.deliveries using public.replays
  where deliveries.org_id = replays.org_id and deliveries.replay_id = replays.id and deliveries.mode = 'rehearsal'
    and replays.mode = 'rehearsal' and replays.created_at < now() - interval '30 days';
  delete from public.replays where replays.mode = 'rehearsal' and replays.created_at < now() - interval '30 days';
end;
$$;
comment on function private.prune_rehearsals is 'Remove rehearsals that nobody compares any more.';

-- work/replay_events.sql
-- Replaying: failed deliveries are put in line again. Effects that happened do not happen again.

create function public.replay_events(
  filter jsonb default '{}', subscription text default null, mode text default 'live', version integer default null, dry_run boolean default true)
returns jsonb
language sql set search_path = ''
as $$
  -- A null dry_run is an argument left out: it never means to replay.
  select private.replay_events_for_caller(coalesce(filter, '{}'), subscription, coalesce(mode, 'live'), version, coalesce(dry_run, true));
$$;
comment on function public.replay_events is 'Put failed deliveries in line again, or (mode rehearsal) let a version decide about past events without effects. Filter: event_ids, types, statuses, since, until, site, contact_id, replayed_before, limit. At most 5000 at once: while more is true, ask again, with the first answer''s began as replayed_before. A dry run unless told otherwise.';
grant execute on function public.replay_events to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission to replay.
create function private.replay_events_for_caller(filter jsonb, subscription text, mode text, version integer, dry_run boolean)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  organization uuid;
  organizations uuid[] := '{}';
  replayed jsonb;
  ids jsonb := '[]';
  matched integer := 0;
  is_known boolean := false;
  more boolean := false;
begin
  if mode not in ('live', 'rehearsal') then
    perform private.fail(422, 'unknown_mode', 'The mode is live or rehearsal.');
  end if;
  if mode = 'live' and version is not null then
    perform private.fail(422, 'version_in_live_mode', 'Live deliveries are handled by the published version.');
  end if;

  for organization in
    select private.caller_orgs('events.replay')
  loop
    organizations := organizations || organization;
    replayed := case mode
      when 'live' then private.replay_deliveries(organization, filter, subscription, dry_run)
      else private.rehearse_events(organization, filter, subscription, version, dry_run) end;
    matched := matched + coalesce((replayed ->> 'matched')::integer, 0);
    is_known := is_known or replayed is not null;
    more := more or coalesce((replayed ->> 'more')::boolean, false);
    ids := ids || coalesce(replayed -> 'replay_id', '[]');
  end loop;
  if organization is null then
    perform private.fail(403, 'not_permitted', 'Your role may not replay events.');
  end if;
  if not is_known then
    perform private.fail(422, 'unknown_subscription', 'A rehearsal needs the name of an agent''s subscription.');
  end if;
  -- Without this a mistyped name would look like nothing to do.
  if subscription is not null and not exists (
    select from public.subscriptions
    where subscriptions.org_id = any (organizations) and subscriptions.name = replay_events_for_caller.subscription)
  then
    perform private.fail(422, 'unknown_subscription', format('You have no subscription %s.', subscription));
  end if;
  if filter ? 'site' and not exists (
    select from public.sites where sites.org_id = any (organizations) and sites.slug = filter ->> 'site')
  then
    perform private.fail(422, 'unknown_site', format('You have no site %s.', filter ->> 'site'));
  end if;
  return jsonb_build_object(
    'matched', matched, 'more', more, 'began', now(), 'dry_run', dry_run, 'mode', mode, 'replay_ids', ids);
end;
$$;
comment on function private.replay_events_for_caller is 'Replay within the caller''s organizations.';
grant execute on function private.replay_events_for_caller to authenticated, service_role;

create function private.replay_deliveries(org_id uuid, filter jsonb, subscription text, dry_run boolean)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  -- One request can do no more before REST ends it; the next request takes the next deliveries.
  most constant integer := 5000;
  chosen uuid[];
  replay uuid;
  subscriptions uuid[];
  matched integer;
  is_all boolean;
  meant constant private.replay_filter := private.read_replay_filter(org_id, filter);
begin
  if dry_run then
    return (
      select jsonb_build_object('matched', count(*), 'more', count(*) = 100000)
      from private.chosen_for_replay(replay_deliveries.org_id, meant, replay_deliveries.subscription, 100000));
  end if;
  chosen := array(select private.chosen_for_replay(replay_deliveries.org_id, meant, replay_deliveries.subscription, most));
  if cardinality(chosen) = 0 then
    return jsonb_build_object('matched', 0);
  end if;

  is_all := cardinality(chosen) < most;
  insert into public.replays (org_id, mode, filter, subscription, asked_by, matched)
  values (replay_deliveries.org_id, 'live', filter, replay_deliveries.subscription, (select auth.uid()), cardinality(chosen))
  returning id into replay;
  -- The status is asked again: one of the deliveries may have been done meanwhile.
  with replayed as (
    update public.deliveries
    set status = 'pending', attempts = 0, run_at = now(), replay_id = replay
    where deliveries.id = any (chosen) and deliveries.status = any (meant.statuses)
    returning deliveries.id, deliveries.subscription_id
  )
  select array_agg(replayed.id), array_agg(distinct replayed.subscription_id), count(*) into chosen, subscriptions, matched from replayed;
  update public.alerts set closed_at = now()
  where alerts.org_id = replay_deliveries.org_id and alerts.kind = 'delivery_dead' and alerts.closed_at is null
    and alerts.subject in (select id::text from unnest(chosen) as id);
  perform private.write_audit(replay_deliveries.org_id, 'replay', 'deliveries', coalesce(replay_deliveries.subscription, '*'), null,
    jsonb_build_object('replay_id', replay, 'filter', filter, 'deliveries', matched));
  perform private.kick(waiting.target)
  from (select distinct target from private.willing_subscriptions where id = any (subscriptions)) as waiting;
  return jsonb_build_object('matched', matched, 'replay_id', replay, 'more', not is_all);
end;
$$;
comment on function private.replay_deliveries is 'Put deliveries in line again. Effects that happened do not happen again.';

create function private.chosen_for_replay(org_id uuid, meant private.replay_filter, subscription text, most integer)
returns setof uuid
language plpgsql stable set search_path = ''
-- A plan for each filter: that for one event differs from that for all of a month.
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  select deliveries.id
  from public.deliveries
  join public.events on events.id = deliveries.event_id
  join public.subscriptions on subscriptions.id = deliveries.subscription_id
  where deliveries.org_id = chosen_for_replay.org_id
    and deliveries.mode = 'live'
    and deliveries.status = any (meant.statuses)
    and (chosen_for_replay.subscription is null or subscriptions.name = chosen_for_replay.subscription)
    and (meant.event_ids is null or deliveries.event_id = any (meant.event_ids))
    and (meant.types is null or events.type = any (meant.types))
    and (meant.since is null or deliveries.event_id >= meant.since)
    and (meant.until is null or deliveries.event_id < meant.until)
    and (meant.site_ids is null or events.site_id = any (meant.site_ids))
    and (meant.contact_ids is null or events.contact_id = any (meant.contact_ids))
    and (meant.replayed_before is null or not exists (
      select from public.replays where replays.id = deliveries.replay_id and replays.created_at >= meant.replayed_before))
  order by deliveries.id
  limit least(meant.most, most);
end;
$$;
comment on function private.chosen_for_replay is 'The deliveries that a filter means, the oldest of them first.';

-- work/replay_progress.sql
-- The progress of a replay.

create function public.replay_progress(replay_id uuid)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  replay public.replays;
begin
  select * into replay from public.replays where replays.id = replay_progress.replay_id;
  if not found then
    perform private.fail(404, 'unknown_replay', 'There is no such replay.');
  end if;
  return (
    with its as (
      select deliveries.* from public.deliveries
      where deliveries.org_id = replay.org_id and deliveries.replay_id = replay.id
    )
    select jsonb_build_object(
      'replay_id', replay.id, 'mode', replay.mode, 'matched', replay.matched,
      'done', count(*) filter (where its.status in ('done', 'skipped')),
      'waiting', count(*) filter (where its.status in ('pending', 'running', 'failed')),
      'dead', count(*) filter (where its.status = 'dead'),
      'is_over', count(*) filter (where its.status in ('pending', 'running', 'failed')) = 0,
      'failed', coalesce((
        select jsonb_agg(jsonb_build_object(
          'delivery_id', worst.id, 'event_id', worst.event_id, 'status', worst.status, 'attempts', worst.attempts, 'error', worst.last_error))
        from (select * from its where its.status in ('failed', 'dead') order by its.id limit 100) as worst), '[]'))
    from its);
end;
$$;
comment on function public.replay_progress is 'The progress of a replay, and the first hundred deliveries that failed.';
grant execute on function public.replay_progress to authenticated, service_role;

-- work/settle_deliveries.sql
-- Settling: deliveries end with their effects, in one transaction; a function that lost the lease settles nothing.
--
-- A batch is settled by a few statements for all of it, not by a few for each: one by one cost a third of a millisecond
-- for a delivery without effects and two and a half with them. A batch that cannot be written as a whole is settled one
-- by one, so that one delivery does not take the others along.

create type private.settling as (
  id uuid, org_id uuid, subscription_id uuid, attempts smallint, max_attempts smallint, retry_base interval, claimed_at timestamptz,
  outcome text, error text, duration_ms integer, retry_after_seconds numeric, result jsonb, effects jsonb,
  event_id uuid, occurred_at timestamptz, site_id uuid, contact_id uuid, subject_type text, subject_id uuid, trace_id text,
  agent_id uuid, agent text, version_id uuid
);
comment on type private.settling is 'A delivery that is being settled, with its row. Effects are there if they are to happen.';

-- security definer: hub_service may touch no table itself.
create function hub.settle_deliveries(settlements jsonb)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  settlement jsonb;
  rule text;
  results jsonb := '[]';
begin
  begin
    return private.settle_together(settlements);
  exception
    when serialization_failure or deadlock_detected then
      raise;
    when others then
      null;
  end;

  -- The one that cannot be written is retried and is dead in the end; the others are settled without it.
  for settlement in select value from jsonb_array_elements(settlements) order by value ->> 'id' loop
    begin
      results := results || private.settle_together(jsonb_build_array(settlement));
    exception
      when serialization_failure or deadlock_detected then
        raise;
      when others then
        -- Postgres' own words may quote a customer; its code and the rule's name do not.
        get stacked diagnostics rule = constraint_name;
        results := results || private.settle_together(jsonb_build_array(jsonb_build_object(
          'id', settlement -> 'id', 'lease_token', settlement -> 'lease_token', 'outcome', 'retry',
          'error', concat_ws(' ', 'could not be settled:', sqlstate, nullif(rule, '')))));
    end;
  end loop;
  return results;
end;
$$;
comment on function hub.settle_deliveries is 'Settle deliveries, each by itself; answers the new status of each.';
grant execute on function hub.settle_deliveries to hub_service;

create function private.settle_together(settlements jsonb)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  held constant private.settling[] := private.hold_deliveries(settlements);
  statuses jsonb;
begin
  if exists (select from unnest(held) where effects is not null and effects <> '{}') then
    perform private.apply_effects(held);
  end if;
  statuses := private.write_outcomes(held);
  perform private.mark_dead(ended.id, coalesce(ended.error, 'no reason given'))
  from unnest(held) as ended
  where statuses ->> ended.id::text = 'dead';
  return (
    select coalesce(jsonb_agg(jsonb_build_object('id', said ->> 'id', 'status', coalesce(statuses ->> (said ->> 'id'), 'lost'))), '[]')
    from jsonb_array_elements(settlements) as said);
end;
$$;
comment on function private.settle_together is 'Write the ends of deliveries whose lease is still held, with their effects.';

-- work/stop_deliveries.sql
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

-- work/sweep_deliveries.sql
-- The sweep: take back the deliveries whose lease ran out, and kick every target with due work.

create function private.sweep_deliveries()
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  expired record;
  lapsed integer := 0;
  kicked integer;
begin
  for expired in
    select deliveries.id, deliveries.org_id, deliveries.attempts, deliveries.claimed_at, subscriptions.max_attempts, subscriptions.retry_base
    from public.deliveries
    join public.subscriptions on subscriptions.id = deliveries.subscription_id
    where deliveries.status = 'running' and deliveries.leased_until < now()
    order by deliveries.id
    limit 1000
    for update of deliveries skip locked
  loop
    lapsed := lapsed + 1;
    begin
      insert into public.delivery_attempts (org_id, delivery_id, attempt, outcome, error, started_at)
      values (expired.org_id, expired.id, expired.attempts, 'lapsed', 'the lease ran out', expired.claimed_at);
      if expired.attempts >= expired.max_attempts then
        perform private.mark_dead(expired.id, 'the lease ran out ' || expired.attempts || ' times');
      else
        update public.deliveries
        set status = 'failed', lease_token = null, leased_until = null, last_error = 'the lease ran out',
            run_at = case when expired.attempts = 1 then now() else private.retry_at(expired.attempts, expired.retry_base, 0) end
        where deliveries.id = expired.id;
      end if;
    exception when others then
      -- A delivery that cannot be taken back must not keep the others.
      raise warning 'delivery % could not be taken back: %', expired.id, sqlstate;
    end;
  end loop;

  select count(*) filter (where private.kick(waiting.target)) into kicked from private.due_targets() as waiting (target);
  return jsonb_build_object('lapsed', lapsed, 'kicked', kicked);
end;
$$;
comment on function private.sweep_deliveries is 'Take back the deliveries whose lease ran out and kick every target with due work; cron calls it.';

create function private.due_targets(for_at_least interval default '0')
returns setof text
language sql stable set search_path = ''
as $$
  select due_work.target from private.due_work where due_work.due_since <= now() - for_at_least
  union
  select willing.target
  from private.willing_subscriptions as willing
  where exists (
    select from public.deliveries
    where deliveries.subscription_id = willing.id and deliveries.is_waiting and deliveries.mode = 'rehearsal'
      and deliveries.run_at <= now() - for_at_least);
$$;
comment on function private.due_targets is 'The targets with deliveries that have been due for this long.';

-- work/webhook_secrets.sql
-- Webhook secrets: they sign the events that are sent to a webhook. The vault keeps them.
--
-- Two may be valid while one replaces the other: both sign.

create table private.webhook_secrets (
  id              uuid primary key default private.uuid_v7(),
  subscription_id uuid not null references public.subscriptions (id) on delete cascade,
  vault_id        uuid not null,
  valid_to        timestamptz,
  created_at      timestamptz not null default now()
);
comment on table private.webhook_secrets is 'A webhook''s signing secrets, by their ids in the vault, and until when an old one signs too.';
create index webhook_secrets_subscription_idx on private.webhook_secrets (subscription_id);

-- security definer: only postgres reaches the vault.
create function private.forget_webhook_secret()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  delete from vault.secrets where secrets.id = old.vault_id;
  return null;
end;
$$;
comment on function private.forget_webhook_secret is 'Trigger: a secret that signs no more leaves the vault.';

create trigger webhook_secrets_forgotten after delete on private.webhook_secrets
  for each row execute function private.forget_webhook_secret();

create function private.add_webhook_secret(subscription_id uuid, old_valid_for interval default '0')
returns text
language plpgsql set search_path = ''
as $$
declare
  -- 244 random bits in 32 bytes.
  secret text := 'whsec_' || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64');
begin
  -- Two sign at most: this secret and the one before it.
  delete from private.webhook_secrets
  where webhook_secrets.subscription_id = add_webhook_secret.subscription_id
    and (webhook_secrets.valid_to is not null or old_valid_for <= '0');
  update private.webhook_secrets set valid_to = now() + old_valid_for
  where webhook_secrets.subscription_id = add_webhook_secret.subscription_id;
  insert into private.webhook_secrets (subscription_id, vault_id)
  values (add_webhook_secret.subscription_id, vault.create_secret(secret, null, 'signs webhook ' || add_webhook_secret.subscription_id));
  return secret;
end;
$$;
comment on function private.add_webhook_secret is 'Make a signing secret; the older one goes on signing beside it for a while.';

-- work/webhooks.sql
-- Webhooks out: an event is posted to a partner's URL, signed, as a delivery like any other.
--
-- Each webhook has a target of its own, webhook-sender/<id>, the path at which the function webhook-sender is kicked for
-- it: so a partner that stalls or has a backlog holds up no other.

-- security definer: hub_service may touch no table itself.
create function hub.webhook(target text)
returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'url', subscriptions.target,
    'secrets', (
      select jsonb_agg(decrypted_secrets.decrypted_secret order by webhook_secrets.id desc)
      from private.webhook_secrets
      join vault.decrypted_secrets on decrypted_secrets.id = webhook_secrets.vault_id
      where webhook_secrets.subscription_id = subscriptions.id and coalesce(webhook_secrets.valid_to, 'infinity') > now()))
  from public.subscriptions
  where webhook.target = 'webhook-sender/' || subscriptions.id and subscriptions.target_kind = 'webhook'
    and subscriptions.id = substring(webhook.target from '^webhook-sender/([0-9a-f-]{36})$')::uuid;
$$;
comment on function hub.webhook is 'The URL and signing secrets of a webhook; null when there is none.';
grant execute on function hub.webhook to hub_service;

-- security definer: hub_service may touch no table itself.
create function hub.stop_webhook(delivery_id uuid, reason text)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  stopped public.subscriptions;
  event_id uuid;
begin
  update public.subscriptions set paused = true
  from public.deliveries
  where deliveries.id = stop_webhook.delivery_id and deliveries.status = 'running'
    and subscriptions.id = deliveries.subscription_id and subscriptions.target_kind = 'webhook' and not subscriptions.paused
  returning subscriptions.* into stopped;
  if stopped.id is null then
    return 'false';
  end if;
  select deliveries.event_id into event_id from public.deliveries where deliveries.id = stop_webhook.delivery_id;
  perform private.open_alert(
    stopped.org_id, 'webhook_gone', stopped.name, 'critical',
    format('The webhook %s is paused: %s Its deliveries wait.', stopped.name, stop_webhook.reason),
    jsonb_build_object('subscription', stopped.name), event_id => event_id);
  return 'true';
end;
$$;
comment on function hub.stop_webhook is 'Pause the webhook of a delivery that is being sent, and open an alert.';
grant execute on function hub.stop_webhook to hub_service;

-- security definer: letting a webhook run again gives no right to write alerts.
create function private.close_webhook_alert()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.close_alert(old.org_id, 'webhook_gone', old.name);
  return null;
end;
$$;
comment on function private.close_webhook_alert is 'Trigger: a webhook that runs again or is gone closes its alert.';

create trigger subscriptions_resumed after update of paused on public.subscriptions
  for each row when (old.target_kind = 'webhook' and old.paused and not new.paused) execute function private.close_webhook_alert();

create trigger subscriptions_gone after delete on public.subscriptions
  for each row when (old.target_kind = 'webhook') execute function private.close_webhook_alert();

-- work/write_outcomes.sql
-- The steps of settling: the deliveries whose lease is held are locked, and what became of them is written.

-- The lease's token is the fence: a function that was late, or was killed and came back, changes nothing.
-- Locked in the order of their ids, so that two batches never lock crosswise.
create function private.hold_deliveries(settlements jsonb)
returns private.settling[]
language plpgsql set search_path = ''
as $$
begin
  return (
    select array_agg(locked.settling)
    from (
      select row(
        deliveries.id, deliveries.org_id, deliveries.subscription_id, deliveries.attempts, subscriptions.max_attempts,
        subscriptions.retry_base, deliveries.claimed_at,
        said.outcome, left(said.error, 2000), said.duration_ms, said.retry_after_seconds,
        case when deliveries.mode = 'rehearsal' and said.effects is not null
          then coalesce(said.result, '{}') || jsonb_build_object('effects', said.effects) else said.result end,
        case
          when said.outcome <> 'done' or deliveries.mode <> 'live' or deliveries.effects_applied_at is not null then null
          when agents.autonomy <> 'auto' then private.proposed(said.effects)
          else said.effects end,
        events.id, events.occurred_at, events.site_id, events.contact_id, events.subject_type, events.subject_id, events.trace_id,
        agents.id, agents.name, versions.id
      )::private.settling as settling
      from jsonb_to_recordset(settlements) as said (
        id uuid, lease_token uuid, outcome text, error text, duration_ms integer, retry_after_seconds numeric, result jsonb, effects jsonb)
      join public.deliveries
        on deliveries.id = said.id and deliveries.lease_token = said.lease_token and deliveries.status = 'running'
      join public.subscriptions on subscriptions.id = deliveries.subscription_id
      join public.events on events.id = deliveries.event_id
      left join public.agents on agents.id = subscriptions.agent_id
      left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
      order by deliveries.id
      for update of deliveries
    ) as locked);
end;
$$;
comment on function private.hold_deliveries is 'Lock the deliveries of settlements whose lease is still held, and answer their rows.';

create function private.write_outcomes(held private.settling[])
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  statuses jsonb;
begin
  insert into public.delivery_attempts (org_id, delivery_id, attempt, outcome, error, duration_ms, started_at)
  select org_id, id, attempts, outcome, error, duration_ms, claimed_at
  from unnest(held)
  where outcome <> 'release';

  with written as (
    update public.deliveries
    set lease_token = null,
        leased_until = null,
        effects_applied_at = case when it.effects is not null then now() else deliveries.effects_applied_at end,
        result = coalesce(it.result, deliveries.result),
        last_error = case when it.outcome = 'release' then deliveries.last_error else it.error end,
        attempts = deliveries.attempts - (it.outcome = 'release')::integer,
        run_at = case it.outcome
          when 'retry' then private.retry_at(it.attempts, it.retry_base, it.retry_after_seconds)
          when 'release' then now()
          else deliveries.run_at end,
        status = case
          when it.outcome = 'done' then 'done'
          when it.outcome = 'skipped' then 'skipped'
          when it.outcome = 'release' then 'pending'
          when it.outcome = 'dead' or it.attempts >= it.max_attempts then 'dead'
          when it.outcome = 'retry' then 'failed'
        end::public.delivery_status
    from unnest(held) as it
    where deliveries.id = it.id
    returning deliveries.id, deliveries.status
  )
  select jsonb_object_agg(written.id, written.status) into statuses from written;
  return statuses;
end;
$$;
comment on function private.write_outcomes is 'Write each attempt and the new state of its delivery; answers the statuses by delivery.';

create function private.proposed(effects jsonb)
returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
  if effects is null or effects = '{}' then
    return effects;
  end if;
  if not effects ? 'action' then
    perform private.fail(422, 'nothing_to_review', 'An agent that may not act alone says what it decided.');
  end if;
  return jsonb_build_object(
    'action', (effects -> 'action') || '{"outcome": "escalated"}',
    'proposal', effects - 'action');
end;
$$;
comment on function private.proposed is 'Effects of an agent that may not act alone: its action, with the rest for a user to approve.';

-- Full jitter: a crowd that failed together does not come back together.
create function private.retry_at(attempts integer, base interval, retry_after_seconds numeric)
returns timestamptz
language sql volatile set search_path = ''
as $$
  select clock_timestamp() + greatest(
    make_interval(secs => greatest(0, least(coalesce(retry_after_seconds, 0), 86400))),
    random() * least(interval '1 hour', base * power(2, least(attempts - 1, 20))));
$$;

-- decisions/agent_actions.sql
-- Actions: one decision of one agent, with its input, reasons, confidence and outcome.

create type public.action_outcome as enum ('self_resolved', 'escalated', 'failed');

create type public.review_state as enum ('pending', 'approved', 'rejected');

create table public.agent_actions (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null,
  agent_id     uuid not null,
  agent        text not null,
  version_id   uuid not null,
  delivery_id  uuid not null references public.deliveries (id),
  event_id     uuid not null,
  contact_id   uuid,
  lead_id      uuid,
  decision     text not null,
  reasons      text[] not null default '{}',
  confidence   numeric(4, 3),
  outcome      public.action_outcome not null,
  input_digest text,
  input        jsonb not null default '{}',
  output       jsonb not null default '{}',
  proposal     jsonb,
  review       public.review_state,
  reviewed_by  uuid,
  reviewed_at  timestamptz,
  tokens       integer,
  cost_cents   numeric(12, 4),
  duration_ms  integer,
  trace_id     text not null,
  created_at   timestamptz not null default now(),

  constraint agent_actions_agent foreign key (org_id, agent_id) references public.agents (org_id, id),
  constraint agent_actions_version foreign key (org_id, version_id) references public.agent_versions (org_id, id),
  constraint agent_actions_contact foreign key (org_id, contact_id) references public.contacts (org_id, id),
  constraint agent_actions_lead foreign key (org_id, lead_id) references public.leads (org_id, id),
  constraint agent_actions_confidence_range check (confidence between 0 and 1)
);
comment on table public.agent_actions is 'One decision of one agent, with its input, reasons, confidence and outcome.';
comment on column public.agent_actions.input is 'The agent''s input beside the event: its memory of the contact, and the parts left out.';
comment on column public.agent_actions.proposal is 'The effects of the decision, while it needs a user''s review.';
create index agent_actions_agent_idx on public.agent_actions (org_id, agent_id, id desc);
create index agent_actions_version_idx on public.agent_actions (org_id, version_id);
create index agent_actions_event_idx on public.agent_actions (event_id);
create index agent_actions_contact_idx on public.agent_actions (org_id, contact_id, id desc);
create index agent_actions_lead_idx on public.agent_actions (org_id, lead_id);
create index agent_actions_pending_idx on public.agent_actions (org_id, id desc) where review = 'pending';
create unique index agent_actions_once on public.agent_actions (delivery_id) where outcome <> 'failed';
create index agent_actions_delivery_idx on public.agent_actions (delivery_id);

create trigger agent_actions_audit after update on public.agent_actions
  for each row execute function private.audit_change('users');

alter table public.agent_actions enable row level security, force row level security;
grant select on public.agent_actions to authenticated, service_role;
create policy "members read actions, closers those of their leads" on public.agent_actions for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')) or contact_id in (select private.my_assigned_contacts()));

-- decisions/agent_scorecards.sql
-- Scorecards: how well agents do, and whether their confidence meant something.

create view private.judged_actions with (security_invoker = true) as
  select
    actions.id, actions.org_id, actions.agent_id, actions.agent, actions.version_id, actions.created_at, actions.outcome, actions.confidence,
    actions.outcome = 'self_resolved' and exists (
      select from public.events as later
      where later.org_id = actions.org_id and later.contact_id = any (private.contact_family(actions.contact_id))
        and later.id > private.uuid_v7_floor(actions.created_at)
        and later.id < private.uuid_v7_floor(actions.created_at + period.came_back)
        and private.is_from_outside(later.source)
    ) as came_back,
    case
      when leads.stage = 'won' then coalesce(actions.output ->> 'band' in ('A', 'B'), false)
      when leads.stage = 'lost' then coalesce(actions.output ->> 'band' = 'C', false)
    end as was_right
  from public.agent_actions as actions
  join (
    select organizations.id, make_interval(days => case jsonb_typeof(organizations.settings -> 'came_back_days')
             when 'number' then least(greatest((organizations.settings ->> 'came_back_days')::numeric, 0), 365)::integer else 7 end) as came_back
    from public.organizations
  ) as period on period.id = actions.org_id
  left join public.leads on leads.id = actions.lead_id;
comment on view private.judged_actions is 'Each action with its end: did the contact come back, was the judgement right.';
grant select on private.judged_actions to authenticated, service_role;

create view public.agent_scorecards with (security_invoker = true) as
  select
    org_id, agent_id, agent, (created_at at time zone 'UTC')::date as day,
    count(*) as runs,
    count(*) filter (where outcome = 'self_resolved' and not came_back) as self_resolved,
    count(*) filter (where outcome = 'escalated') as escalated,
    count(*) filter (where outcome = 'failed') as failed,
    count(*) filter (where came_back) as came_back,
    round(avg(confidence), 3) as mean_confidence,
    count(was_right) as judged,
    count(*) filter (where was_right) as was_right
  from private.judged_actions
  where id >= private.uuid_v7_floor(now() - interval '90 days')
  group by org_id, agent_id, agent, (created_at at time zone 'UTC')::date;
comment on view public.agent_scorecards is 'Per agent and day of the last 90: runs and how they ended. Self-resolved only if the contact did not come back within came_back_days.';
grant select on public.agent_scorecards to authenticated, service_role;
-- Without this trigger a write is a 500: Postgres says that a view cannot be written before it asks for the right.
create trigger agent_scorecards_read_only instead of insert or update or delete on public.agent_scorecards
  for each row execute function private.refuse_change();

create function public.agent_scorecard(
  agent text, since timestamptz default now() - interval '30 days', until timestamptz default now(), org_id uuid default null)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  meant constant public.agents := private.agent_named(agent_scorecard.agent, agent_scorecard.org_id, 'agents.read');
  first constant uuid := private.uuid_v7_floor(since);
  after_last constant uuid := private.uuid_v7_floor(until);
begin
  return (
    select jsonb_build_object(
      'agent', agent_scorecard.agent, 'since', since, 'until', until,
      'runs', count(*),
      'self_resolved', count(*) filter (where outcome = 'self_resolved' and not came_back),
      'escalated', count(*) filter (where outcome = 'escalated'),
      'failed', count(*) filter (where outcome = 'failed'),
      'came_back', count(*) filter (where came_back),
      'escalation_rate', round(count(*) filter (where outcome = 'escalated')::numeric / nullif(count(*), 0), 3),
      'mean_confidence', round(avg(confidence), 3),
      'judged', count(was_right),
      'accuracy', round(avg(was_right::integer), 3),
      -- Above zero the agent is surer than it is right.
      'overconfidence', round(avg(confidence) filter (where was_right is not null) - avg(was_right::integer), 3),
      'calibration', coalesce((
        select jsonb_agg(jsonb_build_object('confidence', bin.mean, 'accuracy', bin.accuracy, 'count', bin.count) order by bin.mean)
        from (
          select round(avg(binned.confidence), 3) as mean, round(avg(binned.was_right::integer), 3) as accuracy, count(*) as count
          from private.judged_actions as binned
          where binned.org_id = meant.org_id and binned.agent_id = meant.id and binned.id >= first and binned.id < after_last
            and binned.was_right is not null and binned.confidence is not null
          group by width_bucket(binned.confidence, 0, 1, 5)
        ) as bin), '[]'))
    from private.judged_actions
    where judged_actions.org_id = meant.org_id and judged_actions.agent_id = meant.id
      and judged_actions.id >= first and judged_actions.id < after_last);
end;
$$;
comment on function public.agent_scorecard is 'How an agent did in a time: runs, self-resolved, escalated, failed, confidence and whether it was right.';
grant execute on function public.agent_scorecard to authenticated, service_role;

-- decisions/apply_effects.sql
-- The effects of handled deliveries: actions, leads' scores, memories, new events.

create function private.apply_effects(settled private.settling[])
returns void
language plpgsql set search_path = ''
as $$
declare
  learnt integer;
begin
  with scored as (
    update public.leads
    set score = (latest.verdict ->> 'score')::smallint,
        reasons = array(select jsonb_array_elements_text(latest.verdict -> 'reasons')),
        next_step = latest.verdict ->> 'next_step',
        scored_by = latest.event_id,
        last_action_at = now()
    from (
      -- After a merge another lead of the same person may stand for this one.
      select distinct on (coalesce(named.folded_into, named.id))
        it.org_id, coalesce(named.folded_into, named.id) as lead_id, it.contact_id, it.event_id, it.occurred_at, it.effects -> 'lead' as verdict
      from unnest(settled) as it
      join public.leads as named on named.org_id = it.org_id and named.id = it.subject_id
      where it.effects ? 'lead' and it.subject_type = 'lead'
      order by coalesce(named.folded_into, named.id), it.event_id desc
    ) as latest
    where leads.org_id = latest.org_id and leads.id = latest.lead_id
      and coalesce(leads.scored_by, latest.event_id) <= latest.event_id
    returning latest.org_id, latest.contact_id, latest.event_id, latest.occurred_at, latest.verdict -> 'score' as score
  )
  -- In the order of the contacts, so that two batches lock in the same order.
  select count(*) into learnt
  from (
    select private.learn_facts(latest.org_id, latest.contact_id, jsonb_build_object('lead_score', latest.score), latest.event_id, latest.occurred_at)
    from (select * from scored where scored.contact_id is not null order by scored.contact_id, scored.event_id) as latest
  ) as told;

  insert into public.agent_actions (
    org_id, agent_id, agent, version_id, delivery_id, event_id, contact_id, lead_id, decision, reasons, confidence,
    outcome, input_digest, input, output, tokens, cost_cents, duration_ms, trace_id, review, proposal)
  select
    it.org_id, it.agent_id, it.agent, coalesce((it.effects #>> '{action,version_id}')::uuid, it.version_id),
    it.id, it.event_id, it.contact_id, case when it.subject_type = 'lead' then it.subject_id end,
    action.decision, coalesce(action.reasons, '{}'), action.confidence, action.outcome, action.input_digest,
    coalesce(action.input, '{}'), coalesce(action.output, '{}'), action.tokens, action.cost_cents, it.duration_ms, it.trace_id,
    case when it.effects ? 'proposal' then 'pending'::public.review_state end, it.effects -> 'proposal'
  from unnest(settled) as it
  cross join lateral jsonb_to_record(it.effects -> 'action') as action (
    decision text, reasons text[], confidence numeric, outcome public.action_outcome, input_digest text, input jsonb,
    output jsonb, tokens integer, cost_cents numeric)
  where it.effects ? 'action';

  insert into public.agent_memory (org_id, agent_id, subject_type, subject_id, key, value, source_event_id)
  select distinct on (it.agent_id, it.contact_id, fact.key)
    it.org_id, it.agent_id, 'contact', it.contact_id, fact.key, coalesce(fact.value, 'null'), it.event_id
  from unnest(settled) as it
  cross join lateral jsonb_to_recordset(it.effects -> 'memory') as fact (key text, value jsonb)
  where it.contact_id is not null and it.effects ? 'memory'
  -- In the order of the key, so that two batches lock in the same order.
  order by it.agent_id, it.contact_id, fact.key, it.event_id desc
  on conflict on constraint agent_memory_once do update
    set value = excluded.value, source_event_id = excluded.source_event_id
    where coalesce(agent_memory.source_event_id, excluded.source_event_id) <= excluded.source_event_id;

  insert into public.events (org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, cause_id)
  select
    it.org_id, it.site_id, said.type, it.contact_id,
    coalesce(said.subject_type, it.subject_type), coalesce(said.subject_id, it.subject_id),
    coalesce(it.agent, 'hub'), coalesce(said.data, '{}'), it.trace_id, it.event_id
  from unnest(settled) as it
  cross join lateral jsonb_to_recordset(it.effects -> 'events') as said (type text, data jsonb, subject_type text, subject_id uuid)
  where it.effects ? 'events';
end;
$$;
comment on function private.apply_effects(private.settling[]) is 'Write the effects of handled deliveries: actions, leads'' scores, memories, new events.';

-- decisions/begin_model_run.sql
-- Reserving the tokens and cost of a question to a model, before it is asked.

-- security definer: hub_service may touch no table itself.
create function hub.begin_model_run(
  delivery_id uuid,
  lease_token uuid,
  prompt_digest text,
  tokens bigint,
  cost_cents numeric,
  day_tokens bigint,
  day_cents numeric,
  tries integer)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  today date := (now() at time zone 'UTC')::date;
  org record;
  run private.model_runs;
  token_limit numeric;
  cent_limit numeric;
begin
  if not private.is_lease_held(begin_model_run.delivery_id, begin_model_run.lease_token) then
    perform private.fail(409, 'lease_lost', 'The lease of this delivery is no longer held.');
  end if;
  select * into run from private.model_runs where model_runs.delivery_id = begin_model_run.delivery_id for update;
  if run.answer is not null and run.prompt_digest = begin_model_run.prompt_digest then
    return jsonb_build_object('state', 'answered', 'answer', run.answer, 'tokens', run.tokens, 'cost_cents', run.cost_cents);
  end if;
  if run.attempts >= begin_model_run.tries then
    return jsonb_build_object('state', 'refused', 'reason', 'tries');
  end if;

  select organizations.id, organizations.settings, deliveries.mode into org
  from public.deliveries
  join public.organizations on organizations.id = deliveries.org_id
  where deliveries.id = begin_model_run.delivery_id;
  if not private.may_ask_model(org.id) then
    return jsonb_build_object('state', 'refused', 'reason', 'credits');
  end if;
  token_limit := private.day_limit(org.settings, 'day_tokens', begin_model_run.day_tokens);
  cent_limit := private.day_limit(org.settings, 'day_cents', begin_model_run.day_cents);
  -- A rehearsal leaves the other half of the day's limit to live deliveries.
  if org.mode = 'rehearsal' then
    token_limit := token_limit / 2;
    cent_limit := cent_limit / 2;
  end if;
  if cent_limit is not null and begin_model_run.cost_cents is null then
    return jsonb_build_object('state', 'refused', 'reason', 'price_unknown');
  end if;

  insert into private.model_spending (org_id, day) values (org.id, today) on conflict do nothing;
  -- One statement looks and takes: two runs at once cannot both take the last of it.
  update private.model_spending
  set tokens = model_spending.tokens + begin_model_run.tokens,
      cost_cents = model_spending.cost_cents + coalesce(begin_model_run.cost_cents, 0)
  where model_spending.org_id = org.id and model_spending.day = today
    and model_spending.tokens + begin_model_run.tokens <= coalesce(token_limit, 'infinity')
    and model_spending.cost_cents + coalesce(begin_model_run.cost_cents, 0) <= coalesce(cent_limit, 'infinity');
  if not found then
    return jsonb_build_object('state', 'refused', 'reason', 'day');
  end if;

  insert into private.model_runs (delivery_id, org_id, day, prompt_digest, reserved_tokens, reserved_cents)
  values (
    begin_model_run.delivery_id, org.id, today, begin_model_run.prompt_digest, begin_model_run.tokens,
    coalesce(begin_model_run.cost_cents, 0))
  on conflict on constraint model_runs_pkey do update
    set day = excluded.day, prompt_digest = excluded.prompt_digest, attempts = model_runs.attempts + 1, answer = null,
        reserved_tokens = excluded.reserved_tokens, reserved_cents = excluded.reserved_cents;
  return jsonb_build_object('state', 'begun');
end;
$$;
comment on function hub.begin_model_run is 'Reserve the tokens and cost of a question to a model: begun, answered already, or refused with the reason.';
grant execute on function hub.begin_model_run to hub_service;

create function private.is_lease_held(delivery_id uuid, lease_token uuid)
returns boolean
language sql stable set search_path = ''
as $$
  select exists (
    select from public.deliveries
    where deliveries.id = is_lease_held.delivery_id
      and deliveries.lease_token = is_lease_held.lease_token
      and deliveries.status = 'running');
$$;
comment on function private.is_lease_held is 'Whether a delivery is still handled under this lease.';

-- A limit that is not a number cannot be kept: nothing may be spent.
create function private.day_limit(settings jsonb, name text, versions numeric)
returns numeric
language sql immutable set search_path = ''
as $$
  select least(versions, case jsonb_typeof(settings #> array['model', name])
    when 'number' then (settings #>> array['model', name])::numeric
    when 'null' then null
    else case when settings #> array['model', name] is not null then 0 end
  end);
$$;
comment on function private.day_limit is 'The tighter of the organization''s limit and the version''s; null is none.';

-- decisions/decision_credits.sql
-- Decision credits: a model's decision costs one, in an organization that was granted credits.
--
-- The credit is taken in the transaction that writes the decision. Without credits the rules decide; decisions at the
-- same moment may overdraw by as many. An organization that never was granted any is not limited: tokens and cost stand
-- with its actions.

create table public.credit_accounts (
  org_id     uuid primary key references public.organizations (id),
  balance    bigint not null default 0,
  updated_at timestamptz not null default now()
);
comment on table public.credit_accounts is 'How many decisions by models an organization has left; without an account it is not limited.';

create trigger credit_accounts_touch before update on public.credit_accounts
  for each row execute function private.touch_updated_at();

alter table public.credit_accounts enable row level security, force row level security;
grant select on public.credit_accounts to authenticated, service_role;
create policy "members read their balance" on public.credit_accounts for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')));

create table public.decision_credits (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  amount     integer not null,
  reason     text not null,
  action_id  uuid,
  created_at timestamptz not null default now(),

  constraint decision_credits_action foreign key (action_id) references public.agent_actions (id),
  constraint decision_credits_amount check (amount <> 0 and abs(amount) <= 1000000),
  constraint decision_credits_reason_length check (length(reason) between 1 and 300)
);
comment on table public.decision_credits is 'Each grant, and each decision that took one; the sum is the balance.';
create unique index decision_credits_once on public.decision_credits (action_id) where action_id is not null;
create index decision_credits_list_idx on public.decision_credits (org_id, id desc);

-- security definer: writing an action or a grant needs no right to write the account.
create function private.count_credits()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.credit_accounts as account (org_id, balance)
  select fresh.org_id, sum(fresh.amount) from fresh group by fresh.org_id order by fresh.org_id
  on conflict on constraint credit_accounts_pkey do update set balance = account.balance + excluded.balance;
  return null;
end;
$$;
comment on function private.count_credits is 'Trigger: the balance is the sum of credits granted and taken.';

create trigger decision_credits_append_only before update or delete on public.decision_credits
  for each row execute function private.refuse_change();
create trigger decision_credits_count after insert on public.decision_credits
  referencing new table as fresh for each statement execute function private.count_credits();

alter table public.decision_credits enable row level security, force row level security;
grant select on public.decision_credits to authenticated, service_role;
grant insert on public.decision_credits to service_role;
create policy "members read credits" on public.decision_credits for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')));

-- security definer: writing an action needs no right to write credits.
create function private.take_credits()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.decision_credits (org_id, amount, reason, action_id)
  select fresh.org_id, -1, 'decision', fresh.id
  from fresh
  join public.credit_accounts on credit_accounts.org_id = fresh.org_id
  where fresh.output ->> 'decided_by' = 'model';
  return null;
end;
$$;
comment on function private.take_credits is 'Trigger: a decision by a model takes one credit.';

create trigger agent_actions_credits after insert on public.agent_actions
  referencing new table as fresh for each statement execute function private.take_credits();

create function private.may_ask_model(org_id uuid)
returns boolean
language sql stable set search_path = ''
as $$
  select not exists (
    select from public.credit_accounts
    where credit_accounts.org_id = may_ask_model.org_id and credit_accounts.balance <= 0);
$$;
comment on function private.may_ask_model is 'Whether an organization has a credit left, or never had any to count.';

-- Only the secret key grants: an organization that granted itself would have no limit.
create function public.grant_credits(org_id uuid, amount integer, reason text)
returns bigint
language plpgsql set search_path = ''
as $$
begin
  if amount is null or amount not between 1 and 1000000 then
    perform private.fail(422, 'bad_amount', 'A grant is between 1 and 1,000,000 credits.');
  end if;
  insert into public.decision_credits (org_id, amount, reason)
  values (grant_credits.org_id, grant_credits.amount, grant_credits.reason);
  return (select credit_accounts.balance from public.credit_accounts where credit_accounts.org_id = grant_credits.org_id);
end;
$$;
comment on function public.grant_credits is 'Grant an organization decisions by models; answers its balance.';
grant execute on function public.grant_credits to service_role;

-- decisions/end_model_run.sql
-- Putting the tokens and cost that a question took in the place of those reserved.

-- security definer: hub_service may touch no table itself.
create function hub.end_model_run(delivery_id uuid, lease_token uuid, tokens bigint, cost_cents numeric, answer jsonb)
returns void
language plpgsql security definer set search_path = ''
as $$
declare
  run private.model_runs;
begin
  if not private.is_lease_held(end_model_run.delivery_id, end_model_run.lease_token) then
    perform private.fail(409, 'lease_lost', 'The lease of this delivery is no longer held.');
  end if;
  select * into run from private.model_runs where model_runs.delivery_id = end_model_run.delivery_id for update;

  update private.model_spending
  set tokens = model_spending.tokens - run.reserved_tokens + end_model_run.tokens,
      cost_cents = model_spending.cost_cents - run.reserved_cents + coalesce(end_model_run.cost_cents, 0)
  where model_spending.org_id = run.org_id and model_spending.day = run.day;

  update private.model_runs
  set reserved_tokens = 0,
      reserved_cents = 0,
      tokens = model_runs.tokens + end_model_run.tokens,
      cost_cents = coalesce(model_runs.cost_cents + end_model_run.cost_cents, end_model_run.cost_cents, model_runs.cost_cents),
      answer = end_model_run.answer
  where model_runs.delivery_id = end_model_run.delivery_id;
end;
$$;
comment on function hub.end_model_run is 'Put the tokens and cost that a question took in the place of those reserved, and keep the answer until the delivery is settled.';
grant execute on function hub.end_model_run to hub_service;

-- decisions/model_runs.sql
-- Model runs: a delivery's question to a model, its tokens and cost, and the answer, until the delivery is history.
--
-- The cost of a question is reserved before it is asked, within the day's limits of the organization. A delivery that is
-- handled again, because its function was killed after the answer, finds that answer here and does not pay twice. A
-- reservation that never ended counts as spent. A day is a day in UTC.

create table private.model_spending (
  org_id     uuid not null references public.organizations (id),
  day        date not null,
  tokens     bigint not null default 0,
  cost_cents numeric(14, 4) not null default 0,

  primary key (org_id, day)
);
comment on table private.model_spending is 'Tokens and cost that an organization''s agents spend on models in a day, those reserved included.';

create table private.model_runs (
  delivery_id     uuid primary key references public.deliveries (id) on delete cascade,
  org_id          uuid not null references public.organizations (id),
  day             date not null,
  prompt_digest   text not null,
  attempts        smallint not null default 1,
  reserved_tokens bigint not null,
  reserved_cents  numeric(14, 4) not null,
  tokens          bigint not null default 0,
  cost_cents      numeric(14, 4),
  answer          jsonb,
  updated_at      timestamptz not null default now(),

  constraint model_runs_reserved check (reserved_tokens >= 0 and reserved_cents >= 0)
);
comment on table private.model_runs is 'A delivery''s question to a model, its tokens and cost, and the answer, until the delivery is history.';
create index model_runs_org_idx on private.model_runs (org_id);
create index model_runs_updated_idx on private.model_runs (updated_at);

create trigger model_runs_touch before update on private.model_runs
  for each row execute function private.touch_updated_at();

create function private.prune_model_runs()
returns void
language plpgsql set search_path = ''
as $$
begin
  delete from private.model_runs using public.deliveries
  where deliveries.id = model_runs.delivery_id
    and deliveries.status in ('done', 'skipped') and model_runs.updated_at < now() - interval '7 days';
  delete from private.model_spending where model_spending.day < current_date - 400;
end;
$$;
comment on function private.prune_model_runs is 'Remove runs of deliveries that are settled, and old sums.';

-- decisions/outcomes.sql
-- Outcomes: the later fate of a decision, attached when its lead is won or lost and by reviews.

create table public.outcomes (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  action_id  uuid not null references public.agent_actions (id),
  kind       text not null,
  decided_by uuid,
  at         timestamptz not null default now(),

  constraint outcomes_known check (kind in ('won', 'lost', 'approved', 'rejected')),
  constraint outcomes_once unique (action_id, kind)
);
comment on table public.outcomes is 'The later fate of a decision: its lead was won or lost, a user approved or rejected it.';
create index outcomes_list_idx on public.outcomes (org_id, id desc);

alter table public.outcomes enable row level security, force row level security;
grant select on public.outcomes to authenticated, service_role;
create policy "members read outcomes" on public.outcomes for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')));

-- security definer: moving a lead gives no right to write outcomes.
create function private.attach_lead_outcome()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.outcomes (org_id, action_id, kind, decided_by)
  select new.org_id, agent_actions.id, new.stage::text, (select auth.uid())
  from public.agent_actions
  where agent_actions.org_id = new.org_id and agent_actions.lead_id = new.id and agent_actions.outcome <> 'failed'
  on conflict on constraint outcomes_once do nothing;
  return null;
end;
$$;
comment on function private.attach_lead_outcome is 'Trigger: a lead that is won or lost says so of the decisions about it.';

create trigger leads_outcome after update of stage on public.leads
  for each row when (new.stage in ('won', 'lost') and old.stage is distinct from new.stage)
  execute function private.attach_lead_outcome();

-- security definer: reviewing gives no right to write outcomes.
create function private.attach_review_outcome()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.outcomes (org_id, action_id, kind, decided_by)
  values (new.org_id, new.id, new.review::text, new.reviewed_by)
  on conflict on constraint outcomes_once do nothing;
  return null;
end;
$$;
comment on function private.attach_review_outcome is 'Trigger: a review is an outcome of the decision.';

create trigger agent_actions_outcome after update of review on public.agent_actions
  for each row when (new.review in ('approved', 'rejected') and old.review is distinct from new.review)
  execute function private.attach_review_outcome();

-- decisions/review_action.sql
-- Reviews: a user lets an agent's proposal take effect, or not.

create function public.review_action(action_id uuid, approve boolean)
returns text
language sql set search_path = ''
as $$
  select private.review_action_for_caller(action_id, approve);
$$;
comment on function public.review_action is 'Let an agent''s proposal take effect, or not.';
grant execute on function public.review_action to authenticated;

-- security definer: a review applies effects, which no user may write themselves.
create function private.review_action_for_caller(action_id uuid, approve boolean)
returns text
language plpgsql security definer set search_path = ''
as $$
declare
  action public.agent_actions;
begin
  select * into action from public.agent_actions
  where agent_actions.id = review_action_for_caller.action_id
    and agent_actions.org_id in (select private.my_orgs('actions.review'))
  for update;
  if not found then
    perform private.fail(404, 'unknown_action', 'There is no such action to review.');
  end if;
  if approve is null then
    perform private.fail(422, 'no_decision', 'Say whether it is approved: true or false.');
  end if;
  -- The first of two reviews at the same moment stands.
  if action.review is distinct from 'pending' then
    perform private.fail(409, 'already_reviewed', 'This action does not wait for a review.');
  end if;
  if approve and exists (
    select from public.events
    join public.leads as named on named.org_id = events.org_id and named.id = events.subject_id
    join public.leads on leads.org_id = named.org_id and leads.id = coalesce(named.folded_into, named.id)
    where events.id = action.event_id and leads.scored_by > events.id)
  then
    perform private.fail(409, 'overtaken', 'A later enquiry of this lead was judged meanwhile.');
  end if;
  update public.agent_actions
  set review = case when approve then 'approved' else 'rejected' end::public.review_state,
      reviewed_by = (select auth.uid()),
      reviewed_at = now()
  where agent_actions.id = action.id;
  if approve then
    perform private.apply_effects(array[row(
      deliveries.id, deliveries.org_id, deliveries.subscription_id, null, null, null, null,
      'done', null, null, null, null, action.proposal,
      events.id, events.occurred_at, events.site_id, events.contact_id, events.subject_type, events.subject_id, events.trace_id,
      action.agent_id, action.agent, action.version_id)::private.settling])
    from public.deliveries
    join public.events on events.id = deliveries.event_id
    where deliveries.id = action.delivery_id;
  end if;
  return case when approve then 'approved' else 'rejected' end;
end;
$$;
comment on function private.review_action_for_caller is 'Let an agent''s proposal take effect, or not.';
grant execute on function private.review_action_for_caller to authenticated;

-- intake/record_submission.sql
-- Recording a submission: its secret must be valid and its turn come; then it is recorded once.
--
-- A kind that the catalogue does not know is stored and opens no lead. A browser is believed less: it may send kinds
-- that open a lead, its keys are its own, and any other kind it sends is quarantined.

create type private.submission as (
  kind            text,
  is_sure         boolean,
  form            jsonb,
  reading         jsonb,
  contact         jsonb,
  idempotency_key text,
  submission_id   text,
  quarantine      text,
  occurred_at     timestamptz,
  trace_id        text,
  secret_id       uuid,
  from_page       boolean,
  pulled_by       text
);
comment on type private.submission is
  'A site''s submission: the form as it came, its reading in our words, its contact, and its keys.';

-- security definer: hub_service may touch no table itself.
create function hub.record_submission(secret_id uuid, submission jsonb, address text default null)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  shown record;
  site public.sites;
  said private.submission := jsonb_populate_record(null::private.submission, submission);
begin
  select site_secrets.kind, sites as site into shown
  from private.site_secrets
  join public.sites on sites.id = site_secrets.site_id and sites.enabled
  join public.organizations on organizations.id = sites.org_id and organizations.closed_at is null
  where site_secrets.id = record_submission.secret_id
    and site_secrets.valid_from <= now()
    and coalesce(site_secrets.valid_to, 'infinity') > now();
  if not found then
    perform private.fail(401, 'unknown_secret', 'The secret of this site is missing or wrong.');
  end if;
  site := shown.site;
  said.secret_id := record_submission.secret_id;
  said.from_page := shown.kind = 'page';
  said.pulled_by := null;

  -- The address comes first: one that sends too much must not use up the turns of others.
  if said.from_page then
    perform private.take_address_turn(site.id, 'page', coalesce(address, 'unknown'), site.max_per_minute_per_address);
    perform private.take_site_turn(site.id, 'page', site.max_per_second_from_pages);
  else
    perform private.take_site_turn(site.id, 'sender', site.max_per_second);
  end if;
  return private.record_once(site, said);
end;
$$;
comment on function hub.record_submission is
  'Record a submission of the site that proved itself with this secret, if it is its turn; answer its event and contact and whether it was known already.';
grant execute on function hub.record_submission to hub_service;

-- intake/pull_sources.sql
-- Pull sources: lists of partners that are fetched page by page.
--
-- They serve sites that cannot push, and find what a push lost. A source holds its cursor, and hub.record_page writes a
-- page's items and the cursor after it in one transaction, so a crash neither skips nor doubles.

create type public.pull_paging as enum ('cursor', 'since');

create table public.pull_sources (
  id              uuid primary key default private.uuid_v7(),
  org_id          uuid not null references public.organizations (id),
  site_id         uuid not null,
  name            text not null,
  url             text not null,
  paging          public.pull_paging not null default 'cursor',
  page_size       smallint not null default 100,
  kinds           text[] not null default '{form.submitted}',
  mapping         jsonb not null default '{}',
  id_prefix       text not null default '',
  pushes          boolean not null default false,
  every           interval not null default '15 minutes',
  enabled         boolean not null default true,
  cursor          text,
  watermark       timestamptz,
  gaps_since      timestamptz,
  items           bigint not null default 0,
  gaps            bigint not null default 0,
  next_at         timestamptz not null default now(),
  last_started_at timestamptz,
  last_success_at timestamptz,
  last_error      text,
  failures        integer not null default 0,
  lease_token     uuid,
  leased_until    timestamptz,
  created_at      timestamptz not null default now(),
  updated_at      timestamptz not null default now(),

  constraint pull_sources_of_org unique (org_id, id),
  constraint pull_sources_name_unique unique (org_id, name),
  constraint pull_sources_site foreign key (org_id, site_id) references public.sites (org_id, id),
  constraint pull_sources_name_form check (name ~ '^[a-z][a-z0-9-]{1,62}$'),
  -- A token goes along, so only loopback may do without TLS.
  constraint pull_sources_url_form check (url ~ '^(https://|http://(127\.0\.0\.1|localhost)[:/])[^\s@#]+$'),
  constraint pull_sources_page_size_range check (page_size between 1 and 500),
  constraint pull_sources_kinds_some check (cardinality(kinds) > 0),
  constraint pull_sources_mapping_of_names check (
    jsonb_typeof(mapping) = 'object' and not jsonb_path_exists(mapping, '$.* ? (@.type() != "string")')),
  constraint pull_sources_id_prefix_length check (length(id_prefix) <= 60),
  constraint pull_sources_every_range check (every between interval '1 minute' and interval '1 day'),
  constraint pull_sources_leased check ((lease_token is null) = (leased_until is null))
);
comment on table public.pull_sources is 'Lists of partners that are pulled: the URL, the cursor, and the time until which everything is here.';
comment on column public.pull_sources.kinds is 'The known event types that its items may be; the first is the type of items that do not say.';
comment on column public.pull_sources.mapping is 'Our names and the fields in which its items have them, such as {"id": "uuid", "email": "customer.mail"}.';
comment on column public.pull_sources.id_prefix is 'A prefix of its ids, needed when a second list of the same site counts from one again.';
comment on column public.pull_sources.pushes is 'Its site pushes as well: an item that only the pull brought counts as a gap.';
comment on column public.pull_sources.watermark is 'Everything that happened before this is here. It never goes back.';
comment on column public.pull_sources.gaps_since is 'When its end was first reached while its site pushes: an item that only the pull brought before then is history, not a gap.';
comment on column public.pull_sources.items is 'How many items were new; the events are those with source pull:<name>.';
comment on column public.pull_sources.gaps is 'How many items a push should have brought.';
comment on column public.pull_sources.failures is 'Failed pulls in a row.';
create index pull_sources_site_idx on public.pull_sources (org_id, site_id);
create index pull_sources_due_idx on public.pull_sources (next_at) where enabled;

create trigger pull_sources_touch before update on public.pull_sources
  for each row execute function private.touch_updated_at();
-- The cursor is not audited: the events tell how far a list was read.
create trigger pull_sources_audit after insert or delete
  or update of name, url, paging, page_size, kinds, mapping, id_prefix, pushes, every, enabled on public.pull_sources
  for each row execute function private.audit_change('all');

alter table public.pull_sources enable row level security, force row level security;
grant select on public.pull_sources to authenticated, service_role;
grant update (every, enabled) on public.pull_sources to authenticated;
create policy "members read pull sources" on public.pull_sources for select to authenticated
  using (org_id in (select private.my_orgs('pulls.read')));
create policy "admins change pull sources" on public.pull_sources for update to authenticated
  using (org_id in (select private.my_orgs('pulls.update')))
  with check (org_id in (select private.my_orgs('pulls.update')));

create function private.set_pull_token(source_id uuid, token text)
returns void
language plpgsql set search_path = ''
as $$
declare
  secret_name text := 'pull_source:' || source_id;
  known uuid;
begin
  perform from public.pull_sources where pull_sources.id = source_id for update;
  if not found then
    perform private.fail(404, 'unknown_pull_source', 'There is no such pull source.');
  end if;
  select secrets.id into known from vault.secrets where secrets.name = secret_name;
  if known is null then
    perform vault.create_secret(token, secret_name);
  else
    perform vault.update_secret(known, token);
  end if;
end;
$$;
comment on function private.set_pull_token is 'Give a pull source the bearer token that its partner wants.';

-- intake/claim_pull.sql
-- One pull of a source at a time, under a lease: claimed, and given back.

-- security definer: hub_service may touch no table itself.
create function hub.claim_pull(lease_seconds integer default 50)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  source public.pull_sources;
begin
  select pull_sources.* into source
  from public.pull_sources
  where pull_sources.id in (select due_pulls.id from private.due_pulls())
    -- Asked again of the row that is locked: another pull may have taken it meanwhile.
    and pull_sources.next_at <= now() + interval '30 seconds'
    and coalesce(pull_sources.leased_until, '-infinity') < now()
  order by pull_sources.next_at
  limit 1
  for update skip locked;
  if not found then
    return null;
  end if;

  update public.pull_sources
  set lease_token = gen_random_uuid(),
      leased_until = clock_timestamp() + make_interval(secs => least(claim_pull.lease_seconds, 600)),
      last_started_at = clock_timestamp(),
      -- A pull that dies must not keep the others waiting behind it for ever.
      next_at = clock_timestamp() + interval '1 minute'
  where pull_sources.id = source.id
  returning * into source;

  return jsonb_build_object(
    'id', source.id, 'lease_token', source.lease_token, 'name', source.name, 'url', source.url,
    'paging', source.paging, 'page_size', source.page_size, 'mapping', source.mapping, 'id_prefix', source.id_prefix,
    'cursor', source.cursor,
    'phone_region', (select sites.phone_region from public.sites where sites.id = source.site_id),
    'token', (select private.plain_key(secrets.id) from vault.secrets where secrets.name = 'pull_source:' || source.id),
    'retries', coalesce((
      select jsonb_agg(again.item order by again.id)
      from (
        select pull_failures.id, pull_failures.item
        from public.pull_failures
        where pull_failures.org_id = source.org_id and pull_failures.source_id = source.id and pull_failures.status = 'retry'
        order by pull_failures.id
        limit 100
      ) as again
    ), '[]'));
end;
$$;
comment on function hub.claim_pull is 'Take the source that has been due longest under a lease, with all that is needed to pull it; null when none is due.';
grant execute on function hub.claim_pull to hub_service;

-- security definer: hub_service may touch no table itself.
create function hub.release_pull(
  source_id uuid,
  lease_token uuid,
  is_complete boolean,
  error text default null,
  retry_after_seconds numeric default null)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  update public.pull_sources
  set lease_token = null,
      leased_until = null,
      last_error = left(release_pull.error, 500),
      failures = case when release_pull.error is null then 0 else pull_sources.failures + 1 end,
      next_at = case
        when release_pull.error is not null then clock_timestamp() + greatest(
          make_interval(secs => greatest(0, least(coalesce(retry_after_seconds, 0), 86400))),
          least(pull_sources.every, interval '1 minute' * power(2, least(pull_sources.failures, 12))))
        when is_complete then pull_sources.last_started_at + pull_sources.every
        -- The next tick goes on.
        else clock_timestamp() + interval '45 seconds' end
  where pull_sources.id = release_pull.source_id
    and pull_sources.lease_token = release_pull.lease_token;
  return jsonb_build_object('is_ours', found);
end;
$$;
comment on function hub.release_pull is 'Give a source back, and say when it is due again: after its time, at the next tick when there is more, later when it failed.';
grant execute on function hub.release_pull to hub_service;

create function private.due_pulls()
returns setof public.pull_sources
language sql stable set search_path = ''
as $$
  select pull_sources.*
  from public.pull_sources
  join public.sites on sites.id = pull_sources.site_id and sites.enabled
  join public.organizations on organizations.id = pull_sources.org_id and organizations.closed_at is null
  where pull_sources.enabled
    -- The clock ticks once a minute: a source that is due before the next tick is due now.
    and pull_sources.next_at <= now() + interval '30 seconds'
    and coalesce(pull_sources.leased_until, '-infinity') < now();
$$;
comment on function private.due_pulls is 'The sources that should be pulled now, and that nobody is pulling.';

create function private.kick_pulls()
returns bigint
language sql set search_path = ''
as $$
  select private.invoke('pull-site') where exists (select from private.due_pulls());
$$;
comment on function private.kick_pulls is 'Kick pull-site when a source is due; cron calls this.';

-- intake/claim_receipts.sql
-- Keys: a submission is one, pushed or pulled. It may have several keys, and each of them leads to its event.
--
-- A push is known by its signed message id or its Idempotency-Key, and by its submission_id, or by its content. A pulled
-- item is known by its id, and by its content where a push without any key brought it first. A pull's body is not
-- compared, since a list may tell more of a submission than its form did, and its receipt stays for good, since a cursor
-- may be set back. A page's form has keys of its own: it is the pulled item only if it says all that the item says.

create function private.claim_submission(site public.sites, said private.submission, type text, event_id uuid, digest bytea)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  is_pull constant boolean := said.pulled_by is not null;
  -- A browser's keys are its own: nobody can take a key that a server will use.
  mark constant text := case when said.from_page then 'page-' else '' end;
  keys text[];
  first uuid;
begin
  keys := array_remove(array[
    mark || 'key:' || said.idempotency_key,
    mark || 'key:' || nullif(said.submission_id, said.idempotency_key),
    case when is_pull or coalesce(said.idempotency_key, said.submission_id) is null
      then mark || 'content:' || encode(digest, 'hex') end], null);
  if is_pull then
    first := private.sent_by_page(site, said.idempotency_key, type, said.form, digest);
  end if;
  return coalesce(
    private.claim_receipts(site, keys, coalesce(first, event_id), digest, type, is_pull, said.secret_id), first);
end;
$$;
comment on function private.claim_submission is 'Give a submission''s keys to an event; answers the event that has them already, else null.';

create function private.claim_receipts(
  site public.sites, keys text[], event_id uuid, digest bytea, type text, is_pull boolean, secret_id uuid)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  origin text := 'site:' || site.slug;
  claimed integer;
  first record;
begin
  insert into public.receipts (source, key, org_id, body_sha256, event_id, expires_at, secret_id)
  select
    origin, given.key, site.org_id, case when not is_pull then digest end, claim_receipts.event_id,
    case when given.key ~ '^(page-)?content:' then now() + interval '1 day' when is_pull then 'infinity' else now() + interval '30 days' end,
    claim_receipts.secret_id
  from unnest(keys) as given (key)
  -- Ordered, so that two senders of the same keys cannot wait for each other.
  order by given.key
  on conflict on constraint receipts_pkey do update
    set body_sha256 = excluded.body_sha256, event_id = excluded.event_id, created_at = now(),
        expires_at = excluded.expires_at, secret_id = excluded.secret_id
    where receipts.expires_at <= now();
  get diagnostics claimed = row_count;
  if claimed = cardinality(keys) then
    return null;
  end if;

  -- A second statement, because only a fresh snapshot sees the receipt that a concurrent sender has just committed.
  select receipts.event_id, receipts.body_sha256, events.type, given.turn into first
  from unnest(keys) with ordinality as given (key, turn)
  join public.receipts on receipts.source = origin and receipts.key = given.key
  -- An event may have been archived by now.
  left join public.events on events.id = receipts.event_id
  where receipts.event_id <> claim_receipts.event_id
    and (given.turn = 1
      -- A second key decides only when the body agrees; a content that one pulled item has taken is not another's.
      or case when is_pull then receipts.body_sha256 is not null else coalesce(receipts.body_sha256, digest) = digest end)
  order by given.turn
  limit 1;
  if not found then
    return null;
  end if;

  if is_pull and first.type not in (claim_receipts.type, 'submission.quarantined') then
    perform private.fail(409, 'id_in_use', 'Something of another kind has this id.');
  elsif not is_pull and first.turn = 1 and first.body_sha256 <> digest then
    perform private.fail(409, 'idempotency_conflict', 'This idempotency key was used for another submission.');
  end if;

  if cardinality(keys) > 1 then
    update public.receipts
    set event_id = first.event_id,
        body_sha256 = case when not is_pull then receipts.body_sha256 end,
        expires_at = case when is_pull and receipts.key like 'key:%' then 'infinity' else receipts.expires_at end
    where receipts.source = origin and receipts.key = any (keys)
      and (receipts.event_id = claim_receipts.event_id or (is_pull and receipts.event_id = first.event_id))
      and (receipts.event_id, receipts.expires_at) is distinct from (first.event_id, 'infinity'::timestamptz);
  end if;
  return first.event_id;
end;
$$;
comment on function private.claim_receipts is 'Give a submission''s keys to an event; answers the event that has them already, else null.';

create function private.sent_by_page(site public.sites, id text, type text, form jsonb, digest bytea)
returns uuid
language sql stable set search_path = ''
as $$
  select events.id
  from public.receipts
  join public.events on events.id = receipts.event_id
  where receipts.source = 'site:' || site.slug
    and receipts.key in ('page-key:' || sent_by_page.id, 'page-content:' || encode(digest, 'hex'))
    and receipts.expires_at > now()
    and events.type = sent_by_page.type
    and events.data -> 'form' @> sent_by_page.form
  order by events.id
  limit 1;
$$;
comment on function private.sent_by_page is 'The event of a page that sent a pulled item under its id, with at least what the item says.';

-- intake/name_kind.sql
-- Naming a kind that sites send: from now on, and for events that have come already.

create function public.name_kind(kind text, means text)
returns integer
language sql set search_path = ''
as $$
  select private.name_kind_for_caller(kind, means);
$$;
comment on function public.name_kind is 'Let a kind that sites send mean a known type of event, from now on and for events that have come already. Answers how many those are.';
grant execute on function public.name_kind to service_role;

-- security definer: kinds are the hub's, not an organization's; only the secret key says what they mean.
create function private.name_kind_for_caller(kind text, means text)
returns integer
language plpgsql security definer set search_path = ''
as $$
declare
  written text := lower(replace(name_kind_for_caller.kind, '-', '_'));
  known text := private.canonical_type(name_kind_for_caller.means);
begin
  if known is null then
    perform private.fail(422, 'unknown_type', 'There is no kind of event ' || coalesce(name_kind_for_caller.means, 'without a name') || '.');
  end if;
  if written is null or written !~ '^[a-z][a-z0-9._]{0,99}$' then
    perform private.fail(422, 'bad_kind', 'A kind is a word such as quote_request.');
  end if;
  if private.canonical_type(written) is distinct from known then
    update public.event_types set aliases = aliases || written where event_types.name = known;
  end if;
  return private.recognise_events();
end;
$$;
comment on function private.name_kind_for_caller is 'Let a kind mean a known type of event.';
grant execute on function private.name_kind_for_caller to service_role;

create function private.recognise_events()
returns integer
language plpgsql set search_path = ''
as $$
declare
  unknown public.events;
  known public.event_types;
  lead uuid;
  recognised integer := 0;
begin
  -- Two at once would name the same events twice.
  perform pg_advisory_xact_lock(hashtextextended('recognise_events', 0));
  for unknown in
    select events.* from public.events
    where events.unrecognised and private.canonical_type(events.type) is not null
      and not exists (select from public.events as named where named.cause_id = events.id and named.source = 'hub' and named.type = private.canonical_type(events.type))
    order by events.id
    limit 5000
  loop
    select * into known from public.event_types where event_types.name = private.canonical_type(unknown.type);
    lead := case when known.makes_lead and unknown.contact_id is not null and unknown.site_id is not null
      then private.open_lead(unknown.org_id, unknown.contact_id, unknown.site_id, unknown.source) end;
    perform private.write_event(
      unknown.org_id, known.name, unknown.data, site_id => unknown.site_id, contact_id => unknown.contact_id,
      subject_type => case when lead is not null then 'lead' end, subject_id => lead,
      cause_id => unknown.id, trace_id => unknown.trace_id, occurred_at => unknown.occurred_at);
    recognised := recognised + 1;
  end loop;
  return recognised;
end;
$$;
comment on function private.recognise_events is 'Name unknown events whose kind has a name by now: each causes an event of that name, the oldest 5000 at once.';

-- intake/pull_failures.sql
-- Pull failures: items that could not be recorded, kept as they came, until they are recorded or a user dismisses them.
--
-- They hold the watermark until a user decides.

create type public.pull_failure_status as enum ('open', 'retry', 'resolved', 'dismissed');

create table public.pull_failures (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  source_id   uuid not null,
  key         text not null,
  item        text not null,
  reason      text not null,
  occurred_at timestamptz,
  status      public.pull_failure_status not null default 'open',
  attempts    integer not null default 1,
  event_id    uuid,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),

  constraint pull_failures_source foreign key (org_id, source_id) references public.pull_sources (org_id, id) on delete cascade,
  constraint pull_failures_once unique (source_id, key),
  constraint pull_failures_key_length check (length(key) between 1 and 300)
);
comment on table public.pull_failures is 'Pulled items that could not be recorded: kept as they came, until they are recorded or a user dismisses them.';
comment on column public.pull_failures.status is 'A user sets retry, and the next pull reads the item again, or dismissed.';
comment on column public.pull_failures.item is 'The item as JSON text: an item that jsonb refuses must be kept as well.';
create index pull_failures_source_idx on public.pull_failures (org_id, source_id, status);

create trigger pull_failures_touch before update on public.pull_failures
  for each row execute function private.touch_updated_at();
create trigger pull_failures_audit after update on public.pull_failures
  for each row execute function private.audit_change('users');

alter table public.pull_failures enable row level security, force row level security;
grant select on public.pull_failures to authenticated, service_role;
grant update (status) on public.pull_failures to authenticated;
create policy "members read pull failures" on public.pull_failures for select to authenticated
  using (org_id in (select private.my_orgs('pulls.read')));
create policy "operators decide about pull failures" on public.pull_failures for update to authenticated
  using (org_id in (select private.my_orgs('pull_failures.update')) and status <> 'resolved')
  with check (org_id in (select private.my_orgs('pull_failures.update')) and status <> 'resolved');

-- intake/record_once.sql
-- Recording a submission once, under its keys or else its content.
--
-- The event's data is the reading of the form, in our words, with the form as it came under `form`.

create function private.record_once(site public.sites, said private.submission)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  digest constant bytea := sha256(convert_to(said.kind || said.form::text, 'UTF8'));
  event_id uuid := private.uuid_v7();
  type text := 'form.submitted';
  known public.event_types;
  makes_lead boolean := true;
  first uuid;
  home uuid;
  lead uuid;
begin
  -- The commonest kind needs no look-up.
  if said.kind <> type then
    select * into known from public.event_types where event_types.name = private.canonical_type(said.kind);
    if coalesce(said.is_sure, true) or known.makes_lead then
      type := coalesce(known.name, said.kind);
      makes_lead := coalesce(known.makes_lead, false);
      if (said.from_page and not makes_lead) or not coalesce(known.from_sites, true) then
        said.quarantine := coalesce(said.quarantine, 'kind');
      end if;
    end if;
  end if;

  first := private.claim_submission(site, said, type, event_id, digest);
  if first is not null then
    select events.contact_id into home from public.events where events.id = first;
    return jsonb_build_object('event_id', first, 'contact_id', private.visible_contact(home), 'duplicate', true);
  end if;

  if said.quarantine is null then
    if said.contact ->> 'email' is not null or said.contact ->> 'phone' is not null then
      home := private.resolve_contact(site.org_id, said.contact ->> 'name', said.contact ->> 'email', said.contact ->> 'phone', event_id);
      perform private.learn_facts(
        site.org_id, home, coalesce(said.contact -> 'facts', jsonb_build_object('name', said.contact -> 'name')), event_id,
        coalesce(said.occurred_at, now()));
    elsif makes_lead then
      perform private.fail(422, 'unreachable_contact', 'An e-mail address or a phone number is needed.');
    end if;
    if makes_lead then
      lead := private.open_lead(site.org_id, home, site.id, 'site:' || site.slug);
    end if;
  end if;

  perform private.write_event(
    site.org_id, case when said.quarantine is null then type else 'submission.quarantined' end,
    coalesce(said.reading, '{}')
    || case when said.quarantine is null then '{}' else jsonb_build_object('reason', said.quarantine, 'kind', said.kind) end
    || jsonb_build_object('form', said.form),
    source => coalesce('pull:' || said.pulled_by, 'site:' || site.slug), site_id => site.id, contact_id => home,
    subject_type => case when lead is not null then 'lead' end, subject_id => lead,
    trace_id => said.trace_id, occurred_at => said.occurred_at, id => event_id);
  return jsonb_build_object('event_id', event_id, 'contact_id', private.visible_contact(home), 'duplicate', false);
end;
$$;
comment on function private.record_once is
  'Record a submission once, under its keys or else its content; answer its event and contact and whether it was known already.';

-- intake/record_page.sql
-- Recording a page of a list and the cursor that follows it; a pull that lost its lease records nothing.

-- security definer: hub_service may touch no table itself.
create function hub.record_page(
  source_id uuid,
  lease_token uuid,
  items jsonb,
  read_from text,
  next_cursor text default null,
  complete_until timestamptz default null,
  lease_seconds integer default 50)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  source public.pull_sources;
  site public.sites;
  item jsonb;
  outcome text;
  counts jsonb := '{"recorded": 0, "duplicates": 0, "failed": 0}';
begin
  -- The lease's token is the fence, and so is the cursor that the page was read from: a user may have set it back.
  select * into source
  from public.pull_sources
  where pull_sources.id = record_page.source_id
    and pull_sources.lease_token = record_page.lease_token
    and pull_sources.enabled
    and pull_sources.cursor is not distinct from read_from
  for update;
  if not found then
    return jsonb_build_object('is_ours', false);
  end if;
  select * into site from public.sites where sites.id = source.site_id;

  for item in select value from jsonb_array_elements(items) loop
    outcome := private.record_pulled(source, site, item);
    counts := jsonb_set(counts, array[outcome], to_jsonb((counts ->> outcome)::integer + 1));
  end loop;

  update public.pull_sources
  set cursor = coalesce(next_cursor, pull_sources.cursor),
      leased_until = clock_timestamp() + make_interval(secs => least(record_page.lease_seconds, 600)),
      items = pull_sources.items + (counts ->> 'recorded')::integer,
      gaps = pull_sources.gaps
        + case when pull_sources.pushes and pull_sources.gaps_since is not null then (counts ->> 'recorded')::integer else 0 end,
      gaps_since = case
        when not pull_sources.pushes then null
        when complete_until is null then pull_sources.gaps_since
        else coalesce(pull_sources.gaps_since, clock_timestamp()) end,
      last_success_at = case when complete_until is null then pull_sources.last_success_at else clock_timestamp() end,
      -- greatest and least pass over nulls.
      watermark = case when complete_until is null then pull_sources.watermark else greatest(
        pull_sources.watermark,
        least(complete_until, clock_timestamp(), (
          select min(coalesce(pull_failures.occurred_at, pull_failures.created_at))
          from public.pull_failures
          where pull_failures.org_id = source.org_id and pull_failures.source_id = source.id
            and pull_failures.status in ('open', 'retry')))) end
  where pull_sources.id = source.id;
  return counts || '{"is_ours": true}';
end;
$$;
comment on function hub.record_page is 'Record a page of items and the cursor that follows it, if the lease is still held; answers how many were recorded, duplicates and failed.';
grant execute on function hub.record_page to hub_service;

create function private.record_pulled(source public.pull_sources, site public.sites, item jsonb)
returns text
language plpgsql set search_path = ''
as $$
declare
  failure text := item ->> 'failure';
  -- The key of an item that has no id, or whose id could not be read.
  content_key text := 'content:' || encode(sha256(convert_to(item ->> 'item', 'UTF8')), 'hex');
  item_key text := coalesce(item ->> 'key', content_key);
  written text;
  known public.event_types;
  kind text;
  said private.submission;
  recorded jsonb;
  rule text;
begin
  -- An item that is recorded is not missing because its list now tells it otherwise.
  if failure is not null and exists (
    select from public.receipts where receipts.source = 'site:' || site.slug and receipts.key = 'key:' || item_key
  ) then
    return 'duplicates';
  end if;

  written := coalesce(item ->> 'kind', source.kinds[1]);
  select * into known from public.event_types where event_types.name = private.canonical_type(written);
  -- An unknown kind is stored as a push of one is, for it opens nothing. A kind that only the hub may say is refused.
  if known.name is null and item ->> 'kind' is not null then
    kind := written;
  elsif known.from_sites and known.name = any (private.canonical_types(source.kinds)) then
    kind := known.name;
  else
    failure := coalesce(failure, 'Its kind is not one of this source''s.');
  end if;

  if failure is null then
    begin
      said := jsonb_populate_record(null::private.submission, item);
      said.kind := kind;
      said.idempotency_key := item_key;
      said.pulled_by := source.name;
      said.secret_id := null;
      said.from_page := false;
      recorded := private.record_once(site, said);
    exception
      when serialization_failure or deadlock_detected then
        raise;
      when others then
        -- An item that cannot be recorded must not take the others with it. Postgres' own words may quote a customer;
        -- its code, the rule's name and our own words do not.
        get stacked diagnostics rule = constraint_name;
        failure := case when sqlstate like 'PT%' then sqlerrm else concat_ws(' ', 'It could not be recorded:', sqlstate, nullif(rule, '')) end;
    end;
  end if;

  if failure is not null then
    insert into public.pull_failures (org_id, source_id, key, item, reason, occurred_at)
    values (source.org_id, source.id, item_key, item ->> 'item', left(failure, 500), (item ->> 'occurred_at')::timestamptz)
    on conflict on constraint pull_failures_once do update
      set item = excluded.item, reason = excluded.reason, occurred_at = excluded.occurred_at, event_id = null,
          attempts = pull_failures.attempts + 1,
          status = case when pull_failures.status = 'dismissed' then 'dismissed' else 'open' end::public.pull_failure_status;
  end if;
  update public.pull_failures set status = 'resolved', event_id = (recorded ->> 'event_id')::uuid
  where pull_failures.source_id = source.id and pull_failures.status <> 'resolved'
    and pull_failures.key in (item_key, content_key)
    and not (failure is not null and pull_failures.key = item_key);
  return case when failure is not null then 'failed' when (recorded ->> 'duplicate')::boolean then 'duplicates' else 'recorded' end;
end;
$$;
comment on function private.record_pulled is 'Record one pulled item as a push would have, or keep it with the reason why not.';

-- watch/alerts.sql
-- Alerts: each is a thing for a person to look at; one open alert per kind and subject.
--
-- private.open_alert and private.close_alert are the two doors.

create type public.alert_severity as enum ('info', 'warning', 'critical');

create table public.alerts (
  id               uuid primary key default private.uuid_v7(),
  org_id           uuid not null references public.organizations (id),
  kind             text not null,
  subject          text not null,
  topic            text,
  severity         public.alert_severity not null default 'warning',
  message          text not null,
  details          jsonb not null default '{}',
  site_id          uuid,
  event_id         uuid,
  opened_at        timestamptz not null default now(),
  last_seen_at     timestamptz not null default now(),
  last_notified_at timestamptz,
  acknowledged_at  timestamptz,
  acknowledged_by  uuid,
  closed_at        timestamptz,

  constraint alerts_site foreign key (org_id, site_id) references public.sites (org_id, id)
);
comment on table public.alerts is 'Things for a person to look at; one open alert per kind and subject.';
comment on column public.alerts.topic is 'Alerts of one topic are told together: the subject, unless many subjects fail for one reason.';
comment on column public.alerts.event_id is 'The event that showed it. No foreign key: partitions of events are archived one by one.';
create unique index alerts_one_open on public.alerts (org_id, kind, subject) where closed_at is null;
create index alerts_org_idx on public.alerts (org_id, id desc);
create index alerts_site_idx on public.alerts (org_id, site_id) where site_id is not null;
create index alerts_untold_idx on public.alerts (id) where closed_at is null and last_notified_at is null;

create trigger alerts_audit after update on public.alerts
  for each row execute function private.audit_change('users');

alter table public.alerts enable row level security, force row level security;
grant select on public.alerts to authenticated, service_role;
create policy "members read alerts" on public.alerts for select to authenticated
  using (org_id in (select private.my_orgs('alerts.read')));

-- watch/findings.sql
-- Findings: a check of the data monitor answers one for each thing that is wrong.
--
-- A check is private.check_<kind of alert>(organization, the agent's thresholds, the time it is).

create type private.finding as (
  subject  text,
  severity public.alert_severity,
  message  text,
  details  jsonb,
  site_id  uuid
);
comment on type private.finding is 'The answer of a check for each thing that is wrong.';

-- watch/arrivals.sql
-- Arrivals: events that sites sent or that were pulled from them, and the last time of each site.
--
-- An event that a site pushed has the source site:<slug>, a pulled one pull:<name>. When a pull makes up for the losses
-- of a push, a pulled event does not show that the push lives.

create view private.arrivals as
  select events.id, events.org_id, events.site_id, left(events.source, 5) as prefix
  from public.events
  where left(events.source, 5) in ('site:', 'pull:') and events.data #>> '{form,submission_id}' is distinct from 'test-event';
comment on view private.arrivals is 'Events that sites sent or that were pulled from them, without the form by which `make new-site` tries a connection.';

create function private.last_arrival(site public.sites, before timestamptz)
returns timestamptz
language sql stable set search_path = ''
as $$
  select private.uuid_v7_time(arrivals.id)
  from private.arrivals
  where arrivals.org_id = site.org_id and arrivals.site_id = site.id
    -- Asked once, not for each arrival.
    and arrivals.prefix = any ((select private.living_sources(site))::text[])
    and arrivals.id < private.uuid_v7_floor(before)
  order by arrivals.id desc
  limit 1;
$$;
comment on function private.last_arrival is 'When a site last sent anything at all before a time.';

create function private.first_arrival(site public.sites)
returns timestamptz
language sql stable set search_path = ''
as $$
  select private.uuid_v7_time(arrivals.id)
  from private.arrivals
  where arrivals.org_id = site.org_id and arrivals.site_id = site.id
    and arrivals.prefix = any ((select private.living_sources(site))::text[])
  order by arrivals.id
  limit 1;
$$;
comment on function private.first_arrival is 'When a site first sent anything.';

create function private.living_sources(site public.sites)
returns text[]
language plpgsql stable set search_path = ''
as $$
begin
  if exists (
    select from public.pull_sources
    where pull_sources.org_id = site.org_id and pull_sources.site_id = site.id and pull_sources.enabled and pull_sources.pushes
  ) then
    return '{site:}';
  end if;
  return '{site:,pull:}';
end;
$$;
comment on function private.living_sources is 'The prefixes of the sources that show that a site lives; the pushes alone of a site that pushes and is pulled.';

-- watch/explain.sql
-- Explain: why a row is as it is, from the happening outside down to the row, in plain words with the rows.
--
-- Every consequence points back: an action to its delivery, a delivery to its event, an event to the event that caused
-- it. explain() follows these as the caller, so it shows nobody more than they may read.

create type private.step as (kind text, id uuid, at timestamptz, says text, data jsonb);
comment on type private.step is 'One link of an explanation.';

create function public.explain(id uuid)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  found_it record;
  before private.step[];
  origin jsonb;
begin
  select it.subject, it.steps, it.event_id into found_it from private.steps_to_subject(explain.id) as it;
  if found_it.subject is null then
    perform private.fail(404, 'nothing_to_explain', 'There is no event, action, delivery, lead or alert with this id.');
  end if;
  if found_it.event_id is null then
    origin := private.own_watch();
  else
    select traced.steps, traced.origin into before, origin from private.steps_to_event(found_it.event_id) as traced;
  end if;
  return (
    select jsonb_build_object(
      'subject', jsonb_build_object('kind', found_it.subject, 'id', explain.id),
      'origin', origin,
      'story', concat_ws(' ', origin ->> 'says', string_agg(link.says, ' ' order by link.place)),
      'chain', coalesce(jsonb_agg(jsonb_build_object(
        'kind', link.kind, 'id', link.id, 'at', link.at, 'says', link.says, 'row', link.data) order by link.place), '[]'))
    from unnest(before || found_it.steps) with ordinality as link (kind, id, at, says, data, place));
end;
$$;
comment on function public.explain is 'Why an event, action, delivery, lead''s score or alert is there: the chain from outside, in plain words, with the rows.';
grant execute on function public.explain to authenticated, service_role;

-- watch/hub_status.sql
-- Status: each part of the hub as ok, degraded or not configured, computed, never typed.
--
-- The function `status` adds what only functions know: which of them answer, and which providers they have keys for.

create type private.component as (kind text, name text, state text, reason text);
comment on type private.component is 'A part of the hub and how it is: ok, degraded or not configured.';

create function public.hub_status()
returns jsonb
language sql set search_path = ''
as $$
  select private.hub_status_for_caller();
$$;
comment on function public.hub_status is 'Sites, agents, jobs, pulls and outgoing webhooks, each ok, degraded or not configured, with the reason.';
grant execute on function public.hub_status to authenticated, service_role;

-- security definer: nobody reads jobs and secrets; the function itself asks who may see their state.
create function private.hub_status_for_caller()
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  organization uuid;
  seen jsonb := '[]';
begin
  for organization in
    select private.caller_orgs('alerts.read')
  loop
    seen := seen || (
      select jsonb_build_object(
        'organization', (select organizations.slug from public.organizations where organizations.id = organization),
        'open_alerts', (select count(*) from public.alerts where alerts.org_id = organization and alerts.closed_at is null),
        'model_fallback', (select found.message from private.check_model_fallback(organization, '{}', now()) as found),
        'components', coalesce(jsonb_agg(to_jsonb(part)), '[]'))
      from (
        select * from private.site_components(organization)
        union all select * from private.agent_components(organization)
        union all select * from private.pull_components(organization)
        union all select * from private.webhook_components(organization)
        union all select * from private.job_components(organization)
      ) as part);
  end loop;
  if organization is null then
    perform private.fail(403, 'not_permitted', 'Your role may not see the hub''s status.');
  end if;
  return seen;
end;
$$;
comment on function private.hub_status_for_caller is 'How the caller''s organizations and the hub''s jobs are.';
grant execute on function private.hub_status_for_caller to authenticated, service_role;

-- watch/agent_components.sql
-- Status of agents, jobs and outgoing webhooks.

create function private.agent_components(org_id uuid)
returns setof private.component
language sql stable set search_path = ''
as $$
  select
    'agent', coalesce(agents.name, replace(known.kind, '_', '-')),
    case
      when agents.id is null or versions.id is null or subscribed.count = 0 then 'not configured'
      when agents.status in ('paused', 'blocked') or agents.autonomy = 'off' or subscribed.willing = 0 or work.dead > 0 or work.waited > interval '1 minute'
        or fallen.message is not null then 'degraded'
      else 'ok'
    end,
    case
      when agents.id is null then 'There is no agent of this kind.'
      when versions.id is null then 'No version of it is published.'
      when subscribed.count = 0 then 'Nothing is brought to it: it has no subscription.'
      when agents.status in ('paused', 'blocked') then format('It is %s.', agents.status)
      when agents.autonomy = 'off' then 'It is switched off.'
      when everything.is_paused then 'Everything is paused (system_controls).'
      when subscribed.willing = 0 then 'Its subscription or its organization is paused.'
      when work.dead > 0 then format('%s deliveries are dead and wait for a replay.', work.dead)
      when work.waited > interval '1 minute' then format('Work has waited for %s seconds.', extract(epoch from work.waited)::integer)
      when fallen.message is not null then fallen.message
      else format('Version %s decides%s.', versions.version, case when agents.autonomy = 'auto' then '' else ', and a person reviews' end)
    end
  from (values ('lead_qualifier'), ('data_monitor'), ('email_responder'), ('voice_intake'), ('campaign_dialer')) as known (kind)
  full join (select * from public.agents where agents.org_id = agent_components.org_id) as agents on agents.kind = known.kind
  cross join (
    select exists (select from public.system_controls where system_controls.name = 'global_pause' and system_controls.is_on) as is_paused
  ) as everything
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  left join private.fallbacks(agent_components.org_id) as fallen on fallen.agent_id = agents.id
  left join lateral (
    select count(*) as count, count(willing.id) as willing
    from public.subscriptions
    left join private.willing_subscriptions as willing on willing.id = subscriptions.id
    where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id
  ) as subscribed on true
  left join lateral (
    select
      (select count(*)
       from (
         select from public.subscriptions
         join public.deliveries
           on deliveries.org_id = subscriptions.org_id and deliveries.subscription_id = subscriptions.id and deliveries.status = 'dead'
           and deliveries.mode = 'live'
         where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id
         limit 1000
       ) as first_thousand) as dead,
      (select now() - min(due_work.due_since)
       from public.subscriptions
       join private.due_work on due_work.subscription_id = subscriptions.id
       where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id) as waited
  ) as work on true;
$$;
comment on function private.agent_components is 'The agents of an organization, and the kinds it has none of.';

create function private.job_components(org_id uuid)
returns setof private.component
language sql volatile set search_path = ''
as $$
  select
    'job', known.jobname, case when late.subject is null then 'ok' else 'degraded' end,
    coalesce(late.message, format('It runs at "%s".', job.schedule))
  from (select known_jobs.jobname from private.known_jobs union select active.jobname from cron.job as active where active.active) as known
  left join cron.job on job.jobname = known.jobname
  left join private.check_job_late(job_components.org_id, '{}', now()) as late on late.subject = known.jobname;
$$;
comment on function private.job_components is 'The jobs of the clock, and whether each ran.';

create function private.webhook_components(org_id uuid)
returns setof private.component
language sql stable set search_path = ''
as $$
  select
    'webhook', subscriptions.name,
    case when subscriptions.paused or willing.id is null or dead.count > 0 then 'degraded' else 'ok' end,
    case
      when subscriptions.paused then 'It is paused.'
      when willing.id is null then 'Its organization or everything is paused.'
      when dead.count > 0 then format('%s deliveries are dead and wait for a replay.', dead.count)
      else 'What it asks for is sent.'
    end
  from public.subscriptions
  left join private.willing_subscriptions as willing on willing.id = subscriptions.id
  left join lateral (
    select count(*) as count
    from (
      select from public.deliveries
      where deliveries.org_id = subscriptions.org_id and deliveries.subscription_id = subscriptions.id and deliveries.status = 'dead'
        and deliveries.mode = 'live'
      limit 1000
    ) as first_thousand
  ) as dead on true
  where subscriptions.org_id = webhook_components.org_id and subscriptions.target_kind = 'webhook';
$$;
comment on function private.webhook_components is 'Outgoing webhooks and how they are.';

-- watch/check_deliveries.sql
-- Checks of deliveries: subscriptions that wait, and targets that fail.

create function private.check_deliveries_stuck(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  with since as (
    select at - make_interval(mins => coalesce((config ->> 'stuck_after_minutes')::integer, 15)) as due,
           at - interval '5 minutes' as leased
  )
  select
    willing.name, 'critical'::public.alert_severity,
    case when due.due_since is null
      then format('%s deliveries to %s are still held by leases that ran out.', held.count, willing.name)
      else format('A delivery to %s has been due since %s UTC and nobody takes it.',
                  willing.name, to_char(due.due_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI'))
    end,
    jsonb_build_object('subscription', willing.name, 'due_since', due.due_since, 'held', coalesce(held.count, 0)),
    null::uuid
  from since
  cross join private.willing_subscriptions as willing
  left join private.due_work as due on due.subscription_id = willing.id and due.due_since < since.due
  left join (
    select deliveries.subscription_id, count(*) as count
    from since
    join public.deliveries on deliveries.status = 'running' and deliveries.leased_until < since.leased
    group by deliveries.subscription_id
  ) as held on held.subscription_id = willing.id
  where willing.org_id = check_deliveries_stuck.org_id and (due.due_since is not null or held.count > 0);
$$;
comment on function private.check_deliveries_stuck is 'Subscriptions whose deliveries wait although nothing is paused.';

create function private.check_function_failing(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  -- The latest two thousand failures tell as much as all of them, for the time in which they happened. A rehearsal's
  -- failures tell of a draft.
  with failures as materialized (
    select delivery_attempts.id, delivery_attempts.delivery_id
    from public.delivery_attempts
    join public.deliveries on deliveries.id = delivery_attempts.delivery_id and deliveries.mode = 'live'
    where delivery_attempts.org_id = check_function_failing.org_id
      and delivery_attempts.outcome in ('retry', 'dead', 'lapsed')
      and delivery_attempts.id >= private.uuid_v7_floor(at - interval '1 hour')
    order by delivery_attempts.id desc
    limit 2000
  ),
  hour as materialized (
    select case when (select count(*) from failures) < 2000 then private.uuid_v7_floor(at - interval '1 hour')
                else (select failures.id from failures order by failures.id limit 1) end as floor
  ),
  failing as (
    select deliveries.subscription_id,
           count(distinct deliveries.id) as failed,
           count(distinct deliveries.id) filter (where deliveries.id < hour.floor) as from_before
    from failures
    cross join hour
    join public.deliveries on deliveries.id = failures.delivery_id
    group by deliveries.subscription_id
  ),
  -- Counted once, not for each of its uses.
  served as materialized (
    select
      case when subscriptions.target_kind = 'function' then subscriptions.target else subscriptions.name end as name,
      sum(failing.failed) as failed,
      sum(failing.from_before + (
        select count(*)
        from (
          select from public.deliveries
          where deliveries.org_id = subscriptions.org_id and deliveries.subscription_id = subscriptions.id and deliveries.id >= hour.floor
            and deliveries.mode = 'live'
          limit 20000
        ) as fresh)) as handled
    from failing
    cross join hour
    join public.subscriptions on subscriptions.id = failing.subscription_id
    group by 1
  )
  select
    served.name, 'warning'::public.alert_severity,
    format('%s failed %s of %s deliveries within an hour.', served.name, served.failed, served.handled),
    jsonb_build_object('failed', served.failed, 'handled', served.handled),
    null::uuid
  from served
  where served.handled >= coalesce((config ->> 'failure_min')::integer, 10)
    and served.failed > served.handled * coalesce((config ->> 'failure_rate')::numeric, 0.2);
$$;
comment on function private.check_function_failing is 'Functions, and webhooks, that fail too large a share of their deliveries of the last hour.';

-- watch/check_jobs.sql
-- The check of cron jobs: missing, late or failing.

create table private.known_jobs (
  jobname  text primary key,
  seen_at  timestamptz not null default now()
);
comment on table private.known_jobs is 'The cron jobs that must exist: each that the monitor has seen. A migration that ends a job removes it here.';

create function private.check_job_late(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql set search_path = ''
as $$
begin
  insert into private.known_jobs (jobname)
  select job.jobname from cron.job where job.active and job.jobname is not null
  on conflict on constraint known_jobs_pkey do nothing;

  return query
  with ended as (
    select job_run_details.jobid,
           max(job_run_details.end_time) filter (where job_run_details.status = 'succeeded') as succeeded_at,
           max(job_run_details.end_time) filter (where job_run_details.status = 'failed') as failed_at
    from cron.job_run_details
    group by job_run_details.jobid
  )
  select
    known.jobname, 'critical'::public.alert_severity,
    case
      when job.jobid is null then format('The job %s is gone or switched off.', known.jobname)
      when ended.failed_at > coalesce(ended.succeeded_at, '-infinity') then format('The job %s fails.', known.jobname)
      else format('The job %s should run every %s and has not.', known.jobname, private.cron_interval(job.schedule))
    end,
    jsonb_build_object('schedule', job.schedule, 'succeeded_at', ended.succeeded_at, 'failed_at', ended.failed_at),
    null::uuid
  from private.known_jobs as known
  left join cron.job on job.jobname = known.jobname and job.active
  left join ended on ended.jobid = job.jobid
  -- A run before the server started, or a job first seen a moment ago, says nothing.
  where job.jobid is null
    or greatest(ended.succeeded_at, pg_postmaster_start_time(), known.seen_at)
       < at - 2 * private.cron_interval(job.schedule) - interval '2 minutes';
end;
$$;
comment on function private.check_job_late is 'Cron jobs that are missing, late or failing. The history reaches back three days, so none rarer than daily is judged.';

create function private.cron_interval(schedule text)
returns interval
language sql immutable set search_path = ''
as $$
  select case
    when schedule ~ '^\s*\d+ seconds?\s*$' then substring(schedule from '\d+')::integer * interval '1 second'
    when schedule ~ '^\*/\d+ \* \* \* \*$' then substring(schedule from '\d+')::integer * interval '1 minute'
    when schedule ~ '^\* \* \* \* \*$' then interval '1 minute'
    when schedule ~ '^\d+ \* \* \* \*$' or schedule = '@hourly' then interval '1 hour'
    when schedule ~ '^\d+ \*/\d+ \* \* \*$' then substring(schedule from '/(\d+)')::integer * interval '1 hour'
    when schedule ~ '^\d+ \d+ \* \* \*$' or schedule in ('@daily', '@midnight') then interval '1 day'
  end;
$$;
comment on function private.cron_interval is 'How far apart a schedule''s runs are; null for a schedule rarer than daily or at odd times.';

-- watch/check_kinds.sql
-- The check of kinds: sites that sent kinds of events which the catalogue does not know.

create function private.check_kind_unknown(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    format('%s sent kinds that nobody knows: %s. Their events are kept and start nothing until rpc/name_kind says what they mean.',
           sites.name, left(unknown.kinds, 200)),
    jsonb_build_object('kinds', left(unknown.kinds, 200), 'events', unknown.count),
    sites.id
  from (
    select kinds.site_id, string_agg(kinds.type, ', ' order by kinds.type) as kinds, sum(kinds.count) as count
    from (
      select latest.site_id, latest.type, count(*) as count
      from (
        select events.site_id, events.type
        from public.events
        where events.org_id = check_kind_unknown.org_id and events.unrecognised
        order by events.id desc
        limit 1000
      ) as latest
      group by latest.site_id, latest.type
    ) as kinds
    -- A kind that has a name by now is known.
    where private.canonical_type(kinds.type) is null
    group by kinds.site_id
  ) as unknown
  join public.sites on sites.id = unknown.site_id;
$$;
comment on function private.check_kind_unknown is 'Sites that sent kinds of events which the catalogue does not know.';

-- watch/check_models.sql
-- The check of models: a model that is asked and never decides.
--
-- An action for which a model was asked in vain names the reason as `fallback` in its output. A day's limit that is used
-- up is no finding, unless not even one question fits into it.

create function private.fallbacks(org_id uuid, at_least integer default 3)
returns table (agent_id uuid, message text)
language sql stable set search_path = ''
as $$
  select
    agents.id,
    format('The model decided none of the last %s runs of %s: %s.', streak.runs, agents.name,
           regexp_replace(streak.reason, '^decided by the rules: ', ''))
  from public.agents
  cross join lateral (
    -- While a model rests, the reason is why it does.
    select count(*) as runs, (array_agg(run.reason order by run.fallback = 'resting', run.id desc))[1] as reason
    from (
      select latest.*, bool_or(latest.fallback is null) over (order by latest.id desc) as is_before
      from (
        select agent_actions.id, agent_actions.created_at, agent_actions.output ->> 'fallback' as fallback,
               agent_actions.reasons[cardinality(agent_actions.reasons)] as reason
        from public.agent_actions
        where agent_actions.org_id = agents.org_id and agent_actions.agent_id = agents.id and agent_actions.outcome <> 'failed'
        order by agent_actions.id desc
        limit 100
      ) as latest
      where latest.fallback is distinct from 'limit_day'
        or not exists (
          select from private.model_spending
          where model_spending.org_id = agents.org_id and model_spending.day = (latest.created_at at time zone 'UTC')::date
            and model_spending.tokens > 0)
    ) as run
    where not run.is_before
  ) as streak
  where agents.org_id = fallbacks.org_id and streak.runs >= at_least;
$$;
comment on function private.fallbacks is 'Agents for which the rules stepped in at least so many times since their model last decided, and why.';

create function private.check_model_fallback(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    'llm', 'warning'::public.alert_severity, string_agg(fallen.message, ' ' order by fallen.message),
    jsonb_build_object('agents', jsonb_agg(fallen.agent_id)), null::uuid
  from private.fallbacks(check_model_fallback.org_id, coalesce((config ->> 'model_fallbacks_min')::integer, 3)) as fallen
  having count(*) > 0;
$$;
comment on function private.check_model_fallback is 'The model, when it decides nothing that it is asked.';

-- watch/check_pulls.sql
-- Checks of pulls: stale sources, failed items, and items that a push should have brought.

create function private.check_pull_stale(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select
    sources.name, 'warning'::public.alert_severity,
    format('Nothing could be pulled from %s since %s UTC.', sources.name, to_char(since.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')),
    jsonb_build_object('last_success_at', sources.last_success_at, 'every', sources.every),
    sources.site_id
  from public.pull_sources as sources
  join public.sites on sites.id = sources.site_id and sites.enabled
  cross join lateral (select coalesce(sources.last_success_at, sources.created_at) as at) as since
  where sources.org_id = check_pull_stale.org_id and sources.enabled
    and since.at < check_pull_stale.at - coalesce((config ->> 'stale_after_intervals')::numeric, 3) * sources.every;
end;
$$;
comment on function private.check_pull_stale is 'Pull sources that had no success for several of their intervals.';

create function private.check_pull_failed(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select
    sources.name, 'warning'::public.alert_severity,
    case when waiting.open > 0 then format('%s items wait for a decision (pull_failures).', waiting.open)
         else format('%s items wait to be read again (pull_failures).', waiting.retry) end,
    jsonb_build_object('source', sources.name, 'open', waiting.open, 'retry', waiting.retry, 'since', waiting.since),
    sources.site_id
  from public.pull_sources as sources
  cross join lateral (
    select count(*) filter (where failures.status = 'open') as open, count(*) filter (where failures.status = 'retry') as retry,
           min(failures.created_at) as since
    from public.pull_failures as failures
    where failures.org_id = sources.org_id and failures.source_id = sources.id and failures.status in ('open', 'retry')
  ) as waiting
  where sources.org_id = check_pull_failed.org_id and waiting.open + waiting.retry > 0;
end;
$$;
comment on function private.check_pull_failed is 'Pull sources of which items could not be recorded, until each is recorded or dismissed.';

create function private.check_pull_gaps(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select
    sources.name, 'warning'::public.alert_severity,
    format('%s submissions of %s came only by pull within the last hour: its push loses them.', missed.count, sites.name),
    jsonb_build_object('source', sources.name, 'missed', missed.count, 'gaps', sources.gaps),
    sources.site_id
  from public.pull_sources as sources
  join public.sites on sites.id = sources.site_id and sites.enabled
  cross join lateral (
    select count(*) as count
    from (
      select from public.events
      where events.org_id = sources.org_id and events.site_id = sources.site_id and events.source = 'pull:' || sources.name
        and events.id >= private.uuid_v7_floor(greatest(check_pull_gaps.at - interval '1 hour', sources.gaps_since))
        and events.id < private.uuid_v7_floor(check_pull_gaps.at)
      limit 20000
    ) as latest
  ) as missed
  where sources.org_id = check_pull_gaps.org_id and sources.enabled and sources.pushes and sources.gaps_since is not null
    and missed.count >= coalesce((config ->> 'gaps_min')::integer, 5);
end;
$$;
comment on function private.check_pull_gaps is 'Sites whose push should have brought items that only their pull did.';

-- watch/check_sites.sql
-- Checks of sites: silence, refused signatures, repeats.

create function private.check_site_silent(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    format('%s has sent nothing for %s open hours%s.', sites.name, round(extract(epoch from silence.open_for) / 3600, 1),
           case when silence.expected is not null then format(', in which it sends %s', round(silence.expected, 1)) else '' end)
    || case when silence.open_for >= sites.quiet_alert_after
         then format(' If so little is usual for it, raise sites.quiet_alert_after (%s now).', sites.quiet_alert_after) else '' end,
    jsonb_build_object('site', sites.slug, 'last_arrival', silence.last_arrival, 'expected', round(silence.expected, 2),
                       'quiet_alert_after', sites.quiet_alert_after),
    sites.id
  from public.sites
  cross join lateral private.site_silence(sites, check_site_silent.at) as silence
  where sites.org_id = check_site_silent.org_id
    and sites.enabled
    -- Only a sign of life ends a silence: that the shop has closed, or has new hours, does not.
    and (silence.is_silent or exists (
      select from public.alerts
      where alerts.org_id = sites.org_id and alerts.kind = 'site_silent' and alerts.subject = sites.slug
        and alerts.closed_at is null and silence.last_arrival < alerts.opened_at));
$$;
comment on function private.check_site_silent is 'Sites that have sent nothing for longer than they should have.';

create function private.check_signatures_refused(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    case when refused.in_a_row >= least_of.in_a_row
      then format('%s requests to %s had a wrong secret or signature, and none was accepted %s.', refused.in_a_row, sites.name,
                  coalesce('since ' || to_char(last.accepted_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC', 'within a day'))
      else format('%s requests to %s within an hour had a wrong secret or signature, against %s that were accepted.',
                  refused.lately, sites.name, accepted.count)
    end,
    jsonb_build_object('refused', refused.lately, 'accepted', accepted.count, 'in_a_row', refused.in_a_row, 'last_accepted', last.accepted_at),
    sites.id
  from public.sites
  cross join (
    select coalesce((config ->> 'refused_in_a_row')::integer, 5) as in_a_row, coalesce((config ->> 'refused_min')::integer, 20) as lately
  ) as least_of
  cross join lateral (
    select greatest(
      (select private.uuid_v7_time(events.id)
       from public.events
       where events.org_id = sites.org_id and events.site_id = sites.id and left(events.source, 5) = 'site:'
         and events.id >= private.uuid_v7_floor(at - interval '1 day')
       order by events.id desc
       limit 1),
      -- A repeated submission shows the right secret, too.
      (select max(refusals.minute)
       from public.refusals
       where refusals.org_id = sites.org_id and refusals.site_id = sites.id and refusals.reason = 'duplicate')) as accepted_at
  ) as last
  cross join lateral (
    select
      coalesce(sum(refusals.count) filter (where refusals.minute >= at - interval '1 hour'), 0) as lately,
      -- An instance writes its counts a moment after they happen.
      coalesce(sum(refusals.count) filter (
        where refusals.minute > coalesce(last.accepted_at + interval '5 seconds', '-infinity')), 0) as in_a_row
    from public.refusals
    where refusals.org_id = sites.org_id and refusals.site_id = sites.id and refusals.minute >= at - interval '1 day'
      and refusals.reason in ('secret', 'signature', 'timestamp', 'page_token', 'revoked')
  ) as refused
  cross join lateral (
    select count(*) as count
    from (
      select from public.events
      where events.org_id = sites.org_id and events.site_id = sites.id and left(events.source, 5) = 'site:'
        and events.id >= private.uuid_v7_floor(at - interval '1 hour')
      limit 20000
    ) as latest
  ) as accepted
  where sites.org_id = check_signatures_refused.org_id
    and sites.enabled
    and (refused.in_a_row >= least_of.in_a_row
      or (refused.lately >= least_of.lately
        and refused.lately > (refused.lately + accepted.count) * coalesce((config ->> 'refused_rate')::numeric, 0.05)));
$$;
comment on function private.check_signatures_refused is
  'Sites of whose requests too many show a wrong secret or signature within an hour, or several and none that is accepted within a day.';

create function private.check_duplicates_spike(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    format('%s of the last %s submissions of %s are repeats: %s under a key that was used, %s of contacts who had just sent one.',
           recent.arrivals - recent.contacts + repeated.count, recent.arrivals + repeated.count, sites.name, repeated.count, recent.arrivals - recent.contacts),
    jsonb_build_object('arrivals', recent.arrivals, 'contacts', recent.contacts, 'repeats', repeated.count),
    sites.id
  from public.sites
  cross join lateral (
    select count(*) as arrivals, count(distinct latest.contact_id) as contacts
    from (
      select events.contact_id
      from public.events
      where events.org_id = sites.org_id and events.site_id = sites.id and left(events.source, 5) in ('site:', 'pull:')
        and events.contact_id is not null
        and events.id >= private.uuid_v7_floor(check_duplicates_spike.at - interval '1 hour')
        and events.id < private.uuid_v7_floor(check_duplicates_spike.at)
      order by events.id desc
      limit 20000
    ) as latest
  ) as recent
  cross join lateral (
    -- Repeats under a key make no event.
    select coalesce(sum(refusals.count), 0) as count
    from public.refusals
    where refusals.org_id = sites.org_id and refusals.site_id = sites.id and refusals.reason = 'duplicate'
      and refusals.minute >= check_duplicates_spike.at - interval '1 hour' and refusals.minute < check_duplicates_spike.at
  ) as repeated
  where sites.org_id = check_duplicates_spike.org_id
    and recent.arrivals + repeated.count >= coalesce((config ->> 'duplicates_min')::integer, 20)
    and recent.arrivals - recent.contacts + repeated.count
        > (recent.arrivals + repeated.count) * coalesce((config ->> 'duplicates_rate')::numeric, 0.5);
$$;
comment on function private.check_duplicates_spike is
  'Sites most of whose latest submissions are sent again under their key or repeat a contact who was just there: a sender that loops.';

-- watch/data_monitor.sql
-- The agent data-monitor of an organization: made, and when it last looked.

create function private.add_data_monitor(org_slug text)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  agent public.agents;
begin
  insert into public.agents (org_id, kind, name)
  select organizations.id, 'data_monitor', 'data-monitor' from public.organizations where organizations.slug = org_slug
  on conflict on constraint agents_name_unique do nothing
  returning * into agent;
  if agent.id is null then
    return null;
  end if;
  insert into public.agent_versions (org_id, agent_id, version, config) values (agent.org_id, agent.id, 1, '{
    "stuck_after_minutes": 15,
    "failure_rate": 0.2,
    "failure_min": 10,
    "stale_after_intervals": 3,
    "gaps_min": 5,
    "refused_rate": 0.05,
    "refused_min": 20,
    "refused_in_a_row": 5,
    "duplicates_rate": 0.5,
    "duplicates_min": 20
  }');
  perform private.publish_version(agent.id, 1);
  insert into public.subscriptions (org_id, name, event_types, target, agent_id)
  values (agent.org_id, 'data-monitor', '{monitor.due}', 'data-monitor', agent.id);
  return agent.id;
end;
$$;
comment on function private.add_data_monitor is 'Give an organization its data monitor: agent, thresholds, subscription.';

create function private.last_monitored(org_id uuid default null)
returns timestamptz
language sql stable set search_path = ''
as $$
  select max(greatest(latest.created_at, willing.updated_at, agents.updated_at, pg_postmaster_start_time()))
  from private.willing_subscriptions as willing
  join public.agents on agents.id = willing.agent_id and agents.kind = 'data_monitor'
  left join lateral (
    select agent_actions.created_at
    from public.agent_actions
    where agent_actions.org_id = agents.org_id and agent_actions.agent_id = agents.id
    order by agent_actions.id desc
    limit 1
  ) as latest on true
  where last_monitored.org_id is null or willing.org_id = last_monitored.org_id;
$$;
comment on function private.last_monitored is 'When a data monitor last looked, counted from when it could; null when none is willing.';

-- watch/decide_alert.sql
-- Deciding about an alert: a user acknowledges it, or closes it.

create function public.acknowledge_alert(alert_id uuid)
returns jsonb
language sql set search_path = ''
as $$
  select private.decide_alert_for_caller(alert_id, false);
$$;
comment on function public.acknowledge_alert is 'Say that a user looks after an open alert.';
grant execute on function public.acknowledge_alert to authenticated, service_role;

create function public.close_alert(alert_id uuid)
returns jsonb
language sql set search_path = ''
as $$
  select private.decide_alert_for_caller(alert_id, true);
$$;
comment on function public.close_alert is 'Close an alert by hand; it opens again when its reason is found again.';
grant execute on function public.close_alert to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.decide_alert_for_caller(alert_id uuid, is_over boolean)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  alert public.alerts;
begin
  update public.alerts
  set acknowledged_at = coalesce(alerts.acknowledged_at, now()),
      acknowledged_by = coalesce(alerts.acknowledged_by, (select auth.uid())),
      closed_at = case when is_over then now() end
  where alerts.id = decide_alert_for_caller.alert_id and alerts.closed_at is null
    and alerts.org_id in (select private.caller_orgs('alerts.update'))
  returning * into alert;
  if alert.id is null then
    perform private.fail(404, 'unknown_alert', 'You may change no open alert with this id.');
  end if;
  return jsonb_build_object('id', alert.id, 'acknowledged_at', alert.acknowledged_at, 'closed_at', alert.closed_at);
end;
$$;
comment on function private.decide_alert_for_caller is 'Acknowledge an open alert of the caller''s organizations, or close it.';
grant execute on function private.decide_alert_for_caller to authenticated, service_role;

-- watch/explain_event.sql
-- The steps that led to an event, from its first cause.

create function private.steps_to_event(event_id uuid, out steps private.step[], out origin jsonb)
language plpgsql stable set search_path = ''
as $$
declare
  event public.events;
  action public.agent_actions;
  alert public.alerts;
  before record;
  seen uuid[] := '{}';
  next_id uuid := steps_to_event.event_id;
begin
  steps := '{}';
  -- A circle of causes, which nothing makes, must not hang the caller.
  while not next_id = any (seen) loop
    seen := seen || next_id;
    select * into event from public.events where events.id = next_id;
    if not found then
      origin := jsonb_build_object('kind', 'unknown', 'says', 'What came before is archived, or not yours to see.');
      return;
    end if;
    steps := array[row('event', event.id, event.occurred_at, private.event_in_words(event), to_jsonb(event))::private.step] || steps;
    if event.source = 'hub' and event.subject_type = 'alert' then
      select * into alert from public.alerts where alerts.id = event.subject_id;
      if found then
        select told.steps, told.event_id into before from private.steps_to_alert(alert) as told;
        steps := before.steps || steps;
        if before.event_id is null then
          origin := private.own_watch();
          return;
        end if;
        next_id := before.event_id;
        continue;
      end if;
    end if;
    if event.cause_id is null then
      origin := private.origin_in_words(event);
      return;
    end if;
    -- The agent that decided stands between a cause and its consequence.
    select * into action from public.agent_actions
    where agent_actions.event_id = event.cause_id and agent_actions.agent = event.source and agent_actions.outcome <> 'failed';
    if found then
      steps := private.steps_to_action(action) || steps;
    end if;
    next_id := event.cause_id;
  end loop;
  origin := jsonb_build_object('kind', 'unknown', 'says', 'It is said to have come of itself.');
end;
$$;
comment on function private.steps_to_event is 'The steps that led to an event, from its first cause to the event itself.';
grant execute on function private.steps_to_event to authenticated, service_role;

-- watch/explain_rows.sql
-- The steps that an alert, a delivery and an action are in an explanation.

create function private.steps_to_alert(alert public.alerts, out steps private.step[], out event_id uuid)
language plpgsql stable set search_path = ''
as $$
declare
  delivery public.deliveries;
begin
  steps := array[row('alert', alert.id, alert.opened_at, alert.message, to_jsonb(alert))::private.step];
  event_id := coalesce(alert.event_id, substring(alert.details ->> 'event_id' from '^[0-9a-f-]{36}$')::uuid);
  if alert.kind = 'delivery_dead' then
    select * into delivery from public.deliveries where deliveries.id = alert.subject::uuid;
    if found then
      steps := private.delivery_steps(delivery) || steps;
      event_id := delivery.event_id;
    end if;
  elsif alert.kind = 'site_silent' then
    -- A silence is explained by the site's last arrival, not by the look that found it.
    event_id := coalesce((
      select events.id
      from public.events
      where events.org_id = alert.org_id and events.site_id = alert.site_id and left(events.source, 5) in ('site:', 'pull:')
        and events.id < private.uuid_v7_floor(alert.opened_at)
      order by events.id desc
      limit 1), event_id);
  end if;
end;
$$;
comment on function private.steps_to_alert is 'The steps from the event that led to an alert down to the alert; no event when the hub''s own watch found it.';
grant execute on function private.steps_to_alert to authenticated, service_role;

create function private.delivery_steps(delivery public.deliveries)
returns private.step[]
language plpgsql stable set search_path = ''
as $$
declare
  is_rehearsal constant boolean := delivery.mode = 'rehearsal';
  subscription text;
  rehearsed integer;
  replay public.replays;
  steps private.step[];
begin
  select subscriptions.name into subscription from public.subscriptions where subscriptions.id = delivery.subscription_id;
  select agent_versions.version into rehearsed from public.agent_versions where agent_versions.id = delivery.version_id;
  steps := array[row(
    'delivery', delivery.id, delivery.created_at,
    format('It was brought to %s%s: %s%s.%s', subscription,
      case when is_rehearsal then ' as a rehearsal, without effects' else '' end,
      case delivery.status
        when 'done' then 'done' when 'skipped' then 'there was nothing to do' when 'dead' then 'dead'
        when 'failed' then 'it failed and will be tried again' when 'running' then 'it is being handled' else 'it waits' end,
      case when delivery.attempts > 1 then format(', %s attempts', delivery.attempts) else '' end
      || coalesce(', ' || rtrim(delivery.last_error, '.'), ''),
      case when is_rehearsal then coalesce(' It would have been decided "' || (delivery.result #>> '{effects,action,decision}') || '".', '') else '' end),
    to_jsonb(delivery) - 'lease_token')::private.step];
  select * into replay from public.replays where replays.id = delivery.replay_id;
  if found then
    steps := array[row(
      'replay', replay.id, replay.created_at,
      case
        when is_rehearsal then format('%s had %s decide about it in a rehearsal.',
          case when replay.asked_by is null then 'Somebody with the hub''s secret key' else 'A user' end,
          coalesce('version ' || rehearsed, 'a version'))
        when replay.asked_by is null then 'It was put in line again.'
        else 'A user put it in line again.'
      end,
      to_jsonb(replay))::private.step] || steps;
  end if;
  return steps;
end;
$$;
comment on function private.delivery_steps is 'A delivery, and the replay that put it in line again.';
grant execute on function private.delivery_steps to authenticated, service_role;

create function private.action_step(action public.agent_actions)
returns private.step
language sql stable set search_path = ''
as $$
  select row(
    'action', action.id, action.created_at,
    format('%s decided "%s"%s%s%s.%s', action.agent, action.decision,
      coalesce(' with version ' || (select version from public.agent_versions where agent_versions.id = action.version_id), ''),
      coalesce(', ' || round(action.confidence * 100) || ' % sure', ''),
      coalesce(', because: ' || nullif(rtrim(array_to_string(action.reasons, ', '), '.'), ''), ''),
      case action.review when 'approved' then ' A user approved it.' when 'rejected' then ' A user rejected it.'
        when 'pending' then ' It waits for a user''s review.' else '' end),
    to_jsonb(action))::private.step;
$$;
comment on function private.action_step is 'An agent''s decision, with its reasons.';
grant execute on function private.action_step to authenticated, service_role;

-- watch/explain_subject.sql
-- The steps between a row and the event that led to it.

create function private.steps_to_subject(id uuid, out subject text, out steps private.step[], out event_id uuid)
language plpgsql stable set search_path = ''
as $$
declare
  alert public.alerts;
  lead public.leads;
  action public.agent_actions;
  delivery public.deliveries;
begin
  select events.id into event_id from public.events where events.id = steps_to_subject.id;
  if found then
    subject := 'event';
    return;
  end if;
  select * into alert from public.alerts where alerts.id = steps_to_subject.id;
  if found then
    subject := 'alert';
    select told.steps, told.event_id into steps, event_id from private.steps_to_alert(alert) as told;
    return;
  end if;
  select * into lead from public.leads where leads.id = steps_to_subject.id;
  if found then
    subject := 'lead';
    select told.steps, told.event_id into steps, event_id from private.steps_to_lead(lead) as told;
    return;
  end if;
  select * into action from public.agent_actions where agent_actions.id = steps_to_subject.id;
  if found then
    subject := 'action';
    steps := private.steps_to_action(action);
    event_id := action.event_id;
    return;
  end if;
  select * into delivery from public.deliveries where deliveries.id = steps_to_subject.id;
  if found then
    subject := 'delivery';
    steps := private.delivery_steps(delivery);
    event_id := delivery.event_id;
  end if;
end;
$$;
comment on function private.steps_to_subject is 'The steps from the event that led to a row down to the row itself.';
grant execute on function private.steps_to_subject to authenticated, service_role;

create function private.steps_to_lead(lead public.leads, out steps private.step[], out event_id uuid)
language plpgsql stable set search_path = ''
as $$
declare
  action public.agent_actions;
begin
  steps := array[row(
    'lead', lead.id, coalesce(lead.last_action_at, lead.created_at),
    case when lead.score is null then 'The lead has no score yet.'
      else format('The lead''s score is %s (%s): %s.', lead.score, lead.band, array_to_string(lead.reasons, ', ')) end,
    to_jsonb(lead))::private.step];
  select * into action from public.agent_actions
  where agent_actions.org_id = lead.org_id and agent_actions.lead_id = lead.id and agent_actions.event_id = lead.scored_by
    and agent_actions.outcome <> 'failed'
  order by agent_actions.id desc limit 1;
  if found then
    steps := private.steps_to_action(action) || steps;
  end if;
  event_id := coalesce(lead.scored_by, (
    select events.id from public.events
    where events.org_id = lead.org_id and events.contact_id = any (private.contact_family(lead.contact_id))
      and events.subject_id = lead.id
    order by events.id limit 1));
end;
$$;
comment on function private.steps_to_lead is 'A lead''s score, and the agent that gave it.';
grant execute on function private.steps_to_lead to authenticated, service_role;

create function private.steps_to_action(action public.agent_actions)
returns private.step[]
language plpgsql stable set search_path = ''
as $$
declare
  delivery public.deliveries;
begin
  select * into delivery from public.deliveries where deliveries.id = action.delivery_id;
  return case when found then private.delivery_steps(delivery) end || private.action_step(action);
end;
$$;
comment on function private.steps_to_action is 'An agent''s decision, after the delivery in which it was made.';
grant execute on function private.steps_to_action to authenticated, service_role;

-- watch/explain_words.sql
-- The words of an explanation: an event as a sentence, and its origin.

create function private.event_in_words(event public.events)
returns text
language sql stable set search_path = ''
as $$
  select case event.type
    when 'form.submitted' then format('%s sent a form on %s.', who.name, coalesce(place.name, 'a site'))
    when 'booking.placed' then format('%s placed a booking on %s.', who.name, coalesce(place.name, 'a site'))
    when 'submission.quarantined' then format('A form on %s was put aside: %s.', coalesce(place.name, 'a site'), event.data ->> 'reason')
    when 'lead.qualified' then format('The lead of %s was scored %s (%s).', who.name, event.data ->> 'score', event.data ->> 'band')
    when 'delivery.dead' then format('A delivery to %s is dead: %s.', event.data ->> 'subscription', rtrim(event.data ->> 'error', '.'))
    else coalesce(
      (select event_types.description from public.event_types where event_types.name = event.type),
      format('Something called %s happened.', event.type))
  end
  from (select coalesce((select contacts.name from public.contacts where contacts.id = event.contact_id), 'Somebody') as name) as who
  left join public.sites as place on place.id = event.site_id;
$$;
comment on function private.event_in_words is 'An event as one sentence.';
grant execute on function private.event_in_words to authenticated, service_role;

create function private.origin_in_words(event public.events)
returns jsonb
language sql stable set search_path = ''
as $$
  select case
    when private.is_from_outside(event.source) then jsonb_build_object(
      'kind', 'outside', 'says', format('It came from outside, by the %s %s.', split_part(event.source, ':', 1), split_part(event.source, ':', 2)))
    when event.source ~ '^user:' then jsonb_build_object('kind', 'person', 'says', 'A person did it.')
    -- An alert event without a cause is one whose alert is gone; any other event of the hub has a cause.
    when event.source = 'hub' and event.type like 'alert.%' then private.own_watch()
    when event.source = 'hub' then jsonb_build_object('kind', 'person', 'says', 'Somebody with the hub''s secret key did it.')
    when event.source ~ '^(clock|cron|schedule)' then jsonb_build_object('kind', 'clock', 'says', 'It was time: the hub''s own clock began it.')
    else jsonb_build_object('kind', 'person', 'says', format('A person recorded it, by %s.', event.source))
  end;
$$;
comment on function private.origin_in_words is 'The origin of an event without a cause.';
grant execute on function private.origin_in_words to authenticated, service_role;

create function private.own_watch()
returns jsonb
language sql immutable set search_path = ''
as $$
  select jsonb_build_object('kind', 'clock', 'says', 'The hub''s own watch found it.');
$$;
comment on function private.own_watch is 'The origin of an alert that no event showed.';
grant execute on function private.own_watch to authenticated, service_role;

-- watch/invariants.sql
-- Invariants: rows of SQL that must answer nothing. A new guarantee is a new row.
--
-- An insert here runs SQL, so only migrations and postgres may: no API role holds a right to write here, and no function
-- takes SQL from anybody.

create table public.invariants (
  name         text primary key,
  description  text not null,
  sql          text not null,
  severity     public.alert_severity not null default 'critical',
  pauses       text,
  enabled      boolean not null default true,
  last_run_at  timestamptz,
  last_ms      integer,
  last_error   text,
  created_at   timestamptz not null default now(),

  constraint invariants_name_form check (name ~ '^[a-z][a-z0-9_]{1,60}$')
);
comment on table public.invariants is 'Guarantees: SQL that answers nothing, else org_id and found, a sentence, for each violation.';
comment on column public.invariants.sql is 'A query of the columns org_id, null for all organizations, and found. Run as hub_reader, read-only.';
comment on column public.invariants.pauses is 'The name of the agent that is paused when this is violated.';

alter table public.invariants enable row level security, force row level security;
grant select on public.invariants to authenticated, service_role;
create policy "who reads alerts reads what is watched" on public.invariants for select to authenticated
  using (exists (select from private.my_orgs('alerts.read')));

-- A timeout holds for a statement of the session, and for nothing within one: so each invariant is a statement.
-- security definer: a migration of another role may schedule no job of ours.
create function private.schedule_invariants()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform cron.schedule('run_invariants', '30 seconds', concat_ws('; ',
    'set statement_timeout = ''5s''',
    (select string_agg(format('select private.run_invariant(%L)', invariants.name), '; ' order by invariants.name)
     from public.invariants where invariants.enabled)));
  -- The alerts of an invariant that is no longer asked would never close.
  update public.alerts set closed_at = now()
  where alerts.kind in ('invariant', 'invariant_unchecked') and alerts.closed_at is null
    and not exists (select from public.invariants where invariants.name = alerts.subject and invariants.enabled);
  return null;
end;
$$;
comment on function private.schedule_invariants is 'Trigger: cron runs every enabled invariant, each as a statement of its own.';

create trigger invariants_schedule after insert or update of enabled or delete on public.invariants
  for each statement execute function private.schedule_invariants();

-- Invariants may use these beside the tables of public.
grant select on private.audit_heads, private.willing_subscriptions, private.due_work to hub_reader;
grant execute on function
  private.wants, private.has_acted_on_cause, private.is_echo, private.uuid_v7_floor, private.last_monitored, private.visible_contact
to hub_reader;

-- watch/notify_alert.sql
-- Telling of alerts: an alert that opens or closes is an event, and subscribers to alert.* learn of it.
--
-- Triggers tell, so that it holds for every writer. A topic is told of at most once per organizations.alert_every; an
-- alert that was held back is told when that time is over, if it is still open.

create table private.alert_notices (
  org_id      uuid not null references public.organizations (id),
  kind        text not null,
  topic       text not null,
  notified_at timestamptz not null default now(),

  primary key (org_id, kind, topic)
);
comment on table private.alert_notices is 'When a topic''s alerts were last told.';

-- security definer: opening or closing an alert needs no right to write events.
create function private.follow_alert()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    perform private.notify_alert(new.id);
  elsif new.last_notified_at is not null then
    perform private.tell_alert(new, 'alert.closed');
  end if;
  return null;
end;
$$;
comment on function private.follow_alert is 'Trigger: subscribers that learnt of an open alert learn that it closed.';

create trigger alerts_opened after insert on public.alerts
  for each row when (new.closed_at is null) execute function private.follow_alert();

create trigger alerts_closed after update of closed_at on public.alerts
  for each row when (old.closed_at is null and new.closed_at is not null) execute function private.follow_alert();

create function private.notify_alert(alert_id uuid)
returns boolean
language plpgsql set search_path = ''
as $$
declare
  alert public.alerts;
begin
  -- Another transaction with the same topic waits here, and then finds that it has been told.
  insert into private.alert_notices as notices (org_id, kind, topic)
  select alerts.org_id, alerts.kind, coalesce(alerts.topic, alerts.subject)
  from public.alerts where alerts.id = notify_alert.alert_id
  on conflict on constraint alert_notices_pkey do update set notified_at = now()
    where notices.notified_at <= now() - (select organizations.alert_every from public.organizations where organizations.id = notices.org_id);
  if not found then
    return false;
  end if;
  update public.alerts set last_notified_at = now() where alerts.id = notify_alert.alert_id returning * into alert;
  perform private.tell_alert(alert, 'alert.opened');
  return true;
end;
$$;
comment on function private.notify_alert is 'Tell of an open alert, unless its topic was told of a short while ago.';

create function private.tell_alert(alert public.alerts, type text)
returns void
language plpgsql set search_path = ''
as $$
begin
  perform private.write_event(
    alert.org_id, tell_alert.type,
    jsonb_build_object('alert_id', alert.id, 'kind', alert.kind, 'subject', alert.subject, 'severity', alert.severity,
                       'message', alert.message, 'details', alert.details),
    site_id => alert.site_id, subject_type => 'alert', subject_id => alert.id, cause_id => alert.event_id,
    trace_id => (select events.trace_id from public.events where events.id = alert.event_id));
end;
$$;
comment on function private.tell_alert is 'Write the event by which subscribers learn of an alert.';

create function private.notify_held_back()
returns integer
language sql set search_path = ''
as $$
  select count(*) filter (where private.notify_alert(latest.id))
  from (
    select distinct on (alerts.org_id, alerts.kind, coalesce(alerts.topic, alerts.subject)) alerts.id
    from public.alerts
    where alerts.closed_at is null and alerts.last_notified_at is null
    order by alerts.org_id, alerts.kind, coalesce(alerts.topic, alerts.subject), alerts.id desc
  ) as latest;
$$;
comment on function private.notify_held_back is 'Tell of open alerts that were held back when they opened.';

-- watch/open_alert.sql
-- Opening an alert, seeing it again, closing it by recovery.

create function private.open_alert(
  org_id uuid, kind text, subject text, severity public.alert_severity, message text,
  details jsonb default '{}', topic text default null, event_id uuid default null, site_id uuid default null)
returns boolean
language sql set search_path = ''
as $$
  insert into public.alerts as known (org_id, kind, subject, severity, message, details, topic, event_id, site_id)
  values (
    open_alert.org_id, open_alert.kind, left(open_alert.subject, 300), open_alert.severity, left(open_alert.message, 2000),
    open_alert.details || jsonb_strip_nulls(jsonb_build_object('event_id', open_alert.event_id)), left(open_alert.topic, 300),
    open_alert.event_id, open_alert.site_id)
  on conflict (org_id, kind, subject) where closed_at is null do update
    set last_seen_at = now(), severity = excluded.severity, message = excluded.message,
        details = excluded.details || jsonb_strip_nulls(jsonb_build_object('event_id', known.event_id))
  returning known.xmax = 0;
$$;
comment on function private.open_alert is 'Open an alert, or see an open one again; answers whether it is new.';

create function private.close_alert(org_id uuid, kind text, subject text)
returns boolean
language plpgsql set search_path = ''
as $$
begin
  update public.alerts set closed_at = now()
  where alerts.org_id = close_alert.org_id and alerts.kind = close_alert.kind and alerts.subject = close_alert.subject
    and alerts.closed_at is null;
  return found;
end;
$$;
comment on function private.close_alert is 'Close an alert whose reason is gone; answers whether there was one.';

-- watch/readiness.sql
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

-- watch/run_invariant.sql
-- Asking an invariant, twice a minute: its violations are one open alert per organization, and can pause an agent.
--
-- Each query runs as hub_reader, which may read tables and nothing else, read-only, in a subtransaction that is always
-- rolled back, as a statement with a timeout of its own. An agent is paused once: a user who lets it run again is not
-- overruled. Large tables are looked at from their newest rows back, by their v7 ids; the description says how far.

create function private.run_invariant(name text)
returns integer
language plpgsql set search_path = ''
as $$
declare
  began timestamptz := clock_timestamp();
  invariant public.invariants;
  violations jsonb;
  problem text;
  violated record;
  paused text;
begin
  select * into strict invariant from public.invariants where invariants.name = run_invariant.name;
  begin
    violations := private.violations_of(invariant);
  exception when query_canceled then
    problem := 'it took too long';
  when others then
    problem := sqlstate || ' ' || sqlerrm;
  end;

  update public.invariants
  set last_run_at = now(), last_ms = extract(epoch from clock_timestamp() - began) * 1000, last_error = problem
  where invariants.name = invariant.name;

  update public.alerts set closed_at = now()
  where problem is null and alerts.subject = invariant.name and alerts.closed_at is null
    and (alerts.kind = 'invariant_unchecked' or (alerts.kind = 'invariant' and not exists (
      select from jsonb_to_recordset(violations) as violation (org_id uuid)
      where coalesce(violation.org_id, alerts.org_id) = alerts.org_id)));

  for violated in
    select organizations.id as org_id, count(violation.found) as count, (array_agg(violation.found))[1:5] as examples
    from public.organizations
    left join jsonb_to_recordset(violations) as violation (org_id uuid, found text)
      on coalesce(violation.org_id, organizations.id) = organizations.id
    where organizations.closed_at is null and (problem is not null or violation.found is not null)
    group by organizations.id
  loop
    if problem is not null then
      perform private.open_alert(violated.org_id, 'invariant_unchecked', invariant.name, 'warning',
        format('The invariant %s cannot be checked: %s.', invariant.name, problem));
      continue;
    end if;
    update public.agents set status = 'paused'
    where agents.org_id = violated.org_id and agents.name = invariant.pauses and agents.status in ('idle', 'running')
      and not exists (
        select from public.alerts
        where alerts.org_id = violated.org_id and alerts.kind = 'invariant' and alerts.subject = invariant.name
          and alerts.closed_at is null)
    returning agents.name into paused;
    -- An alert that is seen again still says which agent was paused when it opened.
    paused := coalesce(paused, (
      select alerts.details ->> 'paused' from public.alerts
      where alerts.org_id = violated.org_id and alerts.kind = 'invariant' and alerts.subject = invariant.name
        and alerts.closed_at is null));
    perform private.open_alert(violated.org_id, 'invariant', invariant.name, invariant.severity,
      concat_ws(' ',
        format('%s Not so: %s.', invariant.description, rtrim(violated.examples[1], '.')),
        'The agent ' || paused || ' was paused; to let it run again, set its status to idle in agents.'),
      jsonb_strip_nulls(jsonb_build_object(
        'violations', violated.count, 'examples', violated.examples, 'pauses', invariant.pauses, 'paused', paused)));
  end loop;
  return jsonb_array_length(violations);
end;
$$;
comment on function private.run_invariant is 'Ask one invariant; open or close its alerts and pause the agent it names. Answers the number of violations.';

create function private.violations_of(invariant public.invariants)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  found jsonb;
begin
  begin
    perform set_config('transaction_read_only', 'on', true), set_config('role', 'hub_reader', true);
    -- A few rows are looked up in large tables by their indexes, which the planner finds dearer than they are.
    perform set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true);
    execute format(
      'select coalesce(jsonb_agg(jsonb_build_object(''org_id'', violation.org_id, ''found'', coalesce(left(violation.found, 500), ''it does not say what''))), ''[]'')'
      ' from (select org_id::uuid, found::text from (%s) as query limit 1000) as violation', invariant.sql)
    into found;
    -- The exception undoes all that the query did, and gives the role back.
    raise exception using errcode = 'HBOK1';
  exception when sqlstate 'HBOK1' then
    return found;
  end;
end;
$$;
comment on function private.violations_of is 'The answers of an invariant''s query, as a role that can only read, in a read-only transaction.';

-- watch/run_monitor.sql
-- The data monitor: every 15 minutes it looks at each organization and reports each thing that is wrong.
--
-- Cron writes one monitor.due event per organization and quarter of an hour; the agent data-monitor handles it like
-- any other, so each look is a delivery and an action, also when nothing is wrong. A finding opens an alert of the
-- check's name or sees it again, and an alert that is no longer found is closed. A check that fails is a finding itself
-- and keeps no other from being made.

-- security definer: hub_service may touch no table itself.
create function hub.run_monitor(event_id uuid, config jsonb)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  due public.events;
begin
  select * into strict due from public.events where events.id = run_monitor.event_id;
  -- After a pause many looks may wait: only the latest counts.
  if exists (
    select from public.events
    where events.org_id = due.org_id and events.type = due.type and events.id > due.id)
  then
    return null;
  end if;
  return private.run_checks(due.org_id, run_monitor.config, due.id);
end;
$$;
comment on function hub.run_monitor is 'Look at an organization; answers the findings, or null when a later look is due already.';
grant execute on function hub.run_monitor to hub_service;

create function private.run_checks(org_id uuid, config jsonb, event_id uuid, at timestamptz default now())
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  kinds constant text[] :=
    '{site_silent,deliveries_stuck,function_failing,pull_stale,pull_failed,pull_gaps,job_late,signatures_refused,duplicates_spike,kind_unknown,model_fallback}';
  checked text;
  findings private.finding[];
  finding private.finding;
  is_new boolean;
  opened text[] := '{}';
  open text[] := '{}';
  failed text[] := '{}';
  closed text[] := '{}';
begin
  perform private.close_mended_deliveries(org_id);
  foreach checked in array kinds loop
    begin
      execute format('select array_agg(found) from private.%I($1, $2, $3) as found', 'check_' || checked)
      into findings using org_id, config, at;
      perform private.close_alert(org_id, 'check_failed', checked);
    exception when others then
      failed := failed || checked;
      perform private.open_alert(org_id, 'check_failed', checked, 'warning', format('The check %s failed: %s.', checked, sqlstate), event_id => run_checks.event_id);
      continue;
    end;
    foreach finding in array coalesce(findings, '{}') loop
      is_new := private.open_alert(
        org_id, checked, finding.subject, finding.severity, finding.message, finding.details,
        event_id => run_checks.event_id, site_id => finding.site_id);
      open := open || finding.message;
      if is_new then
        opened := opened || (checked || ' ' || finding.subject);
      end if;
    end loop;
    with mended as (
      update public.alerts set closed_at = now()
      where alerts.org_id = run_checks.org_id and alerts.kind = checked and alerts.closed_at is null
        and not alerts.subject = any (array(select found.subject from unnest(findings) as found))
      returning alerts.kind || ' ' || alerts.subject as name
    )
    select closed || coalesce(array_agg(mended.name), '{}') into closed from mended;
  end loop;
  return jsonb_build_object('checks', cardinality(kinds), 'failed', failed, 'open', open[1:50], 'opened', opened[1:50], 'closed', closed[1:50]);
end;
$$;
comment on function private.run_checks is 'Make every check for an organization; open, see again and close alerts.';

create function private.close_mended_deliveries(org_id uuid)
returns void
language sql set search_path = ''
as $$
  update public.alerts set closed_at = now()
  where alerts.org_id = close_mended_deliveries.org_id and alerts.kind = 'delivery_dead' and alerts.closed_at is null
    and not exists (
      select from public.deliveries where deliveries.id = alerts.subject::uuid and deliveries.status = 'dead');
$$;
comment on function private.close_mended_deliveries is 'Close the alerts of deliveries that are no longer dead.';

create function private.tick_monitors(at timestamptz default now())
returns integer
language plpgsql set search_path = ''
as $$
declare
  quarter timestamptz := date_bin('15 minutes', at, timestamptz '2000-01-01');
  made integer;
begin
  with due as (
    insert into public.receipts (source, key, org_id, body_sha256, event_id, expires_at)
    select 'schedule', format('monitor.due:%s:%s', watched.org_id, extract(epoch from quarter)::bigint), watched.org_id, sha256('monitor.due'),
           private.uuid_v7(), now() + interval '1 day'
    from (select distinct willing.org_id from private.willing_subscriptions as willing where willing.target = 'data-monitor') as watched
    on conflict on constraint receipts_pkey do nothing
    returning receipts.org_id, receipts.event_id
  )
  insert into public.events (id, org_id, type, source, data)
  select due.event_id, due.org_id, 'monitor.due', 'cron', jsonb_build_object('quarter', quarter) from due;
  get diagnostics made = row_count;
  return made;
end;
$$;
comment on function private.tick_monitors is 'Say to each organization''s monitor that it is time, once per quarter of an hour; cron calls it.';

create function private.watch()
returns void
language plpgsql set search_path = ''
as $$
begin
  update public.alerts set closed_at = now()
  from public.sites
  where alerts.kind = 'site_silent' and alerts.closed_at is null
    and sites.org_id = alerts.org_id and sites.id = alerts.site_id
    and private.last_arrival(sites, now()) > alerts.opened_at;
  -- One decision ends the alert, however many the monitor waited for.
  update public.alerts set closed_at = now()
  where alerts.kind = 'model_fallback' and alerts.closed_at is null
    and not exists (select from private.fallbacks(alerts.org_id, 1));
  perform private.notify_held_back();
end;
$$;
comment on function private.watch is 'Between two looks of the monitor: end the silences that have ended, tell of alerts that were held back; cron calls it.';

-- watch/site_components.sql
-- Status of sites, and of the lists that are pulled from them.

create function private.site_components(org_id uuid)
returns setof private.component
language sql stable set search_path = ''
as $$
  select
    'site', sites.slug,
    case
      when not sites.enabled or secrets.known is null then 'not configured'
      when wrong.messages is not null then 'degraded'
      when latest.at is null then 'not configured'
      when unknown.message is not null then 'degraded'
      else 'ok'
    end,
    case
      when not sites.enabled then 'It is switched off.'
      when secrets.known is null then 'It has no secret to prove itself with.'
      when wrong.messages is not null then wrong.messages
      when latest.at is null then 'Nothing has come from it yet.'
      else 'Its last submission came at ' || to_char(latest.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC.'
    end
    || coalesce(' ' || unknown.message, '')
    || case when secrets.is_weak then ' It may prove itself with a static secret, which is weak: make a signing one with private.new_site_secret.' else '' end
  from public.sites
  left join lateral (select private.last_arrival(sites, now()) as at) as latest on true
  left join lateral (
    select true as known, bool_or(site_secret_kinds.is_weak) as is_weak
    from private.site_secret_kinds
    where site_secret_kinds.site_id = sites.id
      -- A key for pages helps none of them without an origin.
      and (site_secret_kinds.kind <> 'page' or sites.allowed_origins <> '{}')
    having count(*) > 0
  ) as secrets on true
  left join lateral (
    select left(string_agg(alerts.message, ' ' order by alerts.severity desc, alerts.id), 1000) as messages
    from public.alerts
    where alerts.org_id = sites.org_id and alerts.site_id = sites.id and alerts.closed_at is null
      and alerts.kind <> 'kind_unknown'
  ) as wrong on true
  left join private.check_kind_unknown(site_components.org_id, '{}', now()) as unknown on unknown.subject = sites.slug
  where sites.org_id = site_components.org_id;
$$;
comment on function private.site_components is 'The sites of an organization and how they are.';

create function private.pull_components(org_id uuid)
returns setof private.component
language sql stable set search_path = ''
as $$
  select
    'pull', sources.name,
    case
      when not sources.enabled or not sites.enabled or sources.last_started_at is null then 'not configured'
      when sources.last_error is not null or stale.message is not null or failed.message is not null or gaps.message is not null then 'degraded'
      else 'ok'
    end,
    case
      when not sources.enabled then 'It is switched off.'
      when not sites.enabled then 'Its site is switched off.'
      when sources.last_started_at is null then 'It was never pulled.'
      when sources.last_error is not null then format('The last %s pulls failed: it %s.', sources.failures, sources.last_error)
      when stale.message is not null then stale.message
      when failed.message is not null or gaps.message is not null then concat_ws(' ', failed.message, gaps.message)
      when sources.watermark is null then 'It is being read for the first time.'
      else format('Everything until %s UTC is here.', to_char(sources.watermark at time zone 'UTC', 'YYYY-MM-DD HH24:MI'))
    end
    || case when sources.pushes and sources.gaps > 0 then format(' %s of its items came by no push so far.', sources.gaps) else '' end
  from public.pull_sources as sources
  join public.sites on sites.id = sources.site_id
  left join private.check_pull_stale(pull_components.org_id, '{}', now()) as stale on stale.subject = sources.name
  left join private.check_pull_failed(pull_components.org_id, '{}', now()) as failed on failed.subject = sources.name
  left join private.check_pull_gaps(pull_components.org_id, '{}', now()) as gaps on gaps.subject = sources.name
  where sources.org_id = pull_components.org_id;
$$;
comment on function private.pull_components is 'The lists that are pulled and how they are.';

-- watch/site_hours.sql
-- Site hours: the number of each site's arrivals in each hour, for nine weeks.

create table private.site_hours (
  site_id  uuid not null references public.sites (id) on delete cascade,
  hour     timestamptz not null,
  arrivals integer not null,

  primary key (site_id, hour)
);
comment on table private.site_hours is 'The number of each site''s arrivals in each hour since its first, hours with none too; for nine weeks.';

create function private.roll_up_site_hours(until timestamptz default now())
returns integer
language plpgsql set search_path = ''
as $$
declare
  site public.sites;
  counted integer;
  rows integer := 0;
begin
  for site in select sites.* from public.sites loop
    insert into private.site_hours (site_id, hour, arrivals)
    select site.id, hours.hour, (
      select count(*)
      from private.arrivals
      where arrivals.org_id = site.org_id and arrivals.site_id = site.id
        and arrivals.prefix = any ((select private.living_sources(site))::text[])
        and arrivals.id >= private.uuid_v7_floor(hours.hour) and arrivals.id < private.uuid_v7_floor(hours.hour + interval '1 hour'))
    from (
      select coalesce(
        (select max(site_hours.hour) + interval '1 hour' from private.site_hours where site_hours.site_id = site.id),
        date_trunc('hour', private.first_arrival(site), 'UTC')) as hour
    ) as next
    cross join lateral generate_series(
      greatest(next.hour, date_trunc('hour', until, 'UTC') - interval '8 weeks'),
      date_trunc('hour', until, 'UTC') - interval '1 hour',
      interval '1 hour') as hours (hour)
    where next.hour is not null
    on conflict on constraint site_hours_pkey do nothing;
    get diagnostics counted = row_count;
    rows := rows + counted;
  end loop;
  delete from private.site_hours where site_hours.hour < until - interval '9 weeks';
  return rows;
end;
$$;
comment on function private.roll_up_site_hours is 'Count the hours that have ended since the last time; cron calls it.';

-- watch/site_silence.sql
-- Silence: a site has sent nothing for longer than it should.
--
-- Only time within the site's business hours counts, in its own time zone. The site's quiet_alert_after (2 hours) is
-- the limit, to be raised for a site with little traffic. After four weeks the site's own rate may make it come sooner:
-- arrivals per hour of its week, the mean of up to eight weeks before its last arrival, without the busiest of them, so
-- that a campaign is not taken for the rule. A site is silent when the open hours since its last arrival would have
-- brought ln(1000) = 6.9 arrivals, a gap that comes once in a thousand when nothing is wrong, and at least 15 minutes
-- have passed. So ten forms an hour are missed after 42 minutes, a form a minute after 15. A site that never sent
-- anything is not connected, which is not silence.

create function private.site_silence(site public.sites, at timestamptz default now())
returns table (last_arrival timestamptz, open_for interval, expected numeric, is_silent boolean)
language plpgsql stable set search_path = ''
as $$
begin
  last_arrival := private.last_arrival(site, at);
  if last_arrival is null then
    is_silent := false;
    return next;
    return;
  end if;
  select coalesce(sum(times.closes - times.opens), '0') into open_for
  from private.open_times(site, last_arrival, at) as times;
  if open_for < interval '15 minutes' then
    is_silent := false;
    return next;
    return;
  end if;

  with rates as materialized (
    select rates.week_hour, rates.arrivals from private.site_rates(site, last_arrival) as rates
  )
  select case when exists (select from rates) then coalesce(
    sum(extract(epoch from least(times.closes, hour + interval '1 hour') - greatest(times.opens, hour)) / 3600 * rates.arrivals), 0) end
  into expected
  -- Nothing is known from before the history.
  from private.open_times(site, greatest(last_arrival, at - interval '8 weeks'), at) as times
  cross join lateral generate_series(date_trunc('hour', times.opens, 'UTC'), times.closes, interval '1 hour') as hour
  join rates on rates.week_hour = extract(epoch from hour at time zone site.time_zone)::bigint / 3600 % 168
  where hour < times.closes;

  is_silent := open_for >= site.quiet_alert_after or coalesce(expected >= ln(1000), false);
  return next;
end;
$$;
comment on function private.site_silence is 'For how many open hours a site has sent nothing, how many arrivals were expected, and whether that is too long.';

create function private.site_rates(site public.sites, at timestamptz)
returns table (week_hour bigint, arrivals numeric)
language sql stable set search_path = ''
as $$
  with history as (
    select
      -- The hour of the week, of 168, as the clock on the wall shows it.
      extract(epoch from site_hours.hour at time zone site.time_zone)::bigint / 3600 % 168 as week_hour,
      floor(extract(epoch from at - site_hours.hour) / 604800) as week,
      site_hours.arrivals
    from private.site_hours
    where site_hours.site_id = site.id and site_hours.hour >= at - interval '8 weeks' and site_hours.hour < at
  ),
  weeks as (
    select history.week, rank() over (order by sum(history.arrivals) desc, history.week) as place
    from history
    group by history.week
    -- Not all 168 hours: the latest are counted only when they have ended.
    having count(*) >= 160
  )
  -- The mean over the hours that there were: when clocks change, an hour is there twice or not at all.
  select history.week_hour, avg(history.arrivals)
  from history
  join weeks on weeks.week = history.week and weeks.place > 1
  where (select count(*) from weeks) >= 4
  group by history.week_hour;
$$;
comment on function private.site_rates is 'The mean arrivals of a site in each hour of its week; none before four weeks of history.';

-- catalogue/contact_references.sql
-- Each column that holds a contact, and whether a merge moves it.

insert into private.contact_references (table_name, column_name, on_merge) values
  ('contact_identifiers', 'contact_id', 'moves'),
  ('contact_identifiers', 'home_id', 'stays'),
  ('leads', 'contact_id', 'moves'),
  ('leads', 'home_id', 'stays'),
  ('events', 'contact_id', 'stays'),
  ('contact_facts', 'contact_id', 'stays'),
  ('agent_actions', 'contact_id', 'stays'),
  ('agent_memory', 'subject_id', 'stays'),
  ('merge_candidates', 'contact_id', 'stays'),
  ('merge_candidates', 'other_id', 'stays'),
  ('contact_merges', 'winner_id', 'stays'),
  ('contact_merges', 'loser_id', 'stays'),
  ('contacts', 'merged_into', 'stays'),
  ('suppressions', 'contact_id', 'stays');

-- catalogue/event_types.sql
-- The event types: their names, aliases, senders, schemas and samples.

-- Events of sites have one shape: the reading, in our words, with the form as it came.
insert into public.event_types (name, description, aliases, from_sites, makes_lead, schema, sample) values
  ('form.submitted', 'Somebody sent a form of a site.', '{form_submit,form_submission,form_submitted,form}', true, true,
   '{"type": "object", "required": ["form"],
     "properties": {"name": {"type": "string"}, "email": {"type": "string"}, "phone": {"type": "string"}, "message": {"type": "string"},
                    "service": {"type": "string"}, "budget": {"type": "string"}, "area": {"type": "string"},
                    "timeframe": {"type": "string"}, "language": {"type": "string"}, "page_url": {"type": "string"},
                    "form": {"type": "object"}}}',
   '{"name": "Jo Smith", "email": "jo@example.com", "message": "Please ring me about a switchboard.",
     "form": {"your_name": "Jo Smith", "your_email": "Jo@Example.com", "comments": "Please ring me about a switchboard."}}'),
  ('booking.placed', 'Somebody booked a service for a time and a place.', '{booking,booking_placed,booking_created,booking.created}', true, true,
   '{"type": "object", "required": ["service", "address", "slot", "recurrence", "form"],
     "properties": {"service": {"type": ["string", "null"]}, "address": {"type": ["string", "null"]},
                    "slot": {"type": ["string", "null"]}, "recurrence": {"type": "string"}, "form": {"type": "object"}}}',
   '{"name": "Jo Smith", "email": "jo@example.com", "service": "Deep clean", "address": "12 Ponsonby Road, Auckland",
     "slot": "2026-12-01T09:30", "recurrence": "fortnightly",
     "form": {"full_name": "Jo Smith", "email_address": "jo@example.com", "service_type": "Deep clean",
              "service_address": "12 Ponsonby Road, Auckland", "booking_date": "2026-12-01", "booking_time": "9:30", "frequency": "every 2 weeks"}}'),
  ('lead.received', 'A lead came from a pipeline, an advertisement or a directory.', '{lead,new_lead,lead_received}', true, true,
   '{"type": "object"}',
   '{"name": "Jo Smith", "phone": "+64215550147", "message": "Wants a quote for rewiring.",
     "form": {"name": "Jo Smith", "phone": "021 555 0147", "source": "directory", "message": "Wants a quote for rewiring."}}'),
  ('call.received', 'Somebody rang.', '{voice_call,voice.call,call,call_received}', true, false,
   '{"type": "object"}',
   '{"phone": "+64215550147", "form": {"phone": "+64215550147", "duration_seconds": 95, "summary": "Asked for a visit on Tuesday."}}'),
  ('email.received', 'Somebody wrote an e-mail.', '{email,email_received,inbound_email}', true, false,
   '{"type": "object"}',
   '{"email": "jo@example.com", "message": "Could you quote for a heat pump?",
     "form": {"email": "jo@example.com", "subject": "Quote", "message": "Could you quote for a heat pump?"}}');

insert into public.event_types (name, description, schema, sample) values
  ('submission.quarantined', 'A submission that looks like spam; kept, not acted upon.',
   '{"type": "object", "required": ["reason", "kind", "form"]}', '{"reason": "honeypot", "kind": "form.submitted", "form": {}}'),
  ('lead.qualified', 'An agent scored a lead.',
   '{"type": "object", "required": ["score", "band"]}',
   '{"score": 82, "band": "A", "next_step": "Ring within the hour."}'),
  ('delivery.dead', 'A delivery is tried no more and waits for a person.',
   '{"type": "object", "required": ["delivery_id", "subscription", "error"]}',
   '{"delivery_id": "…", "subscription": "lead-qualifier", "error": "ValueError: …"}'),
  ('contact.merged', 'A contact was merged into this one.', '{"type": "object", "required": ["merge_id", "loser_id"]}',
   '{"merge_id": "…", "loser_id": "…", "reason": "Same person, two addresses."}'),
  ('contact.unmerged', 'A merge was undone: this contact stands by itself again.', '{"type": "object", "required": ["merge_id", "winner_id"]}',
   '{"merge_id": "…", "winner_id": "…"}'),
  ('contact.opted_out', 'Somebody does not want to hear from us, on a channel or at all.', '{"type": "object", "required": ["reason"]}',
   '{"reason": "STOP", "channel": "sms", "kind": "phone"}'),
  ('alert.opened', 'Something needs a person''s eye.', '{"type": "object", "required": ["alert_id", "kind", "subject", "severity", "message"]}',
   '{"alert_id": "…", "kind": "site_silent", "subject": "prime", "severity": "warning", "message": "prime has sent nothing for 2.1 open hours.", "details": {}}'),
  ('alert.closed', 'The reason of an alert is gone.', '{"type": "object", "required": ["alert_id", "kind", "subject"]}',
   '{"alert_id": "…", "kind": "site_silent", "subject": "prime", "severity": "warning", "message": "prime has sent nothing for 2.1 open hours.", "details": {}}'),
  ('monitor.due', 'A quarter of an hour has begun: the data monitor looks.', '{"type": "object", "required": ["quarter"]}',
   '{"quarter": "2026-11-21T10:15:00Z"}');

-- catalogue/invariants.sql
-- The invariants that the hub begins with.

insert into public.invariants (name, description, severity, pauses, sql) values

('events_have_deliveries',
 'Every event of the last hour, of the newest 5,000, has a delivery for each subscription that wanted it.', 'critical', null, $sql$
  select latest.org_id, format('event %s has no delivery to %s', latest.id, subscriptions.name) as found
  from (
    select events.id, events.org_id, events.type, events.cause_id, events.recorded_at
    from public.events
    where events.id >= private.uuid_v7_floor(now() - interval '1 hour')
    order by events.id desc
    limit 5000
  ) as latest
  join public.subscriptions on subscriptions.org_id = latest.org_id
    -- An event does not see what a transaction changed that was open then.
    and subscriptions.updated_at < latest.recorded_at - interval '1 minute' and private.wants(subscriptions.event_types, latest.type)
  where not exists (
      select from public.deliveries
      where deliveries.event_id = latest.id and deliveries.subscription_id = subscriptions.id and deliveries.mode = 'live')
    and not private.is_echo(latest.id, latest.cause_id, subscriptions.id)
$sql$),

('leases_end',
 'No delivery runs more than two minutes past its lease.', 'critical', null, $sql$
  select deliveries.org_id, format('delivery %s is held since %s', deliveries.id, deliveries.claimed_at) as found
  from public.deliveries
  where deliveries.status = 'running' and deliveries.leased_until < now() - interval '2 minutes'
$sql$),

('nothing_waits_for_hours',
 'No delivery is due for more than two hours while its subscription is willing.', 'critical', null, $sql$
  select due_work.org_id, format('%s has been waited for since %s', due_work.name, due_work.due_since) as found
  from private.due_work
  where due_work.due_since < now() - interval '2 hours'
$sql$),

('actions_have_causes',
 'Every action, of the newest 5,000, belongs to a delivery of the same event and organization whose effects were applied.', 'critical', null, $sql$
  select latest.org_id, format('action %s has no delivery, event or effect of its own', latest.id) as found
  from (
    select agent_actions.id, agent_actions.org_id, agent_actions.delivery_id, agent_actions.event_id, agent_actions.outcome
    from public.agent_actions
    order by agent_actions.id desc
    limit 5000
  ) as latest
  left join public.deliveries on deliveries.id = latest.delivery_id
  left join public.events on events.id = latest.event_id
  where deliveries.id is null or events.id is null
    or deliveries.event_id <> latest.event_id
    or (deliveries.effects_applied_at is null and latest.outcome <> 'failed')
    or deliveries.org_id <> latest.org_id or events.org_id <> latest.org_id
$sql$),

('scores_have_causes',
 'Every score of a lead, of the newest 5,000 leads, comes from an event of the same organization.', 'critical', null, $sql$
  select latest.org_id, format('lead %s has a score that no event gave', latest.id) as found
  from (
    select leads.id, leads.org_id, leads.score, leads.scored_by
    from public.leads
    order by leads.id desc
    limit 5000
  ) as latest
  left join public.events on events.id = latest.scored_by
  where latest.score is not null and events.org_id is distinct from latest.org_id
$sql$),

('memories_have_causes',
 'Everything an agent remembers, of the newest 5,000 memories, was said by an event of the same organization.', 'critical', null, $sql$
  select latest.org_id, format('memory %s comes from no event', latest.id) as found
  from (
    select agent_memory.id, agent_memory.org_id, agent_memory.source_event_id
    from public.agent_memory
    order by agent_memory.id desc
    limit 5000
  ) as latest
  left join public.events on events.id = latest.source_event_id
  where latest.source_event_id is not null and events.org_id is distinct from latest.org_id
$sql$),

('deliveries_agree_with_events',
 'Every delivery, of the newest 5,000, has its event, in the same organization.', 'critical', null, $sql$
  select latest.org_id, format('delivery %s has no event of its organization', latest.id) as found
  from (
    select deliveries.id, deliveries.org_id, deliveries.event_id
    from public.deliveries
    order by deliveries.id desc
    limit 5000
  ) as latest
  left join public.events on events.id = latest.event_id
  where events.org_id is distinct from latest.org_id
$sql$),

('receipts_point_to_events',
 'Every receipt, of the 5,000 that expire last, points to an event of the same organization.', 'critical', null, $sql$
  select latest.org_id, format('the receipt %s %s points to no event', latest.source, latest.key) as found
  from (
    select receipts.org_id, receipts.source, receipts.key, receipts.event_id
    from public.receipts
    -- Receipts of pulls never expire, and are as many as were ever pulled.
    where receipts.expires_at < 'infinity'
    order by receipts.expires_at desc
    limit 5000
  ) as latest
  left join public.events on events.id = latest.event_id
  where events.org_id is distinct from latest.org_id
$sql$),

('enquiries_have_leads',
 'Each contact that asked at a site, in the newest 5,000 events that nothing caused, has a lead there.', 'critical', null, $sql$
  select latest.org_id, format('the enquiry %s has no lead', latest.id) as found
  from (
    select events.id, events.org_id, events.contact_id, events.site_id, events.subject_type
    from public.events
    where events.cause_id is null
    order by events.id desc
    limit 5000
  ) as latest
  where latest.subject_type = 'lead' and not exists (
    select from public.leads
    where leads.org_id = latest.org_id and leads.site_id = latest.site_id
      and leads.contact_id = private.visible_contact(latest.contact_id))
$sql$),

('what_moves_is_with_its_contact',
 'Each identifier and lead, of the newest 5,000 of both, is with the contact under which its own contact is visible.', 'critical', null, $sql$
  select held.org_id, format('the %s %s is with contact %s', held.what, held.id, held.contact_id) as found
  from (
    (select 'identifier' as what, id, org_id, contact_id, home_id from public.contact_identifiers order by id desc limit 5000)
    union all
    (select 'lead', id, org_id, contact_id, home_id from public.leads order by id desc limit 5000)
  ) as held
  left join public.contacts as home on home.id = held.home_id
  where held.contact_id is distinct from coalesce(home.merged_into, home.id)
$sql$),

('subscribed_agents_are_published',
 'An agent with a subscription that is not paused has exactly one published version.', 'critical', null, $sql$
  select agents.org_id, format('%s has %s published versions', agents.name, count(versions.id)) as found
  from public.agents
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  where exists (
    select from public.subscriptions
    where subscriptions.org_id = agents.org_id and subscriptions.agent_id = agents.id and not subscriptions.paused)
  group by agents.id
  having count(versions.id) <> 1
$sql$),

('audit_log_ends_at_its_head',
 'The audit log of each organization ends with the entry that its head names.', 'critical', null, $sql$
  select heads.org_id, format('the audit log has another end than entry %s', heads.number) as found
  from private.audit_heads as heads
  left join lateral (
    select audit_log.number, audit_log.hash
    from public.audit_log
    where audit_log.org_id = heads.org_id
    order by audit_log.number desc
    limit 1
  ) as latest on true
  where (latest.number, latest.hash) is distinct from (heads.number, heads.hash)
$sql$),

('monitors_run',
 'Each organization''s data monitor has looked within the last 20 minutes, unless it is paused.', 'critical', null, $sql$
  select watched.org_id, format('it last looked at %s', private.last_monitored(watched.org_id)) as found
  from (select distinct willing.org_id from private.willing_subscriptions as willing where willing.target = 'data-monitor') as watched
  where private.last_monitored(watched.org_id) < now() - interval '20 minutes'
$sql$);

-- catalogue/role_permissions.sql
-- The permissions of each role.

insert into public.role_permissions (role, permission)
select roles.role::public.member_role, permission
from (values
  ('{admin,operator,closer,viewer}'::text[], '{organizations.read,memberships.read,sites.read,agents.read}'::text[]),
  ('{admin,operator,viewer}',
   '{contacts.read,leads.read,events.read,deliveries.read,subscriptions.read,actions.read,alerts.read,pulls.read}'),
  ('{closer}', '{leads.read_assigned,leads.update_assigned,suppressions.write_assigned}'),
  ('{admin,operator}',
   '{contacts.update,contacts.merge,leads.update,suppressions.write,agents.pause,actions.review,events.replay,alerts.update,pull_failures.update}'),
  ('{admin}', '{organizations.update,sites.update,subscriptions.write,agents.publish,pulls.update,audit.read}')
) as rights (roles, permissions)
cross join unnest(rights.roles) as roles (role)
cross join unnest(rights.permissions) as permissions (permission);

-- catalogue/schedules.sql
-- The jobs that the clock runs.

select cron.schedule('forget_ended_keys', '50 * * * *', $$select private.forget_ended_keys()$$);
select cron.schedule('make_event_partitions', '10 * * * *', $$select private.make_event_partitions()$$);
select cron.schedule('prune_history', '20 * * * *', $$select private.prune_history()$$);
select cron.schedule('prune_limits', '*/5 * * * *', $$select private.prune_limits()$$);
select cron.schedule('prune_model_runs', '25 * * * *', $$select private.prune_model_runs()$$);
select cron.schedule('prune_rehearsals', '50 3 * * *', $$select private.prune_rehearsals()$$);
select cron.schedule('pull_sites', '* * * * *', $$select private.kick_pulls()$$);
select cron.schedule('roll_up_site_hours', '3 * * * *', $$select private.roll_up_site_hours()$$);
select cron.schedule('rotate_page_keys', '40 3 * * 0', $$select private.rotate_page_keys()$$);
select cron.schedule('sweep_deliveries', '5 seconds', $$select private.sweep_deliveries()$$);
select cron.schedule('tick_monitors', '*/15 * * * *', $$select private.tick_monitors()$$);
select cron.schedule('watch', '20 seconds', $$select private.watch()$$);

-- catalogue/system_controls.sql
-- The switches of the whole hub.

insert into public.system_controls (name) values ('global_pause');
