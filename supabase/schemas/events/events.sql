-- Events: each is a thing that happened, with its time and its cause; never changed.
--
-- The table is partitioned month by month by its v7 id, so the primary key is the id alone. Partitions live in
-- private, where no API role reaches past the policies of the parent. work/dispatch_events.sql makes the deliveries.

create table public.events (
  id           uuid not null default private.uuid_v7(),
  org_id       uuid not null references public.organizations (id),
  site_id      uuid,
  type         text not null,
  contact_id   uuid,
  subject_type text,
  subject_id   uuid,
  source       text not null default 'sql',
  data         jsonb not null default '{}',
  trace_id     text not null default replace(gen_random_uuid()::text, '-', ''),
  cause_id     uuid,
  unrecognised boolean not null default false,
  occurred_at  timestamptz not null default now(),
  recorded_at  timestamptz not null default now(),

  constraint events_pkey primary key (id),
  constraint events_site foreign key (org_id, site_id) references public.sites (org_id, id),
  constraint events_contact foreign key (org_id, contact_id) references public.contacts (org_id, id),
  constraint events_data_object check (jsonb_typeof(data) = 'object'),
  constraint events_trace_form check (trace_id ~ '^[0-9a-f]{32}$')
) partition by range (id);
comment on table public.events is 'A thing that happened, with its time and its cause; never changed.';
comment on column public.events.cause_id is 'The event that led to this one. No foreign key: partitions are archived one by one.';
comment on column public.events.unrecognised is 'The catalogue did not know this type when the event came.';
create index events_inbox_idx on public.events (org_id, type, id desc);
create index events_site_idx on public.events (org_id, site_id, id desc);
create index events_contact_idx on public.events (org_id, contact_id, id desc);
create index events_trace_idx on public.events (trace_id);
create index events_cause_idx on public.events (cause_id) where cause_id is not null;
create index events_unrecognised_idx on public.events (org_id, id desc) where unrecognised;

create function private.name_event()
returns trigger
language plpgsql set search_path = ''
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

create trigger events_append_only before update or delete on public.events
  for each row execute function private.refuse_change();
create trigger events_no_truncate before truncate on public.events
  for each statement execute function private.refuse_change();
create trigger events_name before insert on public.events
  for each row execute function private.name_event();

alter table public.events enable row level security, force row level security;
grant select on public.events to authenticated, service_role;
create policy "members read events, closers those of their leads" on public.events for select to authenticated
  using (org_id in (select private.my_orgs('events.read')) or contact_id in (select private.my_assigned_contacts()));

-- A row out of every range (a clock years off) must not be lost: the default partition takes it.
create table private.events_elsewhere partition of public.events default;

create trigger events_no_truncate before truncate on private.events_elsewhere
  for each statement execute function private.refuse_change();
