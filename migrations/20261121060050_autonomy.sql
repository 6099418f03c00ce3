-- Autonomy: how far an agent may go by itself. What it may not do alone waits in its action for a person.

set lock_timeout = '5s';
set statement_timeout = '60s';

create type public.autonomy as enum ('off', 'draft', 'approve', 'auto');
create type public.review_state as enum ('pending', 'approved', 'rejected');

alter table public.agents add column autonomy public.autonomy not null default 'auto';
comment on column public.agents.autonomy is 'auto: decisions take effect; approve and draft: each waits for a person''s review; off: its deliveries wait.';
grant update (autonomy) on public.agents to authenticated;

alter table public.agent_actions
  add column review public.review_state,
  add column reviewed_by uuid,
  add column reviewed_at timestamptz,
  add column proposal jsonb;
comment on column public.agent_actions.proposal is 'What the decision would change, while it needs a person''s review.';
create index agent_actions_pending_idx on public.agent_actions (org_id, id desc) where review = 'pending';
