-- Memory: what an agent remembers of a contact or a site.

create table public.agent_memory (
  id              uuid primary key default private.uuid_v7(),
  org_id          uuid not null,
  agent_id        uuid not null,
  subject_type    text not null,
  subject_id      uuid not null,
  key             text not null,
  value           jsonb not null,
  source_event_id uuid,
  expires_at      timestamptz,
  updated_at      timestamptz not null default now(),

  constraint agent_memory_agent foreign key (org_id, agent_id) references public.agents (org_id, id) on delete cascade,
  constraint agent_memory_once unique (agent_id, subject_type, subject_id, key),
  constraint agent_memory_key_length check (length(key) between 1 and 100)
);
comment on table public.agent_memory is 'The facts that an agent remembers of a contact or a site.';
create index agent_memory_agent_idx on public.agent_memory (org_id, agent_id);

create trigger agent_memory_touch before update on public.agent_memory
  for each row execute function private.touch_updated_at();

alter table public.agent_memory enable row level security, force row level security;
grant select on public.agent_memory to authenticated, service_role;
create policy "members read what agents remember" on public.agent_memory for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')));
