-- A contact's family: the contact that is visible, and those merged into it.

create function private.visible_contact(contact_id uuid)
returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  return (select coalesce(contacts.merged_into, contacts.id) from public.contacts where contacts.id = visible_contact.contact_id);
end;
$$;
comment on function private.visible_contact is 'The contact under which this contact is visible: itself, or the one it is merged into.';
grant execute on function private.visible_contact to authenticated, service_role;

-- merged_into is always the visible contact, however long the chain of merges: contact_merges keeps the chain.
create function private.contact_family(contact_id uuid)
returns uuid[]
language plpgsql stable set search_path = ''
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
comment on function private.contact_family is 'The family of a contact: the visible contact first, then those merged into it.';
grant execute on function private.contact_family to authenticated, service_role;
