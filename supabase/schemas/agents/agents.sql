-- Agents: each decides about events of some types. A version is its brain at a moment.

create type public.agent_status as enum ('idle', 'running', 'paused', 'blocked');

create type public.autonomy as enum ('off', 'draft', 'approve', 'auto');

create table public.agents (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  site_id    uuid,
  kind       text not null,
  name       text not null,
  status     public.agent_status not null default 'idle',
  autonomy   public.autonomy not null default 'auto',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),

  constraint agents_of_org unique (org_id, id),
  constraint agents_name_unique unique (org_id, name),
  constraint agents_site foreign key (org_id, site_id) references public.sites (org_id, id)
);
comment on table public.agents is 'Something that decides: lead qualifier, email responder, voice intake.';
comment on column public.agents.autonomy is 'auto: decisions take effect; approve and draft: each waits for a user''s review; off: its deliveries wait.';
create index agents_site_idx on public.agents (org_id, site_id);

create trigger agents_touch before update on public.agents
  for each row execute function private.touch_updated_at();
create trigger agents_audit after insert or update or delete on public.agents
  for each row execute function private.audit_change('all');

alter table public.agents enable row level security, force row level security;
grant select on public.agents to authenticated, service_role;
grant update (status, autonomy) on public.agents to authenticated;
create policy "members read agents" on public.agents for select to authenticated
  using (org_id in (select private.my_orgs('agents.read')));
create policy "operators pause agents" on public.agents for update to authenticated
  using (org_id in (select private.my_orgs('agents.pause')))
  with check (org_id in (select private.my_orgs('agents.pause')));
