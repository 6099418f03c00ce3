-- The open lead of a contact at a site: found, or made.

create function private.open_lead(org uuid, contact uuid, site uuid, source text)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  visible constant uuid := private.visible_contact(contact);
  lead uuid;
begin
  -- Forms of one contact by different identifiers may be here at once; the index lets one of their leads be.
  select leads.id into lead
  from public.leads
  where leads.org_id = org and leads.contact_id = visible and leads.site_id = site
    and leads.is_open;
  if lead is null then
    insert into public.leads (org_id, contact_id, home_id, site_id, source)
    values (org, visible, contact, site, open_lead.source)
    on conflict (org_id, contact_id, site_id) where is_open
      do update set updated_at = now()
    returning leads.id into lead;
  end if;
  return lead;
end;
$$;
comment on function private.open_lead is 'The open lead of a contact at a site: found, or made.';
