-- Ways in: how a sender shows which site it is, chosen by the kind of the secrets that the site has.
--
-- static is the secret itself in a header: accepted, and weak, for whoever sees one request has it. standard (Standard
-- Webhooks) and hmac sign timestamp and body. page signs the short-lived tokens that browsers post with. A site may
-- have secrets of several kinds at once, so that it can change from one to another without losing a form. Keys that
-- sign are kept in the vault, for a digest cannot check a signature.

set lock_timeout = '5s';
set statement_timeout = '60s';

create type public.secret_kind as enum ('static', 'standard', 'hmac', 'page');

alter table private.site_secrets
  add column kind public.secret_kind not null default 'static',
  add column vault_id uuid;
-- What there is already is static; from now on whoever stores one says what it is.
-- squawk-ignore ban-drop-default
alter table private.site_secrets alter column kind drop default;
comment on table private.site_secrets is 'What a site may sign in with; two valid at once while one replaces the other.';
comment on column private.site_secrets.sha256 is 'Of the secret as it is written. All that is kept of a static one.';
comment on column private.site_secrets.vault_id is 'The key in the vault, while it may sign.';

create function private.set_site_secret(
  site_slug text, secret text, old_valid_for interval, kind public.secret_kind)
returns uuid
language plpgsql
set search_path = ''
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

  -- Page keys and the secrets of senders replace their own sort only.
  update private.site_secrets set valid_to = now() + old_valid_for
  where site_secrets.site_id = target
    and site_secrets.sha256 <> digest
    and (site_secrets.kind = 'page') = (set_site_secret.kind = 'page')
    and coalesce(site_secrets.valid_to, 'infinity') > now() + old_valid_for;

  select * into known from private.site_secrets where site_secrets.sha256 = digest for update;
  if known.site_id <> target or known.kind <> set_site_secret.kind then
    perform private.fail(409, 'secret_in_use', 'This secret is in use elsewhere, or in another way.');
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

create or replace function private.set_site_secret(site_slug text, secret text, old_valid_for interval default '0')
returns uuid
language sql
set search_path = ''
as $$
  select private.set_site_secret(
    site_slug, secret, old_valid_for, case when secret like 'whsec\_%' then 'standard' else 'static' end::public.secret_kind);
$$;
comment on function private.set_site_secret(text, text, interval) is
  'Give a site a secret, of the kind that it looks like: whsec_… signs, any other text is static.';

create function private.new_site_secret(
  site_slug text, kind public.secret_kind default 'standard', old_valid_for interval default '0')
returns text
language plpgsql
set search_path = ''
as $$
declare
  -- Each brings 122 random bits.
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

-- security definer: whoever adds a site need not be able to write secrets.
create function private.make_page_key()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform private.new_site_secret(new.slug, 'page');
  return null;
end;
$$;
comment on function private.make_page_key is 'Trigger: a site has a key for the tokens of its pages.';
create trigger sites_page_key after insert on public.sites
  for each row execute function private.make_page_key();
select private.new_site_secret(sites.slug, 'page') from public.sites;

create function private.rotate_page_keys()
returns void
language plpgsql
set search_path = ''
as $$
begin
  perform private.new_site_secret(sites.slug, 'page', '1 hour') from public.sites;
end;
$$;
comment on function private.rotate_page_keys is 'New keys for page tokens; tokens that were handed out stay valid until they expire.';

create function private.forget_ended_keys()
returns void
language plpgsql
set search_path = ''
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
comment on function private.forget_ended_keys is 'A key that signs nothing any more is not kept; that there was one, is.';

select cron.schedule('rotate_page_keys', '40 3 * * 0', $$select private.rotate_page_keys()$$);
select cron.schedule('forget_ended_keys', '50 * * * *', $$select private.forget_ended_keys()$$);

create function private.plain_key(vault_id uuid)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return (select decrypted_secrets.decrypted_secret from vault.decrypted_secrets where decrypted_secrets.id = vault_id);
exception when others then
  -- As after a restore under another vault key: the site's other secrets work on.
  raise warning 'the vault cannot read key %: %', vault_id, sqlstate;
  return null;
end;
$$;
comment on function private.plain_key is 'A key from the vault; null when it is not there or cannot be read.';

create or replace function hub.site(slug text)
returns jsonb
language sql
stable
security definer
set search_path = ''
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
comment on function hub.site is 'What an ingest function must know of its site, keys that sign included; null when there is none.';

-- What people and the status of the hub see of it: which ways in a site has, and which of them is weak.

create view private.site_sign_ins as
  select sites.org_id, site_secrets.id, sites.id as site_id, sites.slug, site_secrets.kind, site_secrets.kind = 'static' as is_weak,
         site_secrets.valid_from, site_secrets.valid_to
  from private.site_secrets
  join public.sites on sites.id = site_secrets.site_id
  where coalesce(site_secrets.valid_to, 'infinity') > now();
comment on view private.site_sign_ins is 'The ways in that sites have now; is_weak: whoever sees one request can send others.';

-- security definer: nobody reads secrets, members only that there are some.
create function private.my_site_sign_ins()
returns setof private.site_sign_ins
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  return query
  select * from private.site_sign_ins
  where (select auth.role()) = 'service_role' or site_sign_ins.org_id in (select private.my_orgs('sites.read'));
end;
$$;
comment on function private.my_site_sign_ins is 'The ways in of the sites in the caller''s organizations.';
grant execute on function private.my_site_sign_ins to authenticated, service_role;

create function public.site_sign_ins()
returns setof private.site_sign_ins
language sql
stable
set search_path = ''
as $$
  select * from private.my_site_sign_ins();
$$;
comment on function public.site_sign_ins is 'The ways in that the caller''s sites have now, without the secrets; is_weak: whoever sees one request can send others.';
grant execute on function public.site_sign_ins to authenticated, service_role;
