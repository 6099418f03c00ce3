-- Cross-selling: contacts of one site who asked at another.

-- Read from leads: a form opens one at each site, and leads follow merges and their undoing.
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
