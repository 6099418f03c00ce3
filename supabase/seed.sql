-- The first organization: its three sites, its lead qualifier and its data monitor. No secrets here: `private.set_site_secret`
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
select agents.org_id, agents.id, 1, '{
    "base": 10,
    "services": {
      "prime": [
        {"name": "an electrical emergency", "words": ["no power", "power is out", "power out", "sparking", "sparks", "burning smell", "burnt", "electric shock", "shocked"], "points": 30},
        {"name": "switchboard work", "words": ["switchboard", "switch board", "fuse box", "fusebox", "meter board"], "points": 25},
        {"name": "rewiring", "words": ["rewire", "rewiring", "wiring"], "points": 25},
        {"name": "a heat pump", "words": ["heat pump", "heatpump", "air conditioning"], "points": 20},
        {"name": "a charger for a car", "words": ["ev charger", "car charger", "wallbox"], "points": 20},
        {"name": "solar", "words": ["solar", "battery"], "points": 20},
        {"name": "lighting or sockets", "words": ["lighting", "lights", "downlights", "power point", "power points", "socket", "sockets"], "points": 15}
      ],
      "akf": [
        {"name": "a new building", "words": ["new build", "new home", "extension", "minor dwelling"], "points": 30},
        {"name": "a renovation", "words": ["renovation", "renovate", "bathroom", "kitchen", "recladding", "reclad"], "points": 25},
        {"name": "repair or carpentry", "words": ["deck", "fence", "repair", "carpentry", "leak"], "points": 15}
      ],
      "cleanjet": [
        {"name": "regular cleaning", "words": ["weekly", "fortnightly", "regular", "office"], "points": 30},
        {"name": "an end of tenancy clean", "words": ["end of tenancy", "move out", "moving out", "bond"], "points": 25},
        {"name": "a single clean", "words": ["deep clean", "spring clean", "clean", "cleaning", "windows", "carpet", "carpets"], "points": 15}
      ]
    },
    "urgency": [
      {"name": "an emergency", "words": ["emergency", "dangerous", "burning", "burnt", "sparking", "no power", "flooding"], "points": 20},
      {"name": "urgent", "words": ["urgent", "urgently", "asap", "today", "right away", "straight away", "immediately", "tonight"], "points": 15},
      {"name": "soon", "words": ["tomorrow", "this week", "soon", "next week"], "points": 8}
    ],
    "unwanted": [
      {"name": "somebody selling", "words": ["seo", "backlinks", "backlink", "guest post", "rank your website", "marketing agency", "crypto", "casino"], "points": -60},
      {"name": "somebody looking for work", "words": ["job application", "my cv", "vacancy", "apprenticeship"], "points": -30}
    ],
    "budget": [
      {"at_least": 500, "points": 4},
      {"at_least": 2000, "points": 8},
      {"at_least": 10000, "points": 12}
    ],
    "area": {
      "prime": {"served": ["auckland", "ponsonby", "grey lynn", "mt eden", "mount eden", "remuera", "parnell", "newmarket", "takapuna", "devonport", "north shore", "henderson", "manukau", "howick", "albany"], "points": 8},
      "akf": {"served": ["auckland", "ponsonby", "grey lynn", "mt eden", "mount eden", "remuera", "takapuna", "devonport", "north shore", "henderson", "titirangi", "waiheke"], "points": 8},
      "cleanjet": {"served": ["auckland", "cbd", "ponsonby", "grey lynn", "mt eden", "mount eden", "remuera", "parnell", "newmarket", "takapuna", "north shore", "manukau"], "points": 8}
    },
    "completeness": {
      "name": 4,
      "email": 4,
      "phone": 8,
      "message": [{"at_least": 20, "points": 3}, {"at_least": 80, "points": 6}, {"at_least": 250, "points": 8}]
    },
    "repeat_customer": 10,
    "bands": [
      {"band": "A", "at_least": 70, "decision": "call_now", "next_step": "Ring within the hour."},
      {"band": "B", "at_least": 40, "decision": "follow_up", "next_step": "Answer today with two times for a visit."},
      {"band": "C", "at_least": 0, "decision": "nurture", "next_step": "Answer by e-mail and ask what is missing."}
    ],
    "escalate_below": 0.55
  }'
from public.agents where agents.name = 'lead-qualifier';

-- The same rules with a prompt beside them, for a hub with a model. Without one it decides as version 1 does.
insert into public.agent_versions (org_id, agent_id, version, config)
select versions.org_id, versions.agent_id, 2, '{
    "prompt": "You qualify enquiries for a group of trades businesses in New Zealand: electrical work, building, cleaning. Judge how likely the enquiry is to become paid work soon: what they want done, how urgent it is, what they can spend, where they are, how much they tell. Somebody who sells to us or looks for a job is no lead. Be sparing: most enquiries are worth between 30 and 70.",
    "model": null,
    "temperature": 0,
    "max_tokens": 500,
    "tools": [],
    "thresholds": {"may_raise": 15, "may_lower": 30},
    "next_steps": {
      "A": ["Ring within the hour and offer a visit today."],
      "B": ["Ring today and ask for photos."],
      "C": ["Answer by e-mail that this is nothing for us."]
    },
    "limits": {"seconds": 10, "tries": 2, "tokens": 8000, "runs": 2, "rest_seconds": 30, "day_tokens": 2000000},
    "prices": null
  }'::jsonb || jsonb_build_object('rules', versions.config)
from public.agent_versions as versions
join public.agents on agents.id = versions.agent_id
where agents.name = 'lead-qualifier' and versions.version = 1;

select private.publish_version(agents.id, version)
from public.agents cross join generate_series(1, 2) as version
where agents.name = 'lead-qualifier';

insert into public.subscriptions (org_id, name, event_types, target_kind, target, agent_id)
select agents.org_id, 'lead-qualifier', '{form.submitted,booking.placed,lead.received}', 'function', 'lead-qualifier', agents.id
from public.agents where agents.name = 'lead-qualifier';

select private.add_data_monitor('trades');
