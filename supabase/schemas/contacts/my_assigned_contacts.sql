-- The contacts that a closer reads: those of the leads assigned to the caller.

-- security definer: a closer reads a contact because of a lead, and the leads because of the assignment.
create function private.my_assigned_contacts()
returns setof uuid
language plpgsql stable security definer set search_path = ''
as $$
begin
  return query
  -- A lead is with the visible contact of its family.
  with mine as (
    select leads.org_id, leads.contact_id
    from public.leads
    where leads.assigned_to = (select auth.uid())
      and leads.org_id in (select private.my_orgs('leads.read_assigned'))
  )
  select mine.contact_id from mine
  union
  select merged.id
  from mine
  join public.contacts as merged on merged.org_id = mine.org_id and merged.merged_into = mine.contact_id;
end;
$$;
comment on function private.my_assigned_contacts is 'The contacts of the leads assigned to the caller, with those merged into them.';
grant execute on function private.my_assigned_contacts to authenticated;
