-- Event names: one name for each kind, whatever a sender calls it, and a mark on what nobody knows.
--
-- private.canonical_type is the one place that knows aliases. Events and subscriptions are named by it when they
-- are written, so whoever reads compares names alone. An unknown kind is stored as it was called, and marked.

set lock_timeout = '5s';
set statement_timeout = '60s';

alter table public.event_types
  add column from_sites boolean not null default false,
  add column makes_lead boolean not null default false;
comment on column public.event_types.from_sites is 'A site may say that it happened; else only the hub does.';
comment on column public.event_types.makes_lead is 'Somebody asked for something: it opens a lead, and needs a way to answer.';

update public.event_types
set aliases = '{form_submit,form_submission,form_submitted,form}', from_sites = true, makes_lead = true
where name = 'form.submitted';

insert into public.event_types (name, description, aliases, from_sites, makes_lead, schema, sample) values
  ('booking.placed', 'Somebody booked a service for a time and a place.', '{booking,booking_placed,booking_created,booking.created}', true, true,
   '{"type": "object", "required": ["service", "address", "slot", "recurrence", "form"],
     "properties": {"service": {"type": ["string", "null"]}, "address": {"type": ["string", "null"]},
                    "slot": {"type": ["string", "null"]}, "recurrence": {"type": "string"}, "form": {"type": "object"}}}',
   '{"name": "Jo Smith", "email": "jo@example.com", "service": "Deep clean", "address": "12 Ponsonby Road, Auckland",
     "slot": "2026-12-01T09:30", "recurrence": "fortnightly",
     "form": {"full_name": "Jo Smith", "email_address": "jo@example.com", "service_type": "Deep clean",
              "service_address": "12 Ponsonby Road, Auckland", "booking_date": "2026-12-01", "booking_time": "9:30", "frequency": "every 2 weeks"}}'),
  ('lead.received', 'A lead came from a pipeline, an advertisement or a directory.', '{lead,new_lead,lead_received}', true, true,
   '{"type": "object"}', '{"name": "Jo Smith", "phone": "021 555 0147", "source": "directory", "message": "Wants a quote for rewiring."}'),
  ('call.received', 'Somebody rang.', '{voice_call,voice.call,call,call_received}', true, false,
   '{"type": "object"}', '{"phone": "+64215550147", "duration_seconds": 95, "summary": "Asked for a visit on Tuesday."}'),
  ('email.received', 'Somebody wrote an e-mail.', '{email,email_received,inbound_email}', true, false,
   '{"type": "object"}', '{"email": "jo@example.com", "subject": "Quote", "message": "Could you quote for a heat pump?"}');

create function private.canonical_type(type text)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  written text := lower(replace(canonical_type.type, '-', '_'));
begin
  return (select event_types.name from public.event_types
          where event_types.name = written or written = any (event_types.aliases));
end;
$$;
comment on function private.canonical_type is 'The name of a kind of event that may be called by an alias; null for an unknown one.';

create function private.canonical_types(types text[])
returns text[]
language sql
stable
set search_path = ''
as $$
  select coalesce(array_agg(coalesce(private.canonical_type(written.type), written.type) order by written.place), '{}')
  from unnest(types) with ordinality as written (type, place);
$$;
comment on function private.canonical_types is 'Names for names, aliases and patterns, in their order; what is unknown stays as it is.';

-- security definer: whoever may write a type need not be able to change subscriptions.
create function private.learn_event_type()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  taken text;
begin
  select other.name into taken from public.event_types as other
  where other.name <> new.name and (other.aliases || other.name) && (new.aliases || new.name);
  if taken is not null then
    perform private.fail(409, 'event_name_taken', new.name || ' or an alias of it is a name of ' || taken || '.');
  end if;
  update public.subscriptions set event_types = subscriptions.event_types where subscriptions.event_types && new.aliases;
  return null;
end;
$$;
comment on function private.learn_event_type is 'Trigger: a name means one thing; subscriptions that used an alias learn its name.';
create trigger event_types_learn after insert or update on public.event_types
  for each row execute function private.learn_event_type();

-- security definer: whoever may change a subscription need not be able to read the catalogue.
create function private.name_subscribed_types()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  new.event_types := private.canonical_types(new.event_types);
  return new;
end;
$$;
comment on function private.name_subscribed_types is 'Trigger: subscriptions hold names, not aliases.';
create trigger subscriptions_names before insert or update of event_types on public.subscriptions
  for each row execute function private.name_subscribed_types();

alter table public.events add column unrecognised boolean not null default false;
comment on column public.events.unrecognised is 'The catalogue did not know this type when the event came.';
-- On a partitioned table an index cannot be made concurrently; few rows are in this one.
-- squawk-ignore require-concurrent-index-creation
create index events_unrecognised_idx on public.events (org_id, id desc) where unrecognised;

create function private.name_event()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  name text;
begin
  -- The two names that nearly every event has need no look-up. Not a condition of the trigger, which would be parsed
  -- anew in every statement, at 25 µs.
  if new.type in ('form.submitted', 'lead.qualified') then
    new.unrecognised := false;
    return new;
  end if;
  name := private.canonical_type(new.type);
  new.unrecognised := name is null;
  new.type := coalesce(name, new.type);
  return new;
end;
$$;
comment on function private.name_event is 'Trigger: an event is stored under its name; a type that nobody knows is marked.';
create trigger events_name before insert on public.events
  for each row execute function private.name_event();
