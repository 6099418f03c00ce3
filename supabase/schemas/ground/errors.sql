-- Errors that a caller may see: SQLSTATE PTxyz is the HTTP status, detail the code.

create function private.fail(status integer, code text, message text)
returns void
language plpgsql set search_path = ''
as $$
begin
  raise exception '%', message using errcode = 'PT' || status, detail = code;
end;
$$;
comment on function private.fail is 'Raise an error with its HTTP status and code.';
grant execute on function private.fail to authenticated, service_role;
