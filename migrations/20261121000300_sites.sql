-- Sites: places of business inside an organization, and the secrets by which they are known.
--
-- Of a secret only its SHA-256 is kept. Two may be valid at once, so that a site can change over
-- without losing a form. Functions read a site through hub.site; nobody else reads secrets.

set lock_timeout = '5s';
set statement_timeout = '60s';

create table public.sites (
  id                uuid primary key default private.uuid_v7(),
  org_id            uuid not null references public.organizations (id),
  number            integer not null,
  slug              text not null,
  name              text not null,
  url               text not null,
  purpose           text not null default '',
  data_types        text[] not null default '{}',
  connection_method text not null default 'webhook',
  trigger           text not null default 'on form submit',
  time_zone         text not null default 'UTC',
  business_hours    jsonb not null default '{}',
  phone_region      char(2) not null default 'NZ',
  allowed_origins   text[] not null default '{}',
  quiet_alert_after interval not null default '2 hours',
  enabled           boolean not null default true,
  created_at        timestamptz not null default now(),
  updated_at        timestamptz not null default now(),

  constraint sites_slug_unique unique (slug),
  constraint sites_slug_form check (slug ~ '^[a-z][a-z0-9-]{1,62}$'),
  constraint sites_number_unique unique (org_id, number),
  constraint sites_of_org unique (org_id, id)
);
comment on table public.sites is 'The site registry: a brand, a web source, its hours. A row is what makes the hub accept a site.';
comment on column public.sites.allowed_origins is 'Web origins whose browsers may post forms.';

create table private.site_secrets (
  id         uuid primary key default private.uuid_v7(),
  site_id    uuid not null references public.sites (id) on delete cascade,
  sha256     bytea not null,
  valid_from timestamptz not null default now(),
  valid_to   timestamptz,
  created_at timestamptz not null default now(),

  constraint site_secrets_digest check (length(sha256) = 32),
  constraint site_secrets_unique unique (sha256)
);
comment on table private.site_secrets is 'SHA-256 of the secrets a site may sign in with; two valid at once while one replaces the other.';
create index site_secrets_site_idx on private.site_secrets (site_id);

create trigger sites_touch before update on public.sites
  for each row execute function private.touch_updated_at();

alter table public.sites enable row level security;
alter table public.sites force row level security;
grant select on public.sites to authenticated, service_role;
grant update (name, url, purpose, data_types, connection_method, trigger, time_zone, business_hours, phone_region,
              allowed_origins, quiet_alert_after, enabled) on public.sites to authenticated;
create policy "members read their sites" on public.sites for select to authenticated
  using (org_id in (select private.my_orgs('sites.read')));
create policy "admins change their sites" on public.sites for update to authenticated
  using (org_id in (select private.my_orgs('sites.update')))
  with check (org_id in (select private.my_orgs('sites.update')));

create function private.set_site_secret(site_slug text, secret text, old_valid_for interval default '0')
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  digest bytea := sha256(convert_to(secret, 'UTF8'));
  target uuid;
  stored uuid;
begin
  if length(secret) < 16 then
    perform private.fail(422, 'weak_secret', 'A site secret has at least 16 characters.');
  end if;
  select sites.id into target from public.sites where sites.slug = site_slug;
  if target is null then
    perform private.fail(404, 'unknown_site', 'There is no site ' || site_slug || '.');
  end if;

  update private.site_secrets set valid_to = now() + old_valid_for
  where site_secrets.site_id = target
    and site_secrets.sha256 <> digest
    and coalesce(site_secrets.valid_to, 'infinity') > now() + old_valid_for;

  insert into private.site_secrets (site_id, sha256) values (target, digest)
  on conflict on constraint site_secrets_unique do update set valid_to = null
    where site_secrets.site_id = target
  returning site_secrets.id into stored;
  if stored is null then
    perform private.fail(409, 'secret_in_use', 'Another site has this secret.');
  end if;
  return stored;
end;
$$;
comment on function private.set_site_secret is 'Give a site a secret; its older ones stay valid for a while.';

-- security definer: hub_service may read no table itself.
create function hub.site(slug text)
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
        'sha256', encode(site_secrets.sha256, 'hex'),
        'valid_from', site_secrets.valid_from,
        'valid_to', site_secrets.valid_to))
      from private.site_secrets
      where site_secrets.site_id = sites.id
        and coalesce(site_secrets.valid_to, 'infinity') > now()
    ), '[]'))
  from public.sites
  join public.organizations on organizations.id = sites.org_id and organizations.closed_at is null
  where sites.slug = site.slug
    and sites.enabled;
$$;
comment on function hub.site is 'What an ingest function must know of its site; null when there is none.';
grant execute on function hub.site to hub_service;
