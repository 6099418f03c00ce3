-- Whether a subscription's patterns name an event type.

create function private.wants(patterns text[], type text)
returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
  -- A pattern can only end in a dot and a star, so a type has few that name it.
  return patterns && array[type, split_part(type, '.', 1) || '.*', '*'];
end;
$$;
comment on function private.wants is 'Whether one of the patterns names this event type.';
