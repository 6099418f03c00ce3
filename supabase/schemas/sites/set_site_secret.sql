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
