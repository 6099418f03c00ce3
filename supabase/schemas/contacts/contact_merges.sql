-- Merges: each contact that was merged into another, why, the rows that moved, and whether it was undone.
--
-- The loser stays and names the contact under which it is visible. State (identifiers, leads) moves to the winner and
-- keeps its home_id. Rows that an event said or caused stay with the contact by whose identifier the event came, and are
-- read through private.contact_family. So unmerging is not a guess: all that came by the loser's own identifiers, before
-- or since, is the loser's. private.contact_references says of every table which of the two it does.

create table public.contact_merges (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null,
  winner_id    uuid not null,
  loser_id     uuid not null,
  reason       text not null,
  candidate_id uuid references public.merge_candidates (id) on delete set null,
  moved        jsonb not null default '{}',
  merged_by    uuid,
  merged_at    timestamptz not null default clock_timestamp(),
  undone_by    uuid,
  undone_at    timestamptz,

  constraint contact_merges_winner foreign key (org_id, winner_id) references public.contacts (org_id, id),
  constraint contact_merges_loser foreign key (org_id, loser_id) references public.contacts (org_id, id),
  constraint contact_merges_two check (winner_id <> loser_id),
  constraint contact_merges_reason_length check (length(reason) between 1 and 1000)
);
comment on table public.contact_merges is 'Each contact that was merged into another, why, the rows that moved, and whether it was undone.';
comment on column public.contact_merges.moved is 'The rows that went from the loser to the winner, by table.';
create unique index contact_merges_one_winner on public.contact_merges (org_id, loser_id) where undone_at is null;
create index contact_merges_loser_idx on public.contact_merges (org_id, loser_id, id desc);
create index contact_merges_winner_idx on public.contact_merges (org_id, winner_id, id desc);
create index contact_merges_candidate_idx on public.contact_merges (candidate_id) where candidate_id is not null;

create trigger contact_merges_audit after insert or update or delete on public.contact_merges
  for each row execute function private.audit_change('all');

alter table public.contact_merges enable row level security, force row level security;
grant select on public.contact_merges to authenticated, service_role;
create policy "members read merges" on public.contact_merges for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')));
