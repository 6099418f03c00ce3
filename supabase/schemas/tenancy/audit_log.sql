-- The audit log: each change with its user, before and after, in a chain that shows every later tampering.
--
-- Each row carries the SHA-256 of itself and of the row before it in its organization; the head keeps the last one's
-- apart. Nobody may update, delete or truncate. Tampering with the triggers switched off is found by
-- private.verify_audit_log, unless the whole chain and its head were written anew.

create table public.audit_log (
  org_id        uuid not null references public.organizations (id),
  number        bigint not null,
  actor_type    text not null,
  actor_id      uuid,
  action        text not null,
  resource_type text not null,
  resource_id   text not null,
  before        jsonb,
  after         jsonb,
  at            timestamptz not null default now(),
  hash          bytea not null,

  primary key (org_id, number)
);
comment on table public.audit_log is 'Each change with its user; append-only, hash-chained per organization.';
create index audit_log_resource_idx on public.audit_log (org_id, resource_type, resource_id, number desc);

create trigger audit_log_append_only before update or delete on public.audit_log
  for each row execute function private.refuse_change();
create trigger audit_log_no_truncate before truncate on public.audit_log
  for each statement execute function private.refuse_change();

alter table public.audit_log enable row level security, force row level security;
grant select on public.audit_log to authenticated, service_role;
create policy "admins read the audit log" on public.audit_log for select to authenticated
  using (org_id in (select private.my_orgs('audit.read')));

create table private.audit_heads (
  org_id uuid primary key references public.organizations (id),
  number bigint not null,
  hash   bytea not null
);
comment on table private.audit_heads is 'The last entry of each organization''s audit log.';

create function private.write_audit(
  org_id uuid, action text, resource_type text, resource_id text, before jsonb default null, after jsonb default null)
returns void
language plpgsql set search_path = ''
as $$
declare
  entry public.audit_log;
  last private.audit_heads;
  doer uuid := (select auth.uid());
begin
  -- A chain has one end: writers of one organization take turns.
  insert into private.audit_heads (org_id, number, hash) values (write_audit.org_id, 0, '\x') on conflict do nothing;
  select * into last from private.audit_heads where audit_heads.org_id = write_audit.org_id for update;

  entry := row(
    write_audit.org_id, last.number + 1, case when doer is null then 'hub' else 'user' end, doer,
    write_audit.action, write_audit.resource_type, write_audit.resource_id, write_audit.before, write_audit.after, now(), '\x');
  entry.hash := private.audit_hash(last.hash, entry);
  insert into public.audit_log select entry.*;
  update private.audit_heads set number = entry.number, hash = entry.hash where audit_heads.org_id = entry.org_id;
end;
$$;
comment on function private.write_audit is 'Add an entry to an organization''s audit log.';

create function private.audit_hash(previous bytea, entry public.audit_log)
returns bytea
language sql immutable set search_path = ''
as $$
  select sha256(coalesce(previous, '\x') || convert_to(jsonb_build_array(
    entry.org_id, entry.number, entry.actor_type, entry.actor_id, entry.action, entry.resource_type, entry.resource_id,
    entry.before, entry.after, extract(epoch from entry.at))::text, 'UTF8'));
$$;
comment on function private.audit_hash is 'The hash of an entry, given the hash of the one before it.';

create function private.verify_audit_log(org_id uuid)
returns bigint
language sql stable set search_path = ''
as $$
  select min(chain.number)
  from (
    select audit_log.number,
           audit_log.hash = private.audit_hash(lag(audit_log.hash) over turn, audit_log) as is_true,
           audit_log.number = row_number() over turn as is_next
    from public.audit_log
    where audit_log.org_id = verify_audit_log.org_id
    window turn as (order by audit_log.number)
  ) as chain
  where not (chain.is_true and chain.is_next)
  having min(chain.number) is not null
  union all
  select audit_heads.number
  from private.audit_heads
  where audit_heads.org_id = verify_audit_log.org_id
    and not exists (
      select from public.audit_log
      where audit_log.org_id = audit_heads.org_id and audit_log.number = audit_heads.number and audit_log.hash = audit_heads.hash)
  limit 1;
$$;
comment on function private.verify_audit_log is 'The number of the first entry that was changed, or before which one is missing; null when the log is whole.';
