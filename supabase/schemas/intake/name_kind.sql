-- Naming a kind that sites send: from now on, and for events that have come already.

create function public.name_kind(kind text, means text)
returns integer
language sql set search_path = ''
as $$
  select private.name_kind_for_caller(kind, means);
$$;
comment on function public.name_kind is 'Let a kind that sites send mean a known type of event, from now on and for events that have come already. Answers how many those are.';
grant execute on function public.name_kind to service_role;

-- security definer: kinds are the hub's, not an organization's; only the secret key says what they mean.
create function private.name_kind_for_caller(kind text, means text)
returns integer
language plpgsql security definer set search_path = ''
as $$
declare
  written text := lower(replace(name_kind_for_caller.kind, '-', '_'));
  known text := private.canonical_type(name_kind_for_caller.means);
begin
  if known is null then
    perform private.fail(422, 'unknown_type', 'There is no kind of event ' || coalesce(name_kind_for_caller.means, 'without a name') || '.');
  end if;
  if written is null or written !~ '^[a-z][a-z0-9._]{0,99}$' then
    perform private.fail(422, 'bad_kind', 'A kind is a word such as quote_request.');
  end if;
  if private.canonical_type(written) is distinct from known then
    update public.event_types set aliases = aliases || written where event_types.name = known;
  end if;
  return private.recognise_events();
end;
$$;
comment on function private.name_kind_for_caller is 'Let a kind mean a known type of event.';
grant execute on function private.name_kind_for_caller to service_role;

create function private.recognise_events()
returns integer
language plpgsql set search_path = ''
as $$
declare
  unknown public.events;
  known public.event_types;
  lead uuid;
  recognised integer := 0;
begin
  -- Two at once would name the same events twice.
  perform pg_advisory_xact_lock(hashtextextended('recognise_events', 0));
  for unknown in
    select events.* from public.events
    where events.unrecognised and private.canonical_type(events.type) is not null
      and not exists (select from public.events as named where named.cause_id = events.id and named.source = 'hub' and named.type = private.canonical_type(events.type))
    order by events.id
    limit 5000
  loop
    select * into known from public.event_types where event_types.name = private.canonical_type(unknown.type);
    lead := case when known.makes_lead and unknown.contact_id is not null and unknown.site_id is not null
      then private.open_lead(unknown.org_id, unknown.contact_id, unknown.site_id, unknown.source) end;
    perform private.write_event(
      unknown.org_id, known.name, unknown.data, site_id => unknown.site_id, contact_id => unknown.contact_id,
      subject_type => case when lead is not null then 'lead' end, subject_id => lead,
      cause_id => unknown.id, trace_id => unknown.trace_id, occurred_at => unknown.occurred_at);
    recognised := recognised + 1;
  end loop;
  return recognised;
end;
$$;
comment on function private.recognise_events is 'Name unknown events whose kind has a name by now: each causes an event of that name, the oldest 5000 at once.';
