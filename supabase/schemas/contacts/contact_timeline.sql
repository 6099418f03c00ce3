-- The timeline of a contact: its events and the actions of agents, newest first, a page at a time.
--
-- Ids are made in the order of time in every log, so one id is a cursor for all of them. Each source gives at most one
-- page per contact of the family, from the end of its index; another source is another branch. Row level security
-- decides which rows a caller sees.

create function public.contact_timeline(contact_id uuid, before_cursor uuid default null, page_size integer default 50)
returns table (id uuid, source text, type text, at timestamptz, home_id uuid, site_id uuid, data jsonb)
language plpgsql stable set search_path = ''
-- The planner cannot know which few contacts have most events: it would sort all of theirs for one page.
set enable_sort = off
-- A plan that ends in a sort looks dear enough to compile; it is not.
set jit = off
as $$
declare
  org uuid := (select contacts.org_id from public.contacts where contacts.id = contact_timeline.contact_id);
  cursor_id uuid := coalesce(before_cursor, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
  page integer := least(greatest(page_size, 1), 200);
begin
  return query
  select entry.*
  from unnest(private.contact_family(contact_timeline.contact_id)) as member
  cross join lateral (
    (select events.id, 'event', events.type, events.occurred_at, member, events.site_id, events.data
     from public.events
     where events.org_id = org and events.contact_id = member and events.id < cursor_id
     order by events.id desc limit page)
    union all
    (select actions.id, 'action', actions.decision, actions.created_at, member, null, jsonb_build_object(
       'agent', actions.agent, 'reasons', actions.reasons, 'confidence', actions.confidence, 'outcome', actions.outcome,
       'event_id', actions.event_id, 'lead_id', actions.lead_id)
     from public.agent_actions as actions
     where actions.org_id = org and actions.contact_id = member and actions.id < cursor_id
     order by actions.id desc limit page)
  ) as entry (id, source, type, at, home_id, site_id, data)
  order by entry.id desc
  limit page;
end;
$$;
comment on function public.contact_timeline is
  'Events and actions of a contact and those merged into it, newest first; before_cursor is the id of the last row of the page before. home_id of a row is the contact that it belongs to.';
grant execute on function public.contact_timeline to authenticated, service_role;
