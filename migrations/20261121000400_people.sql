-- People: one contact per person, whichever site and channel they came through, and their leads.
--
-- private.resolve_contact is the only door. An e-mail address decides; a phone number may be shared, so it
-- decides only when the name agrees. What stays ambiguous becomes a new contact and a row for a person to judge.

set lock_timeout = '5s';
set statement_timeout = '60s';

create type public.identifier_kind as enum ('email', 'phone');
create type public.identifier_strength as enum ('strong', 'weak');
create type public.lead_stage as enum ('new', 'enriched', 'contacted', 'replied', 'booked', 'won', 'lost');

create table public.contacts (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null references public.organizations (id),
  name        text,
  attributes  jsonb not null default '{}',
  language    text,
  time_zone   text,
  merged_into uuid,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),

  constraint contacts_of_org unique (org_id, id),
  constraint contacts_merged_within_org foreign key (org_id, merged_into) references public.contacts (org_id, id),
  constraint contacts_not_into_itself check (merged_into <> id)
);
comment on table public.contacts is 'A person, once, whichever site and channel they came through.';
create index contacts_merged_into_idx on public.contacts (org_id, merged_into) where merged_into is not null;

create table public.contact_identifiers (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  contact_id  uuid not null,
  kind        public.identifier_kind not null,
  value       text not null,
  strength    public.identifier_strength not null,
  verified_at timestamptz,
  created_at  timestamptz not null default now(),

  constraint contact_identifiers_of_org foreign key (org_id, contact_id) references public.contacts (org_id, id) on delete cascade,
  constraint contact_identifiers_once unique (org_id, kind, value, contact_id),
  constraint contact_identifiers_value check (length(value) between 3 and 320)
);
comment on table public.contact_identifiers is 'What points to a contact. A strong one points to one contact only; a weak one may be shared.';
create unique index contact_identifiers_strong_unique on public.contact_identifiers (org_id, kind, value) where strength = 'strong';
create index contact_identifiers_contact_idx on public.contact_identifiers (org_id, contact_id);

create table public.merge_candidates (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  contact_id  uuid not null,
  other_id    uuid not null,
  reason      text not null,
  decided_at  timestamptz,
  created_at  timestamptz not null default now(),

  constraint merge_candidates_contact foreign key (org_id, contact_id) references public.contacts (org_id, id) on delete cascade,
  constraint merge_candidates_other foreign key (org_id, other_id) references public.contacts (org_id, id) on delete cascade,
  constraint merge_candidates_pair unique (org_id, contact_id, other_id),
  constraint merge_candidates_order check (contact_id < other_id)
);
comment on table public.merge_candidates is 'Two contacts that may be one person; a person decides.';
create index merge_candidates_other_idx on public.merge_candidates (org_id, other_id);

create table public.leads (
  id             uuid primary key default private.uuid_v7(),
  org_id         uuid not null,
  contact_id     uuid not null,
  site_id        uuid not null,
  source         text not null,
  stage          public.lead_stage not null default 'new',
  score          smallint,
  band           char(1) generated always as (case when score >= 70 then 'A' when score >= 40 then 'B' when score >= 0 then 'C' end) stored,
  reasons        text[] not null default '{}',
  next_step      text,
  scored_by      uuid,
  assigned_to    uuid,
  last_action_at timestamptz,
  created_at     timestamptz not null default now(),
  updated_at     timestamptz not null default now(),

  constraint leads_of_org unique (org_id, id),
  constraint leads_contact foreign key (org_id, contact_id) references public.contacts (org_id, id),
  constraint leads_site foreign key (org_id, site_id) references public.sites (org_id, id),
  constraint leads_assignee foreign key (org_id, assigned_to) references public.memberships (org_id, user_id) on delete set null (assigned_to),
  constraint leads_score_range check (score between 0 and 100)
);
comment on table public.leads is 'One interest of one contact at one site; a contact may have several.';
comment on column public.leads.scored_by is 'The event whose qualification gave the score: an older one never overwrites a newer.';
create unique index leads_one_open on public.leads (org_id, contact_id, site_id) where stage not in ('won', 'lost');
create index leads_contact_idx on public.leads (org_id, contact_id);
create index leads_site_idx on public.leads (org_id, site_id);
create index leads_assignee_idx on public.leads (org_id, assigned_to);

create trigger contacts_touch before update on public.contacts
  for each row execute function private.touch_updated_at();
create trigger leads_touch before update on public.leads
  for each row execute function private.touch_updated_at();

-- security definer: a closer reads a contact because of a lead, and the leads because of the assignment.
create function private.my_assigned_contacts()
returns setof uuid
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  return query
  select leads.contact_id
  from public.leads
  where leads.assigned_to = (select auth.uid())
    and leads.org_id in (select private.my_orgs('leads.read_assigned'));
end;
$$;
comment on function private.my_assigned_contacts is 'The contacts of the leads assigned to the caller.';
grant execute on function private.my_assigned_contacts to authenticated;

alter table public.contacts enable row level security;
alter table public.contacts force row level security;
grant select on public.contacts to authenticated, service_role;
grant update (name, language, time_zone) on public.contacts to authenticated;
create policy "members read contacts, closers those of their leads" on public.contacts for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or id in (select private.my_assigned_contacts()));
create policy "operators change contacts" on public.contacts for update to authenticated
  using (org_id in (select private.my_orgs('contacts.update')))
  with check (org_id in (select private.my_orgs('contacts.update')));

alter table public.contact_identifiers enable row level security;
alter table public.contact_identifiers force row level security;
grant select on public.contact_identifiers to authenticated, service_role;
create policy "who reads a contact reads its identifiers" on public.contact_identifiers for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or contact_id in (select private.my_assigned_contacts()));

alter table public.merge_candidates enable row level security;
alter table public.merge_candidates force row level security;
grant select on public.merge_candidates to authenticated, service_role;
create policy "members read merge candidates" on public.merge_candidates for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')));

alter table public.leads enable row level security;
alter table public.leads force row level security;
grant select on public.leads to authenticated, service_role;
grant update (stage, assigned_to, next_step) on public.leads to authenticated;
create policy "members read leads, closers their own" on public.leads for select to authenticated
  using (
    org_id in (select private.my_orgs('leads.read'))
    or (assigned_to = (select auth.uid()) and org_id in (select private.my_orgs('leads.read_assigned'))));
create policy "operators change leads, closers their own" on public.leads for update to authenticated
  using (
    org_id in (select private.my_orgs('leads.update'))
    or (assigned_to = (select auth.uid()) and org_id in (select private.my_orgs('leads.update_assigned'))))
  with check (
    org_id in (select private.my_orgs('leads.update'))
    or (assigned_to = (select auth.uid()) and org_id in (select private.my_orgs('leads.update_assigned'))));

create function private.name_words(name text)
returns text[]
language plpgsql
immutable
set search_path = ''
as $$
begin
  return array_remove(regexp_split_to_array(lower(coalesce(name, '')), '[^[:alnum:]]+'), '');
end;
$$;
comment on function private.name_words is 'The words of a name, in lower case.';

-- "Jo Smith" agrees with "Smith, Jo" and with "Jo"; no name agrees with no name only.
create function private.names_agree(one text, other text)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
declare
  words text[] := private.name_words(one);
  other_words text[] := private.name_words(other);
begin
  if cardinality(words) = 0 or cardinality(other_words) = 0 then
    return cardinality(words) = cardinality(other_words);
  end if;
  return words <@ other_words or other_words <@ words;
end;
$$;
comment on function private.names_agree is 'Whether two names may be one person''s.';

create function private.resolve_contact(org_id uuid, name text, email text, phone text)
returns uuid
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  found_id uuid;
  doubted uuid;
begin
  -- Whoever else brings the same address or number waits here, so one new person becomes one contact.
  -- Sorted by key: two transactions with the same two identifiers cannot lock crosswise.
  perform pg_advisory_xact_lock(key)
  from (
    select hashtextextended(resolve_contact.org_id || kind || value, 0) as key
    from (values ('email', email), ('phone', phone)) as given (kind, value)
    where value is not null
    order by 1
  ) as keys;

  if email is not null then
    select contact_id into found_id
    from public.contact_identifiers as known
    where known.org_id = resolve_contact.org_id and known.kind = 'email' and known.value = email
      and known.strength = 'strong';
  end if;

  if phone is not null and found_id is null then
    select contact_id into found_id
    from public.contact_identifiers as known
    join public.contacts on contacts.id = known.contact_id
    where known.org_id = resolve_contact.org_id and known.kind = 'phone' and known.value = phone
      and private.names_agree(contacts.name, resolve_contact.name)
    order by known.id
    limit 1;
  end if;

  if phone is not null then
    select contact_id into doubted
    from public.contact_identifiers as known
    where known.org_id = resolve_contact.org_id and known.kind = 'phone' and known.value = phone
      and known.contact_id is distinct from found_id
    order by known.id
    limit 1;
  end if;

  if found_id is null then
    insert into public.contacts (org_id, name) values (resolve_contact.org_id, nullif(resolve_contact.name, ''))
    returning id into found_id;
  elsif resolve_contact.name <> '' then
    update public.contacts set name = resolve_contact.name where contacts.id = found_id and contacts.name is null;
  end if;

  insert into public.contact_identifiers (org_id, contact_id, kind, value, strength)
  select resolve_contact.org_id, found_id, kind::public.identifier_kind, value, strength::public.identifier_strength
  from (values ('email', email, 'strong'), ('phone', phone, 'weak')) as given (kind, value, strength)
  where value is not null
  on conflict do nothing;

  if doubted is not null then
    insert into public.merge_candidates (org_id, contact_id, other_id, reason)
    values (resolve_contact.org_id, least(found_id, doubted), greatest(found_id, doubted), 'same phone, another name or e-mail')
    on conflict on constraint merge_candidates_pair do nothing;
  end if;

  return found_id;
end;
$$;
comment on function private.resolve_contact is 'The contact of a person who gave a name, an address, a number: found, or made.';
