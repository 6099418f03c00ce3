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
