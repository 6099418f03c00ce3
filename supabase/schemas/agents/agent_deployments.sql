-- Deployments: each publishing or rolling back of a version.

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
comment on table public.agent_deployments is 'Each publishing or rolling back of a version: by whom and when.';
create index agent_deployments_agent_idx on public.agent_deployments (org_id, agent_id, id desc);
create index agent_deployments_version_idx on public.agent_deployments (org_id, version_id);

alter table public.agent_deployments enable row level security, force row level security;
grant select on public.agent_deployments to authenticated, service_role;
create policy "members read agent deployments" on public.agent_deployments for select to authenticated
  using (org_id in (select private.my_orgs('agents.read')));
