-- Receipts: each submission that was accepted, by its keys. The same submission again gets the first answer.

create table public.receipts (
  source      text not null,
  key         text not null,
  org_id      uuid not null references public.organizations (id),
  body_sha256 bytea,
  event_id    uuid not null,
  secret_id   uuid,
  created_at  timestamptz not null default now(),
  expires_at  timestamptz not null,

  primary key (source, key),
  constraint receipts_key_length check (length(key) between 1 and 300)
);
comment on table public.receipts is 'Each submission that was accepted, by its keys: the same submission again gets the first answer.';
comment on column public.receipts.secret_id is 'The secret that proved its site, so that a secret can be ended when nobody uses it any more. No foreign key: it would cost a look-up for each form.';
comment on column public.receipts.body_sha256 is 'Null for a pulled submission: any body under this key is the same submission.';
create index receipts_expired_idx on public.receipts (expires_at);
create index receipts_org_idx on public.receipts (org_id);

alter table public.receipts enable row level security, force row level security;
grant select on public.receipts to authenticated, service_role;
create policy "members read receipts" on public.receipts for select to authenticated
  using (org_id in (select private.my_orgs('events.read')));
