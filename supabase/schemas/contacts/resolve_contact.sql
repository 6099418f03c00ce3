-- Resolving: the contact of a submission. An address decides; a number decides when the name agrees with one contact.
--
-- The answer is the contact by whose identifier the submission came. While that contact is merged into another it is
-- visible under that other, and leads open there; but the event keeps its own contact, so an unmerge has nothing to
-- guess. An ambiguous submission becomes a new contact and a row for a user to judge.

create function private.resolve_contact(org_id uuid, name text, email text, phone text, event_id uuid default null)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  email_key text := private.email_key(email);
  home uuid;
  visible uuid;
  phone_is_known boolean := false;
  email_is_new boolean := false;
  phone_is_new boolean := false;
begin
  perform private.lock_identifiers(resolve_contact.org_id, array[email_key, phone]);

  if email is not null then
    select known.home_id, known.contact_id into home, visible
    from public.contact_identifiers as known
    where known.org_id = resolve_contact.org_id and known.kind = 'email' and known.match_key = email_key
      and known.strength = 'strong';
    email_is_new := home is null;
  end if;
  if phone is not null then
    phone_is_known := exists (
      select from public.contact_identifiers as known
      where known.org_id = resolve_contact.org_id and known.kind = 'phone' and known.match_key = phone);
    if phone_is_known and home is null then
      home := private.holder_of_phone(resolve_contact.org_id, phone, coalesce(name, ''), email is not null);
      visible := private.visible_contact(home);
    end if;
    phone_is_new := not phone_is_known or not exists (
      select from public.contact_identifiers as known
      where known.org_id = resolve_contact.org_id and known.kind = 'phone' and known.match_key = phone
        and known.home_id = home);
  end if;
  if home is null then
    insert into public.contacts (org_id, name) values (resolve_contact.org_id, nullif(name, '')) returning id into home;
    visible := home;
  end if;

  if email_is_new or phone_is_new then
    insert into public.contact_identifiers (org_id, contact_id, home_id, kind, value, strength, event_id)
    select resolve_contact.org_id, visible, home, kind::public.identifier_kind, value,
           strength::public.identifier_strength, resolve_contact.event_id
    from (values ('email', email, 'strong', email_is_new), ('phone', phone, 'weak', phone_is_new)) as given (kind, value, strength, is_new)
    where is_new
    -- An address may be here already as a weak identifier, from before there was a key.
    on conflict do nothing;
  end if;
  if phone_is_new and phone_is_known then
    perform private.doubt_holders(resolve_contact.org_id, home, visible, phone);
  end if;
  return home;
end;
$$;
comment on function private.resolve_contact is 'The contact that gave a name, an address, a number: found, or made.';

create function private.lock_identifiers(org_id uuid, match_keys text[])
returns void
language plpgsql set search_path = ''
as $$
begin
  -- Another submission with the same address or number waits here, and so does a merge.
  -- Sorted by key: two transactions with the same two identifiers cannot lock crosswise.
  perform pg_advisory_xact_lock(key)
  from (
    select distinct hashtextextended(lock_identifiers.org_id || match_key, 0) as key
    from unnest(match_keys) as match_key
    where match_key is not null
    order by 1
  ) as keys;
end;
$$;
comment on function private.lock_identifiers is 'Until the end of the transaction, no other resolves, merges or unmerges a contact with one of these identifiers.';

-- A number decides only for one contact. When several agree by name, the contact known by the number alone is meant.
create function private.holder_of_phone(org_id uuid, phone text, name text, has_email boolean)
returns uuid
language plpgsql stable set search_path = ''
as $$
declare
  homes uuid[];
  all_visible uuid[];
begin
  with holders as (
    select known.home_id as home, known.contact_id as visible, contacts.name
    from public.contact_identifiers as known
    join public.contacts on contacts.id = known.home_id
    where known.org_id = holder_of_phone.org_id and known.kind = 'phone' and known.match_key = holder_of_phone.phone
    -- A number that more than fifty contacts gave says nothing; a contact that comes back is among the newest.
    order by known.home_id desc
    limit 50
  ), agreeing as (
    select home, visible, private.name_words(holders.name) <@ private.name_words(holder_of_phone.name)
                     and private.name_words(holder_of_phone.name) <@ private.name_words(holders.name) as is_exact
    from holders
    -- No name on either side agrees on nothing: then a new address is another person's.
    where private.names_agree(holders.name, holder_of_phone.name) and (holder_of_phone.name <> '' or not has_email)
  ), best as (
    select home, visible from agreeing
    where is_exact or not exists (select from agreeing where is_exact)
  )
  select array_agg(home order by home), array_agg(distinct visible) into homes, all_visible from best;

  if cardinality(all_visible) = 1 then
    return homes[1];
  elsif has_email then
    return null;
  end if;
  return (
    select visible from unnest(all_visible) as visible
    where not exists (
      select from public.contact_identifiers as strong
      where strong.org_id = holder_of_phone.org_id and strong.contact_id = visible and strong.strength = 'strong')
    order by visible
    limit 1);
end;
$$;
comment on function private.holder_of_phone is 'The one contact that has this number, judging by the name; null when there is none or several.';

-- Once, when a contact first gives a number: another contact that has it may be the same person.
create function private.doubt_holders(org_id uuid, home uuid, visible uuid, phone text)
returns void
language plpgsql set search_path = ''
as $$
begin
  insert into public.merge_candidates (org_id, contact_id, other_id, reason)
  select doubt_holders.org_id, least(doubt_holders.home, holder.home), greatest(doubt_holders.home, holder.home), 'same phone'
  from (
    select known.home_id as home
    from public.contact_identifiers as known
    where known.org_id = doubt_holders.org_id and known.kind = 'phone' and known.match_key = doubt_holders.phone
      and known.contact_id <> doubt_holders.visible
    order by known.home_id desc
    limit 5
  ) as holder
  order by 1, 2, 3
  on conflict on constraint merge_candidates_pair do nothing;
end;
$$;
comment on function private.doubt_holders is 'Let a person judge whether a contact is one of those that gave the same number.';
