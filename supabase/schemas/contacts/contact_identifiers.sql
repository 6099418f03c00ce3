-- Identifiers: addresses and numbers that point to a contact. A strong one points to one contact only; a weak one may
-- be shared.
--
-- They match by a key and keep the spelling that was given. Both rules are computed columns, so no writer can forget
-- them. While a contact is merged into another, its identifiers and leads are with that one, and home_id names the
-- contact to which an unmerge returns them.

create type public.identifier_strength as enum ('strong', 'weak');

create table public.contact_identifiers (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  contact_id  uuid not null,
  home_id     uuid not null,
  kind        public.identifier_kind not null,
  value       text not null,
  match_key   text not null generated always as (private.match_key(kind, value)) stored,
  suggestion  text generated always as (case when kind = 'email' then private.email_suggestion(value) end) stored,
  strength    public.identifier_strength not null,
  event_id    uuid,
  verified_at timestamptz,
  created_at  timestamptz not null default now(),

  constraint contact_identifiers_of_org foreign key (org_id, contact_id) references public.contacts (org_id, id) on delete cascade,
  constraint contact_identifiers_value check (length(value) between 3 and 320)
);
comment on table public.contact_identifiers is 'Addresses and numbers that point to a contact. A strong one points to one contact only; a weak one may be shared.';
comment on column public.contact_identifiers.value is 'The address or number as it was given; messages go to it.';
comment on column public.contact_identifiers.match_key is 'The key by which it matches: jo.smith+prime@gmail.com and josmith@gmail.com have one key.';
comment on column public.contact_identifiers.suggestion is 'The address that was probably meant, when the domain looks mistyped. Nothing is sent to it.';
comment on column public.contact_identifiers.home_id is
  'The contact that it belongs to; contact_id is the contact that holds it because of a merge. No foreign key: a second one would make contacts(name) ambiguous over REST.';
comment on column public.contact_identifiers.event_id is 'The event that first gave it. No foreign key: partitions of events are archived one by one.';
create unique index contact_identifiers_strong_unique on public.contact_identifiers (org_id, kind, match_key) where strength = 'strong';
create index contact_identifiers_contact_idx on public.contact_identifiers (org_id, contact_id);
create unique index contact_identifiers_once on public.contact_identifiers (org_id, kind, match_key, home_id);

alter table public.contact_identifiers enable row level security, force row level security;
grant select on public.contact_identifiers to authenticated, service_role;
create policy "who reads a contact reads its identifiers" on public.contact_identifiers for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or contact_id in (select private.my_assigned_contacts()));
