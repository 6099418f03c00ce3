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
