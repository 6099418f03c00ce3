-- Attempts: each try of a delivery and how it ended.

create table public.delivery_attempts (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  delivery_id uuid not null references public.deliveries (id) on delete cascade,
  attempt     smallint not null,
  outcome     text not null,
  error       text,
  duration_ms integer,
  started_at  timestamptz,
  ended_at    timestamptz not null default clock_timestamp()
);
comment on table public.delivery_attempts is 'Each try of a delivery and how it ended.';
create index delivery_attempts_delivery_idx on public.delivery_attempts (delivery_id);
-- Failures only, so that a delivery that is done costs nothing here and the index stays small.
create index delivery_attempts_failed_idx on public.delivery_attempts (org_id, id) where outcome in ('retry', 'dead', 'lapsed');

alter table public.delivery_attempts enable row level security, force row level security;
grant select on public.delivery_attempts to authenticated, service_role;
create policy "members read delivery attempts" on public.delivery_attempts for select to authenticated
  using (org_id in (select private.my_orgs('deliveries.read')));
