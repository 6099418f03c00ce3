-- Golden contacts: one row per person, with the latest facts of any of their contacts.
--
-- A view cannot differ from the tables it is made of; security_invoker shows each caller the rows that the tables would.
-- So do customers and cross_sell_events.

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
  'The visible contacts: one row per person, without those merged into another, with the latest facts of any of them.';
grant select on public.golden_contacts to authenticated, service_role;
-- Without this trigger a write is a 500: Postgres says that a view cannot be written before it asks for the right.
create trigger golden_contacts_read_only instead of insert or update or delete on public.golden_contacts
  for each row execute function private.refuse_change();
