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
