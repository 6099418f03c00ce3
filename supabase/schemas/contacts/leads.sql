-- Leads: one interest of one contact at one site; a contact may have several.

create type public.lead_stage as enum ('new', 'enriched', 'contacted', 'replied', 'booked', 'won', 'lost');

create table public.leads (
  id             uuid primary key default private.uuid_v7(),
  org_id         uuid not null,
  contact_id     uuid not null,
  home_id        uuid not null,
  folded_into    uuid,
  site_id        uuid not null,
  source         text not null,
  stage          public.lead_stage not null default 'new',
  is_open        boolean not null generated always as (stage not in ('won', 'lost') and folded_into is null) stored,
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
  constraint leads_folded_into foreign key (org_id, folded_into) references public.leads (org_id, id),
  constraint leads_not_into_itself check (folded_into <> id),
  constraint leads_score_range check (score between 0 and 100)
);
comment on table public.leads is 'One interest of one contact at one site; a contact may have several.';
comment on column public.leads.scored_by is 'The event whose qualification gave the score: an older event never overwrites a newer.';
comment on column public.leads.home_id is
  'The contact that it belongs to; contact_id is the contact that holds it because of a merge. No foreign key: a second one would make contacts(name) ambiguous over REST.';
comment on column public.leads.is_open is 'It is neither won nor lost, and no other lead stands for it.';
comment on column public.leads.folded_into is 'Set while the same person''s other lead at this site stands for it because of a merge.';
create unique index leads_one_open on public.leads (org_id, contact_id, site_id) where is_open;
create index leads_contact_idx on public.leads (org_id, contact_id);
create index leads_site_idx on public.leads (org_id, site_id);
create index leads_assignee_idx on public.leads (org_id, assigned_to);
create index leads_folded_into_idx on public.leads (org_id, folded_into) where folded_into is not null;
create index leads_won_idx on public.leads (org_id, contact_id) where stage = 'won';

create trigger leads_touch before update on public.leads
  for each row execute function private.touch_updated_at();
create trigger leads_audit after update or delete on public.leads
  for each row execute function private.audit_change('users');

alter table public.leads enable row level security, force row level security;
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
