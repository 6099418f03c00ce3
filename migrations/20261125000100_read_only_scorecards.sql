-- agent_scorecards refuses every write, as the other views over several rows do.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- Else a write is a 500: Postgres says what a view cannot do before it asks who may.
create trigger agent_scorecards_read_only instead of insert or update or delete on public.agent_scorecards
  for each row execute function private.refuse_change();
