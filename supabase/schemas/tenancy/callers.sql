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
