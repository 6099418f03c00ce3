-- Merge candidates: two contacts that may be one person; a user decides.

create type public.merge_decision as enum ('merge', 'keep_apart');

create table public.merge_candidates (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  contact_id  uuid not null,
  other_id    uuid not null,
  reason      text not null,
  decision    public.merge_decision,
  decided_by  uuid,
  decided_at  timestamptz,
  created_at  timestamptz not null default now(),

  constraint merge_candidates_contact foreign key (org_id, contact_id) references public.contacts (org_id, id) on delete cascade,
  constraint merge_candidates_other foreign key (org_id, other_id) references public.contacts (org_id, id) on delete cascade,
  constraint merge_candidates_pair unique (org_id, contact_id, other_id),
  constraint merge_candidates_order check (contact_id < other_id),
  constraint merge_candidates_decided check ((decision is null) = (decided_at is null))
);
comment on table public.merge_candidates is 'Two contacts that may be one person; a person decides.';
comment on column public.merge_candidates.decision is 'The decision of a user; keeping two apart is remembered.';
create index merge_candidates_other_idx on public.merge_candidates (org_id, other_id);
create index merge_candidates_open_idx on public.merge_candidates (org_id, id desc) where decided_at is null;

create trigger merge_candidates_audit after update or delete on public.merge_candidates
  for each row execute function private.audit_change('users');

alter table public.merge_candidates enable row level security, force row level security;
grant select on public.merge_candidates to authenticated, service_role;
create policy "members read merge candidates" on public.merge_candidates for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')));
