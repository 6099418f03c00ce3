-- Versions: an agent's rules, prompt, model and limits at a moment. A published one is never edited.

create type public.version_status as enum ('draft', 'published', 'archived');

create table public.agent_versions (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null,
  agent_id     uuid not null,
  version      integer not null,
  config       jsonb not null,
  status       public.version_status not null default 'draft',
  published_at timestamptz,
  created_at   timestamptz not null default now(),

  constraint agent_versions_of_org unique (org_id, id),
  constraint agent_versions_agent foreign key (org_id, agent_id) references public.agents (org_id, id) on delete cascade,
  constraint agent_versions_number unique (agent_id, version),
  constraint agent_versions_published_at check ((status = 'draft') = (published_at is null))
);
comment on table public.agent_versions is 'An agent''s brain at a moment: rules, prompt, model, limits.';
create unique index agent_versions_one_published on public.agent_versions (agent_id) where status = 'published';
create index agent_versions_agent_idx on public.agent_versions (org_id, agent_id);

create function private.guard_agent_version()
returns trigger
language plpgsql set search_path = ''
as $$
begin
  if old.status <> 'draft' and (new.config, new.version, new.agent_id) is distinct from (old.config, old.version, old.agent_id) then
    perform private.fail(409, 'version_published', 'A published version is never edited; make a new one.');
  end if;
  return new;
end;
$$;

create trigger agent_versions_immutable before update on public.agent_versions
  for each row execute function private.guard_agent_version();
create trigger agent_versions_audit after insert or update or delete on public.agent_versions
  for each row execute function private.audit_change('all');

alter table public.agent_versions enable row level security, force row level security;
grant select on public.agent_versions to authenticated, service_role;
create policy "members read agent versions" on public.agent_versions for select to authenticated
  using (org_id in (select private.my_orgs('agents.read')));
