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
