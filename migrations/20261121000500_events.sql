-- The log: one row per happening, never changed, and the receipts that let a sender repeat itself.
--
-- events is partitioned month by month by its v7 id, so the primary key is the id alone and foreign keys stay
-- plain. Partitions live in private, where no API role reaches past the policies of the parent.

set lock_timeout = '5s';
set statement_timeout = '60s';

create table public.event_types (
  name        text primary key,
  description text not null,
  aliases     text[] not null default '{}',
  schema      jsonb not null default '{}',
  sample      jsonb not null default '{}',

  constraint event_types_form check (name ~ '^[a-z_]+\.[a-z_]+$')
);
comment on table public.event_types is 'The catalogue of what can happen.';

insert into public.event_types (name, description, aliases, schema, sample) values
  ('form.submitted', 'Somebody sent a form of a site.', '{form_submit}', '{"type": "object"}',
   '{"name": "Jo Smith", "email": "jo@example.com", "message": "Please ring me about a switchboard."}'),
  ('submission.quarantined', 'A submission that looks like spam; kept, not acted upon.', '{}',
   '{"type": "object", "required": ["reason", "submission"]}', '{"reason": "honeypot", "submission": {}}'),
  ('lead.qualified', 'An agent scored a lead.', '{}', '{"type": "object", "required": ["score", "band"]}',
   '{"score": 82, "band": "A", "next_step": "Ring within the hour."}'),
  ('delivery.dead', 'A delivery used up its attempts and waits for a person.', '{}',
   '{"type": "object", "required": ["delivery_id", "subscription", "error"]}',
   '{"delivery_id": "…", "subscription": "lead-qualifier", "error": "ValueError: …"}');

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
create index events_inbox_idx on public.events (org_id, type, id desc);
create index events_site_idx on public.events (org_id, site_id, id desc);
create index events_contact_idx on public.events (org_id, contact_id, id desc);
create index events_trace_idx on public.events (trace_id);
create index events_cause_idx on public.events (cause_id) where cause_id is not null;

create trigger events_append_only before update or delete on public.events
  for each row execute function private.refuse_change();
create trigger events_no_truncate before truncate on public.events
  for each statement execute function private.refuse_change();

-- A row out of every range (a clock years off) must not be lost: the default partition takes it.
create table private.events_elsewhere partition of public.events default;
create trigger events_no_truncate before truncate on private.events_elsewhere
  for each statement execute function private.refuse_change();

create function private.make_event_partitions(months_ahead integer default 3)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  month timestamptz;
  partition text;
  lower_bound uuid;
  upper_bound uuid;
  has_strays boolean;
  made integer := 0;
begin
  for month in
    select date_trunc('month', now(), 'UTC') + make_interval(months => ahead)
    from generate_series(0, months_ahead) as ahead
  loop
    partition := 'events_' || to_char(month at time zone 'UTC', 'YYYY_MM');
    continue when to_regclass('private.' || partition) is not null;
    lower_bound := private.uuid_v7_floor(month);
    upper_bound := private.uuid_v7_floor(month + interval '1 month');
    -- What the default partition took meanwhile stands in the way, and belongs here.
    select exists (select from private.events_elsewhere where id >= lower_bound and id < upper_bound) into has_strays;
    if has_strays then
      alter table public.events detach partition private.events_elsewhere;
    end if;
    execute format('create table private.%I partition of public.events for values from (%L) to (%L)',
      partition, lower_bound, upper_bound);
    if has_strays then
      -- Not through public.events: these happenings were dispatched when they came.
      execute format('insert into private.%I select * from private.events_elsewhere where id >= %L and id < %L',
        partition, lower_bound, upper_bound);
      delete from private.events_elsewhere where id >= lower_bound and id < upper_bound;
      alter table public.events attach partition private.events_elsewhere default;
    end if;
    execute format('create trigger events_no_truncate before truncate on private.%I for each statement execute function private.refuse_change()', partition);
    made := made + 1;
  end loop;
  return made;
end;
$$;
comment on function private.make_event_partitions is 'Make the partitions of events ahead of time; run often.';
select private.make_event_partitions();

create table public.receipts (
  source      text not null,
  key         text not null,
  org_id      uuid not null references public.organizations (id),
  body_sha256 bytea not null,
  event_id    uuid not null,
  created_at  timestamptz not null default now(),
  expires_at  timestamptz not null,

  primary key (source, key),
  constraint receipts_key_length check (length(key) between 1 and 300)
);
comment on table public.receipts is 'What was accepted under which key: the same again gets the first answer.';
create index receipts_expired_idx on public.receipts (expires_at);
create index receipts_org_idx on public.receipts (org_id);

alter table public.event_types enable row level security;
alter table public.event_types force row level security;
grant select on public.event_types to authenticated, service_role;
create policy "everybody signed in may read the catalogue" on public.event_types for select to authenticated
  using ((select auth.uid()) is not null);

alter table public.events enable row level security;
alter table public.events force row level security;
grant select on public.events to authenticated, service_role;
create policy "members read events, closers those of their leads" on public.events for select to authenticated
  using (org_id in (select private.my_orgs('events.read')) or contact_id in (select private.my_assigned_contacts()));

alter table public.receipts enable row level security;
alter table public.receipts force row level security;
grant select on public.receipts to authenticated, service_role;
create policy "members read receipts" on public.receipts for select to authenticated
  using (org_id in (select private.my_orgs('events.read')));
