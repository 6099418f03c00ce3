-- Customers: contacts with a won lead.

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
