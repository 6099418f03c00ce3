-- Sources: who an event came from, read from events.source.

create function private.is_from_outside(source text)
returns boolean
language sql immutable set search_path = ''
as $$
  select source ~ '^(site|pull|webhook|email|phone|sms|whatsapp|provider):';
$$;
comment on function private.is_from_outside is 'Whether somebody outside did the event of this source.';
grant execute on function private.is_from_outside to authenticated, service_role;
