-- Sites: places of business inside an organization. The hub accepts a site that has a row.

create table public.sites (
  id                         uuid primary key default private.uuid_v7(),
  org_id                     uuid not null references public.organizations (id),
  number                     integer not null,
  slug                       text not null,
  name                       text not null,
  url                        text not null,
  purpose                    text not null default '',
  data_types                 text[] not null default '{}',
  connection_method          text not null default 'webhook',
  trigger                    text not null default 'on form submit',
  time_zone                  text not null default 'UTC',
  business_hours             jsonb not null default '{}',
  phone_region               char(2) not null default 'NZ',
  allowed_origins            text[] not null default '{}',
  quiet_alert_after          interval not null default '2 hours',
  max_per_second             integer not null default 500,
  max_per_second_from_pages  integer not null default 50,
  max_per_minute_per_address integer not null default 20,
  enabled                    boolean not null default true,
  created_at                 timestamptz not null default now(),
  updated_at                 timestamptz not null default now(),

  constraint sites_slug_unique unique (slug),
  constraint sites_slug_form check (slug ~ '^[a-z][a-z0-9-]{1,62}$'),
  constraint sites_number_unique unique (org_id, number),
  constraint sites_of_org unique (org_id, id),
  constraint sites_time_zone_known check (private.is_time_zone(time_zone)),
  constraint sites_business_hours_form check (private.are_business_hours(business_hours)),
  constraint sites_quiet_alert_after_range check (quiet_alert_after between interval '15 minutes' and interval '60 days'),
  constraint sites_max_per_second_range check (max_per_second between 1 and 1000000),
  constraint sites_max_per_second_from_pages_range check (max_per_second_from_pages between 1 and 1000000),
  constraint sites_max_per_minute_per_address_range check (max_per_minute_per_address between 1 and 1000000)
);
comment on table public.sites is 'The site registry: a brand, a web source, its hours. The hub accepts a site that has a row.';
comment on column public.sites.allowed_origins is 'Web origins whose browsers may post forms.';
comment on column public.sites.max_per_second is 'Submissions of servers, in the long run; fifteen to twenty seconds'' worth may come at once.';
comment on column public.sites.max_per_second_from_pages is 'Submissions of browsers, counted apart: they cannot use up the turns of servers.';
comment on column public.sites.max_per_minute_per_address is 'Submissions of browsers from one address; a minute''s worth may come at once.';
comment on column public.sites.business_hours is 'When each day opens and closes, in the site''s time zone; a day left out is closed, none at all: always open.';
comment on column public.sites.quiet_alert_after is 'Open hours without a sign of life after which a site is silent at the latest; its own rate may say so sooner. To be raised for a site with little traffic.';

create function private.check_site_hours()
returns trigger
language plpgsql set search_path = ''
as $$
begin
  if not private.is_time_zone(new.time_zone) then
    perform private.fail(422, 'bad_time_zone', 'sites.time_zone is a name such as Pacific/Auckland.');
  elsif not private.are_business_hours(new.business_hours) then
    perform private.fail(422, 'bad_business_hours',
      'sites.business_hours says when days open and close, as {"mon": ["07:30", "17:30"]}; the days are mon, tue, wed, thu, fri, sat and sun.');
  elsif new.quiet_alert_after not between interval '15 minutes' and interval '60 days' then
    perform private.fail(422, 'bad_quiet_alert_after', 'sites.quiet_alert_after is from 15 minutes to 60 days.');
  end if;
  return new;
end;
$$;
comment on function private.check_site_hours is 'Trigger: hours and time zones that the constraints refuse by name are refused in words.';

create trigger sites_touch before update on public.sites
  for each row execute function private.touch_updated_at();
create trigger sites_audit after insert or update or delete on public.sites
  for each row execute function private.audit_change('all');
create trigger sites_hours before insert or update of time_zone, business_hours, quiet_alert_after on public.sites
  for each row execute function private.check_site_hours();

alter table public.sites enable row level security, force row level security;
grant select on public.sites to authenticated, service_role;
grant update (
  name, url, purpose, data_types, connection_method, trigger, time_zone, business_hours, phone_region,
  allowed_origins, quiet_alert_after, enabled, max_per_second, max_per_second_from_pages,
  max_per_minute_per_address
) on public.sites to authenticated;
create policy "members read their sites" on public.sites for select to authenticated
  using (org_id in (select private.my_orgs('sites.read')));
create policy "admins change their sites" on public.sites for update to authenticated
  using (org_id in (select private.my_orgs('sites.update')))
  with check (org_id in (select private.my_orgs('sites.update')));
