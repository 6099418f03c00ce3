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
