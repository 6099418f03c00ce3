-- Invariants: rows of SQL that must answer nothing. A new guarantee is a new row.
--
-- An insert here runs SQL, so only migrations and postgres may: no API role holds a right to write here, and no function
-- takes SQL from anybody.

create table public.invariants (
  name         text primary key,
  description  text not null,
  sql          text not null,
  severity     public.alert_severity not null default 'critical',
  pauses       text,
  enabled      boolean not null default true,
  last_run_at  timestamptz,
  last_ms      integer,
  last_error   text,
  created_at   timestamptz not null default now(),

  constraint invariants_name_form check (name ~ '^[a-z][a-z0-9_]{1,60}$')
);
comment on table public.invariants is 'Guarantees: SQL that answers nothing, else org_id and found, a sentence, for each violation.';
comment on column public.invariants.sql is 'A query of the columns org_id, null for all organizations, and found. Run as hub_reader, read-only.';
comment on column public.invariants.pauses is 'The name of the agent that is paused when this is violated.';

alter table public.invariants enable row level security, force row level security;
grant select on public.invariants to authenticated, service_role;
create policy "who reads alerts reads what is watched" on public.invariants for select to authenticated
  using (exists (select from private.my_orgs('alerts.read')));

-- A timeout holds for a statement of the session, and for nothing within one: so each invariant is a statement.
-- security definer: a migration of another role may schedule no job of ours.
create function private.schedule_invariants()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform cron.schedule('run_invariants', '30 seconds', concat_ws('; ',
    'set statement_timeout = ''5s''',
    (select string_agg(format('select private.run_invariant(%L)', invariants.name), '; ' order by invariants.name)
     from public.invariants where invariants.enabled)));
  -- The alerts of an invariant that is no longer asked would never close.
  update public.alerts set closed_at = now()
  where alerts.kind in ('invariant', 'invariant_unchecked') and alerts.closed_at is null
    and not exists (select from public.invariants where invariants.name = alerts.subject and invariants.enabled);
  return null;
end;
$$;
comment on function private.schedule_invariants is 'Trigger: cron runs every enabled invariant, each as a statement of its own.';

create trigger invariants_schedule after insert or update of enabled or delete on public.invariants
  for each statement execute function private.schedule_invariants();

-- Invariants may use these beside the tables of public.
grant select on private.audit_heads, private.willing_subscriptions, private.due_work to hub_reader;
grant execute on function
  private.wants, private.has_acted_on_cause, private.is_echo, private.uuid_v7_floor, private.last_monitored, private.visible_contact
to hub_reader;
