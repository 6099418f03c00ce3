-- Leads of merged contacts: one open lead a site stands for the others, until an unmerge.

-- The furthest of several open leads of one person at one site stands for the others.
create function private.fold_leads(org_id uuid, contacts uuid[])
returns jsonb
language sql set search_path = ''
as $$
  with ranked as (
    select leads.id, first_value(leads.id) over best as stands
    from public.leads
    where leads.org_id = fold_leads.org_id and leads.contact_id = any (contacts)
      and leads.is_open
    window best as (partition by leads.site_id order by leads.stage desc, leads.score desc nulls last, leads.id)
  ), folded as (
    update public.leads set folded_into = ranked.stands
    from ranked
    where leads.id = ranked.id and ranked.stands <> ranked.id
    returning leads.id
  )
  select coalesce(jsonb_agg(folded.id), '[]') from folded;
$$;
comment on function private.fold_leads is 'Let one open lead per site stand for those of several contacts; answers which were folded.';

-- A lead whose stand-in went to another contact stands for itself again, beside the leads that its contact has by now.
create function private.unfold_leads(org_id uuid, contacts uuid[])
returns void
language plpgsql set search_path = ''
as $$
declare
  freed public.leads;
  rival public.leads;
begin
  for freed in
    select leads.*
    from public.leads
    join public.leads as stands on stands.org_id = leads.org_id and stands.id = leads.folded_into
    where leads.org_id = unfold_leads.org_id and leads.contact_id = any (contacts) and stands.contact_id <> leads.contact_id
    order by leads.id
  loop
    select leads.* into rival
    from public.leads
    where leads.org_id = freed.org_id and leads.contact_id = freed.contact_id and leads.site_id = freed.site_id
      and leads.is_open and freed.stage not in ('won', 'lost');
    if rival.id is null then
      update public.leads set folded_into = null where leads.id = freed.id;
    elsif (rival.stage, coalesce(rival.score, -1), freed.id) > (freed.stage, coalesce(freed.score, -1), rival.id) then
      update public.leads set folded_into = rival.id where leads.id = freed.id;
    else
      update public.leads set folded_into = freed.id where leads.id = rival.id;
      update public.leads set folded_into = null where leads.id = freed.id;
    end if;
  end loop;
end;
$$;
comment on function private.unfold_leads is 'Undo the folding of leads whose stand-in is another contact''s.';

-- While two contacts were one, a form of the one may have found the other's lead open. Each that asked keeps a lead.
create function private.reopen_leads(org_id uuid, contacts uuid[], since timestamptz)
returns void
language plpgsql set search_path = ''
as $$
begin
  perform private.open_lead(asked.org_id, asked.contact_id, asked.site_id, asked.source)
  from (
    select distinct on (private.visible_contact(events.contact_id), events.site_id)
           events.org_id, events.contact_id, events.site_id, events.source
    from public.events
    join public.leads on leads.org_id = events.org_id and leads.id = events.subject_id
    where events.org_id = reopen_leads.org_id and events.contact_id = any (contacts)
      and events.type in (select event_types.name from public.event_types where event_types.makes_lead)
      -- An event has its id before it waits for its turn.
      and events.id >= private.uuid_v7_floor(since - interval '1 minute')
      and events.subject_type = 'lead' and events.site_id is not null
      and leads.contact_id <> private.visible_contact(events.contact_id)
      and not exists (
        select from public.leads as theirs
        where theirs.org_id = events.org_id and theirs.contact_id = private.visible_contact(events.contact_id)
          and theirs.site_id = events.site_id and theirs.created_at >= events.recorded_at)
    order by private.visible_contact(events.contact_id), events.site_id, events.id
  ) as asked;
end;
$$;
comment on function private.reopen_leads is 'Open a lead for each contact that asked while merged and whose lead was the other''s.';
