-- Actions: one decision of one agent, with its input, reasons, confidence and outcome.

create type public.action_outcome as enum ('self_resolved', 'escalated', 'failed');

create type public.review_state as enum ('pending', 'approved', 'rejected');

create table public.agent_actions (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null,
  agent_id     uuid not null,
  agent        text not null,
  version_id   uuid not null,
  delivery_id  uuid not null references public.deliveries (id),
  event_id     uuid not null,
  contact_id   uuid,
  lead_id      uuid,
  decision     text not null,
  reasons      text[] not null default '{}',
  confidence   numeric(4, 3),
  outcome      public.action_outcome not null,
  input_digest text,
  input        jsonb not null default '{}',
  output       jsonb not null default '{}',
  proposal     jsonb,
  review       public.review_state,
  reviewed_by  uuid,
  reviewed_at  timestamptz,
  tokens       integer,
  cost_cents   numeric(12, 4),
  duration_ms  integer,
  trace_id     text not null,
  created_at   timestamptz not null default now(),

  constraint agent_actions_agent foreign key (org_id, agent_id) references public.agents (org_id, id),
  constraint agent_actions_version foreign key (org_id, version_id) references public.agent_versions (org_id, id),
  constraint agent_actions_contact foreign key (org_id, contact_id) references public.contacts (org_id, id),
  constraint agent_actions_lead foreign key (org_id, lead_id) references public.leads (org_id, id),
  constraint agent_actions_confidence_range check (confidence between 0 and 1)
);
comment on table public.agent_actions is 'One decision of one agent, with its input, reasons, confidence and outcome.';
comment on column public.agent_actions.input is 'The agent''s input beside the event: its memory of the contact, and the parts left out.';
comment on column public.agent_actions.proposal is 'The effects of the decision, while it needs a user''s review.';
create index agent_actions_agent_idx on public.agent_actions (org_id, agent_id, id desc);
create index agent_actions_version_idx on public.agent_actions (org_id, version_id);
create index agent_actions_event_idx on public.agent_actions (event_id);
create index agent_actions_contact_idx on public.agent_actions (org_id, contact_id, id desc);
create index agent_actions_lead_idx on public.agent_actions (org_id, lead_id);
create index agent_actions_pending_idx on public.agent_actions (org_id, id desc) where review = 'pending';
create unique index agent_actions_once on public.agent_actions (delivery_id) where outcome <> 'failed';
create index agent_actions_delivery_idx on public.agent_actions (delivery_id);

create trigger agent_actions_audit after update on public.agent_actions
  for each row execute function private.audit_change('users');

alter table public.agent_actions enable row level security, force row level security;
grant select on public.agent_actions to authenticated, service_role;
create policy "members read actions, closers those of their leads" on public.agent_actions for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')) or contact_id in (select private.my_assigned_contacts()));
