-- Pull failures: items that could not be recorded, kept as they came, until they are recorded or a user dismisses them.
--
-- They hold the watermark until a user decides.

create type public.pull_failure_status as enum ('open', 'retry', 'resolved', 'dismissed');

create table public.pull_failures (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  source_id   uuid not null,
  key         text not null,
  item        text not null,
  reason      text not null,
  occurred_at timestamptz,
  status      public.pull_failure_status not null default 'open',
  attempts    integer not null default 1,
  event_id    uuid,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),

  constraint pull_failures_source foreign key (org_id, source_id) references public.pull_sources (org_id, id) on delete cascade,
  constraint pull_failures_once unique (source_id, key),
  constraint pull_failures_key_length check (length(key) between 1 and 300)
);
comment on table public.pull_failures is 'Pulled items that could not be recorded: kept as they came, until they are recorded or a user dismisses them.';
comment on column public.pull_failures.status is 'A user sets retry, and the next pull reads the item again, or dismissed.';
comment on column public.pull_failures.item is 'The item as JSON text: an item that jsonb refuses must be kept as well.';
create index pull_failures_source_idx on public.pull_failures (org_id, source_id, status);

create trigger pull_failures_touch before update on public.pull_failures
  for each row execute function private.touch_updated_at();
create trigger pull_failures_audit after update on public.pull_failures
  for each row execute function private.audit_change('users');

alter table public.pull_failures enable row level security, force row level security;
grant select on public.pull_failures to authenticated, service_role;
grant update (status) on public.pull_failures to authenticated;
create policy "members read pull failures" on public.pull_failures for select to authenticated
  using (org_id in (select private.my_orgs('pulls.read')));
create policy "operators decide about pull failures" on public.pull_failures for update to authenticated
  using (org_id in (select private.my_orgs('pull_failures.update')) and status <> 'resolved')
  with check (org_id in (select private.my_orgs('pull_failures.update')) and status <> 'resolved');
