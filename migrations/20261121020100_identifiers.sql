-- Identifiers match by a key, and keep what was given.
--
-- People write one mailbox in many ways: jo.smith@gmail.com and JoSmith+prime@googlemail.com are one. The key is what
-- matches; `value` is what was given, and what we write to. Both rules are computed columns, so no writer can forget
-- them. A domain that looks mistyped is said beside the address, for a person to see; nothing is changed.
--
-- While a contact is merged into another, its identifiers and leads are with that one, and `home_id` says whose they
-- are by themselves: where an unmerge returns them.

-- A hub with rows waits while these tables are rewritten: seconds at a million, and lock_timeout gives way first.
-- squawk-ignore-file adding-field-with-default, ban-drop-constraint, constraint-missing-not-valid, adding-foreign-key-constraint, require-concurrent-index-deletion, require-concurrent-index-creation
set lock_timeout = '5s';
set statement_timeout = '60s';

-- A provider that is not named takes dots and tags as part of the name, and so do we: two contacts can be merged,
-- two people in one contact are a leak.
create function private.email_key(address text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  given text := lower(address);
  domain text := split_part(given, '@', -1);
  untagged text := split_part(left(given, -length(domain) - 1), '+', 1);
begin
  if untagged = '' then
    return given;
  elsif domain in ('gmail.com', 'googlemail.com') then
    return coalesce(nullif(replace(untagged, '.', ''), ''), untagged) || '@gmail.com';
  elsif domain in ('icloud.com', 'me.com', 'mac.com', 'fastmail.com', 'fastmail.fm', 'proton.me', 'protonmail.com', 'pm.me', 'msn.com')
    -- Microsoft has these names under many countries' endings.
    or domain ~ '^(outlook|hotmail|live)\.((com?\.)?[a-z]{2}|com)$'
  then
    return untagged || '@' || domain;
  end if;
  return given;
end;
$$;
comment on function private.email_key is 'By what an address matches: its case, dots and tags dropped where its provider drops them.';

create function private.email_suggestion(address text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  domain text := lower(split_part(address, '@', -1));
  name text := split_part(domain, '.', 1);
  ending text := substr(domain, length(name) + 2);
begin
  name := coalesce('{
    "gmial": "gmail", "gmal": "gmail", "gmai": "gmail", "gamil": "gmail", "gnail": "gmail", "gmil": "gmail", "gmaill": "gmail",
    "gmaii": "gmail", "gmqil": "gmail", "gmsil": "gmail", "gimail": "gmail", "ggmail": "gmail", "gmeil": "gmail", "gmall": "gmail",
    "hotmial": "hotmail", "hotmal": "hotmail", "hotmil": "hotmail", "homail": "hotmail", "hotmai": "hotmail", "hotmaill": "hotmail",
    "htmail": "hotmail", "hotamil": "hotmail", "hotnail": "hotmail", "hormail": "hotmail", "hitmail": "hotmail", "hotmali": "hotmail",
    "outlok": "outlook", "outook": "outlook", "oulook": "outlook", "outloook": "outlook", "outlool": "outlook", "outllook": "outlook",
    "yaho": "yahoo", "yahooo": "yahoo", "yhaoo": "yahoo", "yahho": "yahoo", "yaoo": "yahoo", "tahoo": "yahoo",
    "iclod": "icloud", "icoud": "icloud", "iclould": "icloud", "icloude": "icloud", "iclud": "icloud", "icluod": "icloud",
    "protonmial": "protonmail", "protonmal": "protonmail", "xtar": "xtra", "xrta": "xtra"}'::jsonb ->> name, name);
  ending := coalesce('{
    "con": "com", "cmo": "com", "ocm": "com", "vom": "com", "xom": "com", "cpm": "com", "comm": "com", "c0m": "com",
    "co.nx": "co.nz", "co.ns": "co.nz", "co.bz": "co.nz", "c.nz": "co.nz", "co.n": "co.nz", "con.nz": "co.nz",
    "com.ua.au": "com.au", "con.au": "com.au", "cm.au": "com.au", "co.ul": "co.uk", "co.uj": "co.uk", "con.uk": "co.uk"}'::jsonb ->> ending, ending);
  -- .co and .cm are real endings, but no address of these providers ends in them.
  if name in ('gmail', 'hotmail', 'outlook', 'icloud') and ending in ('co', 'cm', 'om', 'cim', 'net') then
    ending := 'com';
  end if;
  return nullif(left(address, -length(domain)) || name || '.' || ending, lower(address));
end;
$$;
comment on function private.email_suggestion is 'The address that was probably meant, when its domain looks mistyped; else null.';

create function private.match_key(kind public.identifier_kind, value text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case when kind = 'email' then private.email_key(value) else value end;
end;
$$;
comment on function private.match_key is 'By what an identifier matches.';

alter table public.contact_identifiers
  add column match_key text not null generated always as (private.match_key(kind, value)) stored,
  add column suggestion text generated always as (case when kind = 'email' then private.email_suggestion(value) end) stored,
  add column home_id uuid,
  add column event_id uuid,
  drop constraint contact_identifiers_once;
comment on column public.contact_identifiers.value is 'As it was given: what we write to.';
comment on column public.contact_identifiers.match_key is 'By what it matches: jo.smith+prime@gmail.com and josmith@gmail.com have one key.';
comment on column public.contact_identifiers.suggestion is 'What was probably meant, when the domain looks mistyped. Nothing is written to it.';
comment on column public.contact_identifiers.home_id is
  'Set while it is with another contact because of a merge: whose it is by itself. No foreign key: a second one would make contacts(name) ambiguous over REST.';
comment on column public.contact_identifiers.event_id is 'The event that first gave it. No foreign key: partitions of events are archived one by one.';

-- Before the key, two spellings of one mailbox were two contacts: the older keeps it, a person decides about the others.
with spellings as (
  select id, org_id, contact_id,
         first_value(contact_id) over same_mailbox as first_contact, row_number() over same_mailbox as number
  from public.contact_identifiers
  where strength = 'strong'
  window same_mailbox as (partition by org_id, kind, match_key order by id)
), later as (
  update public.contact_identifiers set strength = 'weak'
  from spellings
  where spellings.id = contact_identifiers.id and spellings.number > 1
  returning contact_identifiers.org_id, contact_identifiers.contact_id, spellings.first_contact
)
insert into public.merge_candidates (org_id, contact_id, other_id, reason)
select distinct org_id, least(contact_id, first_contact), greatest(contact_id, first_contact), 'same mailbox in another spelling'
from later
where contact_id <> first_contact
on conflict on constraint merge_candidates_pair do nothing;

-- Of one contact's spellings of one mailbox the first stays.
delete from public.contact_identifiers as later
using public.contact_identifiers as first
where first.org_id = later.org_id and first.kind = later.kind and first.match_key = later.match_key
  and first.contact_id = later.contact_id and first.id < later.id;

drop index public.contact_identifiers_strong_unique;
create unique index contact_identifiers_strong_unique on public.contact_identifiers (org_id, kind, match_key) where strength = 'strong';
create unique index contact_identifiers_once on public.contact_identifiers (org_id, kind, match_key, (coalesce(home_id, contact_id)));
create index contact_identifiers_home_idx on public.contact_identifiers (org_id, home_id) where home_id is not null;

create type public.merge_decision as enum ('merge', 'keep_apart');
alter table public.merge_candidates
  add column decision public.merge_decision,
  add column decided_by uuid,
  add constraint merge_candidates_decided check ((decision is null) = (decided_at is null));
comment on column public.merge_candidates.decision is 'What a person decided; keeping two apart is remembered.';

alter table public.leads
  add column home_id uuid,
  add column folded_into uuid,
  add constraint leads_folded_into foreign key (org_id, folded_into) references public.leads (org_id, id),
  add constraint leads_not_into_itself check (folded_into <> id);
comment on column public.leads.home_id is
  'Set while it is with another contact because of a merge: whose it is by itself. No foreign key, as in contact_identifiers.';
comment on column public.leads.folded_into is 'Set while the same person''s other lead at this site stands for it because of a merge.';
drop index public.leads_one_open;
create unique index leads_one_open on public.leads (org_id, contact_id, site_id) where stage not in ('won', 'lost') and folded_into is null;
create index leads_home_idx on public.leads (org_id, home_id) where home_id is not null;
create index leads_folded_into_idx on public.leads (org_id, folded_into) where folded_into is not null;

create function private.doer()
returns text
language sql
stable
set search_path = ''
as $$
  select coalesce('user:' || (select auth.uid()), 'hub');
$$;
comment on function private.doer is 'The source of an event that somebody has done: a person who is signed in, or whoever has the hub''s secret key.';

create function private.visible_contact(contact_id uuid)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  return (select coalesce(contacts.merged_into, contacts.id) from public.contacts where contacts.id = visible_contact.contact_id);
end;
$$;
comment on function private.visible_contact is 'The contact under which this one is seen: itself, or the one it is merged into.';

-- merged_into is always the contact that is seen, however long the chain of merges: contact_merges keeps the chain.
create function private.contact_family(contact_id uuid)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
declare
  root uuid := private.visible_contact(contact_id);
begin
  return array(
    select root where root is not null
    union all
    select merged.id
    from public.contacts
    join public.contacts as merged on merged.org_id = contacts.org_id and merged.merged_into = contacts.id
    where contacts.id = root);
end;
$$;
comment on function private.contact_family is 'A person''s contacts: the one that is seen, first, and those merged into it.';
grant execute on function private.contact_family to authenticated, service_role;
grant execute on function private.visible_contact to authenticated, service_role;

create or replace function private.my_assigned_contacts()
returns setof uuid
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  return query
  select unnest(private.contact_family(leads.contact_id))
  from public.leads
  where leads.assigned_to = (select auth.uid())
    and leads.org_id in (select private.my_orgs('leads.read_assigned'));
end;
$$;
comment on function private.my_assigned_contacts is 'The contacts of the leads assigned to the caller, with those merged into them.';
