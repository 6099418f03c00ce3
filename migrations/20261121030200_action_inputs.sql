-- Actions tell what the agent saw: its memory of the contact and what it left out of the text, beside the digest.

set lock_timeout = '5s';
set statement_timeout = '60s';

alter table public.agent_actions add column input jsonb not null default '{}';
comment on column public.agent_actions.input is 'What the agent saw beside the event: its memory of the contact, and what it left out.';
