-- The first organization: its three sites and its lead qualifier. No secrets here: `private.set_site_secret`
-- gives a site its secret, the hub's first start does so locally.

insert into public.organizations (slug, name, time_zone, locale, phone_region)
values ('trades', 'Trades Group', 'Pacific/Auckland', 'en-NZ', 'NZ');

insert into public.sites (
  org_id, number, slug, name, url, purpose, data_types, connection_method, trigger, time_zone, business_hours, phone_region, allowed_origins)
select
  organizations.id, site.number, site.slug, site.name, site.url, site.purpose, site.data_types, site.connection_method, site.trigger,
  'Pacific/Auckland', '{"mon": ["07:30", "17:30"], "tue": ["07:30", "17:30"], "wed": ["07:30", "17:30"], "thu": ["07:30", "17:30"], "fri": ["07:30", "17:30"]}',
  'NZ', array[site.url]
from public.organizations
cross join (values
  (1, 'prime', 'Prime Electrical', 'https://prime-electrical-nu.vercel.app', 'Electrical services, lead generation',
   '{leads,form submissions,voice calls}'::text[], 'webhook (n8n pipeline)', 'on form submit, on call received'),
  (2, 'akf', 'AKF Construction', 'https://akf-construction.vercel.app', 'Construction and renovation, lead generation',
   '{leads,form submissions}', 'webhook', 'on form submit'),
  (3, 'cleanjet', 'CleanJet', 'https://cleanjet-phi.vercel.app', 'Cleaning services, online booking',
   '{bookings,leads,form submissions}', 'webhook', 'on form submit, on booking placed')
) as site (number, slug, name, url, purpose, data_types, connection_method, trigger)
where organizations.slug = 'trades';

insert into public.agents (org_id, kind, name)
select organizations.id, 'lead_qualifier', 'lead-qualifier'
from public.organizations where organizations.slug = 'trades';

insert into public.agent_versions (org_id, agent_id, version, config)
select agents.org_id, agents.id, 1, '{}'
from public.agents where agents.name = 'lead-qualifier';

select private.publish_version(agents.id, 1) from public.agents where agents.name = 'lead-qualifier';

insert into public.subscriptions (org_id, name, event_types, target_kind, target, agent_id)
select agents.org_id, 'lead-qualifier', '{form.submitted}', 'function', 'lead-qualifier', agents.id
from public.agents where agents.name = 'lead-qualifier';
