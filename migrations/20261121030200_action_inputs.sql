-- Actions tell what the agent saw: its memory of the contact and what it left out of the text, beside the digest.
--
-- An agent says it within its output; here it gets a column of its own.

set lock_timeout = '5s';
set statement_timeout = '60s';

alter table public.agent_actions add column input jsonb not null default '{}';
comment on column public.agent_actions.input is 'What the agent saw beside the event: its memory of the contact, and what it left out.';

create function private.keep_action_input()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  new.input := new.output -> 'input';
  new.output := new.output - 'input';
  return new;
end;
$$;
comment on function private.keep_action_input is 'Trigger: what was seen stands apart from what was said.';
create trigger agent_actions_input before insert on public.agent_actions
  for each row when (jsonb_typeof(new.output -> 'input') = 'object') execute function private.keep_action_input();
