-- Outcomes: the later fate of a decision, attached when its lead is won or lost and by reviews.

create table public.outcomes (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  action_id  uuid not null references public.agent_actions (id),
  kind       text not null,
  decided_by uuid,
  at         timestamptz not null default now(),

  constraint outcomes_known check (kind in ('won', 'lost', 'approved', 'rejected')),
  constraint outcomes_once unique (action_id, kind)
);
comment on table public.outcomes is 'The later fate of a decision: its lead was won or lost, a user approved or rejected it.';
create index outcomes_list_idx on public.outcomes (org_id, id desc);

alter table public.outcomes enable row level security, force row level security;
grant select on public.outcomes to authenticated, service_role;
create policy "members read outcomes" on public.outcomes for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')));

-- security definer: moving a lead gives no right to write outcomes.
create function private.attach_lead_outcome()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.outcomes (org_id, action_id, kind, decided_by)
  select new.org_id, agent_actions.id, new.stage::text, (select auth.uid())
  from public.agent_actions
  where agent_actions.org_id = new.org_id and agent_actions.lead_id = new.id and agent_actions.outcome <> 'failed'
  on conflict on constraint outcomes_once do nothing;
  return null;
end;
$$;
comment on function private.attach_lead_outcome is 'Trigger: a lead that is won or lost says so of the decisions about it.';

create trigger leads_outcome after update of stage on public.leads
  for each row when (new.stage in ('won', 'lost') and old.stage is distinct from new.stage)
  execute function private.attach_lead_outcome();

-- security definer: reviewing gives no right to write outcomes.
create function private.attach_review_outcome()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.outcomes (org_id, action_id, kind, decided_by)
  values (new.org_id, new.id, new.review::text, new.reviewed_by)
  on conflict on constraint outcomes_once do nothing;
  return null;
end;
$$;
comment on function private.attach_review_outcome is 'Trigger: a review is an outcome of the decision.';

create trigger agent_actions_outcome after update of review on public.agent_actions
  for each row when (new.review in ('approved', 'rejected') and old.review is distinct from new.review)
  execute function private.attach_review_outcome();
