-- Golden records: one row per person, one per customer, one per person of a site who asked at another.
--
-- Views, so that they cannot differ from what they are made of; security_invoker, so that they show to each caller
-- what the tables would.

-- Won leads are few.
-- squawk-ignore-file require-concurrent-index-creation
set lock_timeout = '5s';
set statement_timeout = '60s';

create view public.golden_contacts with (security_invoker = true) as
select
  contacts.id, contacts.org_id, coalesce(contacts.name, facts.latest ->> 'name') as name,
  coalesce(contacts.language, facts.latest ->> 'language') as language, contacts.time_zone,
  facts.latest - 'name' as attributes, facts.merged_ids, contacts.created_at, contacts.updated_at
from public.contacts
cross join lateral (
  select
    coalesce(jsonb_object_agg(known.key, known.value order by known.said_at, known.event_id) filter (where known.key is not null), '{}') as latest,
    coalesce(array_agg(distinct family.id) filter (where family.id <> contacts.id), '{}') as merged_ids
  from (
    select contacts.id
    union all
    select merged.id from public.contacts as merged where merged.org_id = contacts.org_id and merged.merged_into = contacts.id
  ) as family
  left join public.contact_facts as known on known.org_id = contacts.org_id and known.contact_id = family.id
) as facts
where contacts.merged_into is null;
comment on view public.golden_contacts is
  'The contacts that are seen: one row per person, without those merged into another, with the latest that was said of any of them.';
grant select on public.golden_contacts to authenticated, service_role;
-- Else a write is a 500: Postgres says what a view cannot do before it asks who may.
create trigger golden_contacts_read_only instead of insert or update or delete on public.golden_contacts
  for each row execute function private.refuse_change();

create index leads_won_idx on public.leads (org_id, contact_id) where stage = 'won';

create view public.customers with (security_invoker = true) as
select contacts.id, contacts.org_id, contacts.name, won.leads as won_leads, won.sites, contacts.created_at
from (
  select leads.org_id, leads.contact_id, count(*) as leads, array_agg(distinct sites.slug) as sites
  from public.leads
  join public.sites on sites.org_id = leads.org_id and sites.id = leads.site_id
  where leads.stage = 'won'
  group by leads.org_id, leads.contact_id
) as won
join public.contacts on contacts.org_id = won.org_id and contacts.id = won.contact_id;
comment on view public.customers is 'Contacts with a won lead.';
grant select on public.customers to authenticated, service_role;
create trigger customers_read_only instead of insert or update or delete on public.customers
  for each row execute function private.refuse_change();

-- From the leads: a form opens one at each site, and leads follow merges and their undoing.
create view public.cross_sell_events with (security_invoker = true) as
select
  leads.id, leads.org_id, leads.contact_id, contacts.name as contact_name,
  known.site_id as known_site_id, known_site.slug as known_site, leads.site_id, sites.slug as site,
  known.created_at as known_at, leads.created_at as asked_at
from public.leads
join public.contacts on contacts.org_id = leads.org_id and contacts.id = leads.contact_id
join public.sites on sites.org_id = leads.org_id and sites.id = leads.site_id
cross join lateral (
  select earlier.site_id, earlier.created_at
  from public.leads as earlier
  where earlier.org_id = leads.org_id and earlier.contact_id = leads.contact_id
    and earlier.site_id <> leads.site_id and earlier.id < leads.id
  order by earlier.id
  limit 1
) as known
join public.sites as known_site on known_site.org_id = leads.org_id and known_site.id = known.site_id
where not exists (
  select from public.leads as before
  where before.org_id = leads.org_id and before.contact_id = leads.contact_id
    and before.site_id = leads.site_id and before.id < leads.id);
comment on view public.cross_sell_events is
  'A person known at one site who asked at another for the first time: one row per person and further site, naming both; id is the lead''s.';
grant select on public.cross_sell_events to authenticated, service_role;
create trigger cross_sell_events_read_only instead of insert or update or delete on public.cross_sell_events
  for each row execute function private.refuse_change();
