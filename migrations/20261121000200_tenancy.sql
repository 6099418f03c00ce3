-- Tenancy: organizations own everything, memberships say who belongs, role_permissions who may do what.
--
-- Policies ask private.my_orgs('<table>.<verb>'): the organizations in which the caller's role has that
-- permission. The table is the one place where rights stand; API checks read the same rows.

set lock_timeout = '5s';
set statement_timeout = '60s';

create type public.member_role as enum ('admin', 'operator', 'closer', 'viewer');

create table public.organizations (
  id           uuid primary key default private.uuid_v7(),
  slug         text not null,
  name         text not null,
  time_zone    text not null default 'UTC',
  locale       text not null default 'en',
  phone_region char(2) not null default 'NZ',
  paused       boolean not null default false,
  closed_at    timestamptz,
  settings     jsonb not null default '{}',
  created_at   timestamptz not null default now(),
  updated_at   timestamptz not null default now(),

  constraint organizations_slug_unique unique (slug),
  constraint organizations_slug_form check (slug ~ '^[a-z][a-z0-9-]{1,62}$')
);
comment on table public.organizations is 'The tenant: who pays, who may see what.';
comment on column public.organizations.paused is 'Deliveries wait while true.';
comment on column public.organizations.closed_at is 'Closed for good: nobody sees it, nothing is sent for it.';

create table public.memberships (
  org_id      uuid not null references public.organizations (id),
  user_id     uuid not null references auth.users (id) on delete cascade,
  role        public.member_role not null,
  can_approve boolean not null default false,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),

  primary key (org_id, user_id)
);
comment on table public.memberships is 'Who belongs to an organization, in which role.';
create index memberships_user_idx on public.memberships (user_id);

create table public.role_permissions (
  role       public.member_role not null,
  permission text not null,

  primary key (role, permission)
);
comment on table public.role_permissions is 'What each role may do. Policies and API checks both read it.';

insert into public.role_permissions (role, permission)
select roles.role::public.member_role, permission
from (values
  ('{admin,operator,closer,viewer}'::text[], '{organizations.read,memberships.read,sites.read,agents.read}'::text[]),
  ('{admin,operator,viewer}', '{contacts.read,leads.read,events.read,deliveries.read,subscriptions.read,actions.read,alerts.read}'),
  ('{closer}', '{leads.read_assigned,leads.update_assigned}'),
  ('{admin,operator}', '{contacts.update,leads.update,agents.pause,events.replay}'),
  ('{admin}', '{organizations.update,sites.update,subscriptions.write,audit.read}')
) as rights (roles, permissions)
cross join unnest(rights.roles) as roles (role)
cross join unnest(rights.permissions) as permissions (permission);

create trigger organizations_touch before update on public.organizations
  for each row execute function private.touch_updated_at();
create trigger memberships_touch before update on public.memberships
  for each row execute function private.touch_updated_at();

-- security definer: a policy on memberships would otherwise ask itself.
create function private.my_orgs(permission text)
returns setof uuid
language plpgsql
stable
security definer
set search_path = ''
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

alter table public.organizations enable row level security;
alter table public.organizations force row level security;
grant select on public.organizations to authenticated, service_role;
grant update (name, time_zone, locale, phone_region, paused, settings) on public.organizations to authenticated;
create policy "members read their organizations" on public.organizations for select to authenticated
  using (id in (select private.my_orgs('organizations.read')));
create policy "admins change their organizations" on public.organizations for update to authenticated
  using (id in (select private.my_orgs('organizations.update')))
  with check (id in (select private.my_orgs('organizations.update')));

alter table public.memberships enable row level security;
alter table public.memberships force row level security;
grant select on public.memberships to authenticated, service_role;
create policy "members see who belongs to their organizations" on public.memberships for select to authenticated
  using (org_id in (select private.my_orgs('memberships.read')));

alter table public.role_permissions enable row level security;
alter table public.role_permissions force row level security;
grant select on public.role_permissions to authenticated, service_role;
create policy "everybody signed in may read what roles may do" on public.role_permissions for select to authenticated
  using ((select auth.uid()) is not null);

create function private.add_member(org_slug text, user_id uuid, role text)
returns void
language sql
set search_path = ''
as $$
  insert into public.memberships (org_id, user_id, role)
  select organizations.id, add_member.user_id, add_member.role::public.member_role
  from public.organizations
  where organizations.slug = org_slug
  on conflict on constraint memberships_pkey do update set role = excluded.role;
$$;
comment on function private.add_member is 'Make somebody a member, or change the role.';
