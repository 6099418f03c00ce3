-- Locking whole families of contacts, for a merge or its undoing.
--
-- A merge never waits for a row while it holds another: it takes all it needs at once or lets go and tries again.

create function private.hold_contacts(contacts uuid[])
returns void
language plpgsql set search_path = ''
as $$
declare
  deadline timestamptz := clock_timestamp() + interval '5 seconds';
begin
  loop
    begin
      perform private.take_contacts(contacts);
      return;
    exception when lock_not_available or deadlock_detected then
      -- The locks go with the block, so that the transaction ahead can finish; then they are asked for again.
      if clock_timestamp() > deadline then
        perform private.fail(503, 'contacts_busy', 'Something else is being done with these contacts. Try again.');
      end if;
      perform pg_sleep(0.002 + random() * 0.02);
    end;
  end loop;
end;
$$;
comment on function private.hold_contacts is 'Lock the families of some contacts until the end of the transaction.';

create function private.take_contacts(contacts uuid[])
returns void
language plpgsql set search_path = ''
as $$
declare
  org uuid := (select contacts.org_id from public.contacts where contacts.id = any (take_contacts.contacts) limit 1);
  visible uuid[];
  family uuid[];
  keys text[];
begin
  select array_agg(distinct private.visible_contact(id)) into visible from unnest(take_contacts.contacts) as id;
  family := array(select unnest(private.contact_family(id)) from unnest(visible) as id order by 1);
  keys := array(
    select identifiers.match_key from public.contact_identifiers as identifiers
    where identifiers.org_id = org and identifiers.contact_id = any (visible)
    order by identifiers.id);

  -- Waits its turn among the submissions of these contacts, then keeps others out.
  perform private.lock_identifiers(org, keys);
  perform from public.contacts where contacts.id = any (family) order by contacts.id for update nowait;
  perform from public.leads where leads.org_id = org and leads.contact_id = any (visible) order by leads.id for update nowait;

  if keys is distinct from array(
      select identifiers.match_key from public.contact_identifiers as identifiers
      where identifiers.org_id = org and identifiers.contact_id = any (visible)
      order by identifiers.id for update nowait)
    or family is distinct from array(select unnest(private.contact_family(id)) from unnest(visible) as id order by 1)
  then
    raise exception 'these contacts changed meanwhile' using errcode = 'lock_not_available';
  end if;
end;
$$;
comment on function private.take_contacts is 'Lock the families of some contacts (identifiers, contacts, leads), or fail at once.';
