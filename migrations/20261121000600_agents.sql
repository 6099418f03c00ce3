-- Agents: what decides, by which version of its brain, and what it decided.
--
-- A published version is never edited; publishing another one archives it. Every decision is a row with
-- the event it was about, the version that made it, its reasons and its outcome.

set lock_timeout = '5s';
set statement_timeout = '60s';

create type public.agent_status as enum ('idle', 'running', 'paused', 'blocked');
create type public.version_status as enum ('draft', 'published', 'archived');
create type public.action_outcome as enum ('self_resolved', 'escalated', 'failed');

create table public.agents (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  site_id    uuid,
  kind       text not null,
  name       text not null,
  status     public.agent_status not null default 'idle',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),

  constraint agents_of_org unique (org_id, id),
  constraint agents_name_unique unique (org_id, name),
  constraint agents_site foreign key (org_id, site_id) references public.sites (org_id, id)
);
comment on table public.agents is 'Something that decides: lead qualifier, email responder, voice intake.';
create index agents_site_idx on public.agents (org_id, site_id);

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

create table public.agent_deployments (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  agent_id    uuid not null,
  version_id  uuid not null,
  deployed_by uuid,
  deployed_at timestamptz not null default now(),

  constraint agent_deployments_agent foreign key (org_id, agent_id) references public.agents (org_id, id) on delete cascade,
  constraint agent_deployments_version foreign key (org_id, version_id) references public.agent_versions (org_id, id) on delete cascade
);
comment on table public.agent_deployments is 'Who published or rolled back which version when.';
create index agent_deployments_agent_idx on public.agent_deployments (org_id, agent_id, id desc);
create index agent_deployments_version_idx on public.agent_deployments (org_id, version_id);

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
comment on table public.agent_memory is 'What an agent remembers of a contact or a site.';
create index agent_memory_agent_idx on public.agent_memory (org_id, agent_id);

create trigger agents_touch before update on public.agents
  for each row execute function private.touch_updated_at();
create trigger agent_memory_touch before update on public.agent_memory
  for each row execute function private.touch_updated_at();

create function private.guard_agent_version()
returns trigger
language plpgsql
set search_path = ''
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

create function private.publish_version(agent_id uuid, version integer)
returns uuid
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  chosen public.agent_versions;
begin
  -- One publishing at a time per agent.
  perform from public.agents where agents.id = publish_version.agent_id for update;
  select * into chosen from public.agent_versions as versions
  where versions.agent_id = publish_version.agent_id and versions.version = publish_version.version;
  if chosen.id is null then
    perform private.fail(404, 'unknown_version', 'This agent has no such version.');
  end if;

  update public.agent_versions set status = 'archived'
  where agent_versions.agent_id = publish_version.agent_id and status = 'published' and id <> chosen.id;
  update public.agent_versions set status = 'published', published_at = coalesce(published_at, now())
  where id = chosen.id;
  insert into public.agent_deployments (org_id, agent_id, version_id, deployed_by)
  values (chosen.org_id, chosen.agent_id, chosen.id, (select auth.uid()));
  return chosen.id;
end;
$$;
comment on function private.publish_version is 'Publish a version, or go back to an earlier one; the history keeps both.';

alter table public.agents enable row level security;
alter table public.agents force row level security;
grant select on public.agents to authenticated, service_role;
grant update (status) on public.agents to authenticated;
create policy "members read agents" on public.agents for select to authenticated
  using (org_id in (select private.my_orgs('agents.read')));
create policy "operators pause agents" on public.agents for update to authenticated
  using (org_id in (select private.my_orgs('agents.pause')))
  with check (org_id in (select private.my_orgs('agents.pause')));

alter table public.agent_versions enable row level security;
alter table public.agent_versions force row level security;
grant select on public.agent_versions to authenticated, service_role;
create policy "members read agent versions" on public.agent_versions for select to authenticated
  using (org_id in (select private.my_orgs('agents.read')));

alter table public.agent_deployments enable row level security;
alter table public.agent_deployments force row level security;
grant select on public.agent_deployments to authenticated, service_role;
create policy "members read agent deployments" on public.agent_deployments for select to authenticated
  using (org_id in (select private.my_orgs('agents.read')));

alter table public.agent_memory enable row level security;
alter table public.agent_memory force row level security;
grant select on public.agent_memory to authenticated, service_role;
create policy "members read what agents remember" on public.agent_memory for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')));
