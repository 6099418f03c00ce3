-- Writing one event; statements that write many insert them themselves.

create function private.write_event(
  org_id uuid, type text, data jsonb, source text default 'hub', site_id uuid default null, contact_id uuid default null,
  subject_type text default null, subject_id uuid default null, cause_id uuid default null, trace_id text default null,
  occurred_at timestamptz default null, id uuid default private.uuid_v7())
returns uuid
language plpgsql set search_path = ''
as $$
begin
  insert into public.events (id, org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, cause_id, occurred_at)
  values (
    write_event.id, write_event.org_id, write_event.site_id, write_event.type, write_event.contact_id, write_event.subject_type,
    write_event.subject_id, write_event.source, write_event.data,
    coalesce(write_event.trace_id, replace(gen_random_uuid()::text, '-', '')), write_event.cause_id,
    coalesce(write_event.occurred_at, now()));
  return write_event.id;
end;
$$;
comment on function private.write_event is 'Write an event; answers its id. The trace is a new one unless it is given.';
