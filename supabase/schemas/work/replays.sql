-- Replays: requests that put deliveries in line again, or let a version decide about the past.
--
-- A replay is a row and its deliveries point to it, so its progress is a count and a kill changes nothing.

create type public.delivery_mode as enum ('live', 'rehearsal');

create table public.replays (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null references public.organizations (id),
  mode         public.delivery_mode not null,
  filter       jsonb not null,
  subscription text,
  version_id   uuid,
  asked_by     uuid,
  matched      integer not null,
  created_at   timestamptz not null default now(),

  constraint replays_of_org unique (org_id, id),
  constraint replays_version foreign key (org_id, version_id) references public.agent_versions (org_id, id) on delete cascade
);
comment on table public.replays is 'Requests that put deliveries in line again (live), or let a version decide about the past (rehearsal).';
create index replays_list_idx on public.replays (org_id, id desc);
create index replays_version_idx on public.replays (org_id, version_id);

alter table public.replays enable row level security, force row level security;
grant select on public.replays to authenticated, service_role;
create policy "members read replays" on public.replays for select to authenticated
  using (org_id in (select private.my_orgs('deliveries.read')));
