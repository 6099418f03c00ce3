-- Pull sources: lists of partners that are fetched page by page.
--
-- They serve sites that cannot push, and find what a push lost. A source holds its cursor, and hub.record_page writes a
-- page's items and the cursor after it in one transaction, so a crash neither skips nor doubles.

create type public.pull_paging as enum ('cursor', 'since');

create table public.pull_sources (
  id              uuid primary key default private.uuid_v7(),
  org_id          uuid not null references public.organizations (id),
  site_id         uuid not null,
  name            text not null,
  url             text not null,
  paging          public.pull_paging not null default 'cursor',
  page_size       smallint not null default 100,
  kinds           text[] not null default '{form.submitted}',
  mapping         jsonb not null default '{}',
  id_prefix       text not null default '',
  pushes          boolean not null default false,
  every           interval not null default '15 minutes',
  enabled         boolean not null default true,
  cursor          text,
  watermark       timestamptz,
  gaps_since      timestamptz,
  items           bigint not null default 0,
  gaps            bigint not null default 0,
  next_at         timestamptz not null default now(),
  last_started_at timestamptz,
  last_success_at timestamptz,
  last_error      text,
  failures        integer not null default 0,
  lease_token     uuid,
  leased_until    timestamptz,
  created_at      timestamptz not null default now(),
  updated_at      timestamptz not null default now(),

  constraint pull_sources_of_org unique (org_id, id),
  constraint pull_sources_name_unique unique (org_id, name),
  constraint pull_sources_site foreign key (org_id, site_id) references public.sites (org_id, id),
  constraint pull_sources_name_form check (name ~ '^[a-z][a-z0-9-]{1,62}$'),
  -- A token goes along, so only loopback may do without TLS.
  constraint pull_sources_url_form check (url ~ '^(https://|http://(127\.0\.0\.1|localhost)[:/])[^\s@#]+$'),
  constraint pull_sources_page_size_range check (page_size between 1 and 500),
  constraint pull_sources_kinds_some check (cardinality(kinds) > 0),
  constraint pull_sources_mapping_of_names check (
    jsonb_typeof(mapping) = 'object' and not jsonb_path_exists(mapping, '$.* ? (@.type() != "string")')),
  constraint pull_sources_id_prefix_length check (length(id_prefix) <= 60),
  constraint pull_sources_every_range check (every between interval '1 minute' and interval '1 day'),
  constraint pull_sources_leased check ((lease_token is null) = (leased_until is null))
);
comment on table public.pull_sources is 'Lists of partners that are pulled: the URL, the cursor, and the time until which everything is here.';
comment on column public.pull_sources.kinds is 'The known event types that its items may be; the first is the type of items that do not say.';
comment on column public.pull_sources.mapping is 'Our names and the fields in which its items have them, such as {"id": "uuid", "email": "customer.mail"}.';
comment on column public.pull_sources.id_prefix is 'A prefix of its ids, needed when a second list of the same site counts from one again.';
comment on column public.pull_sources.pushes is 'Its site pushes as well: an item that only the pull brought counts as a gap.';
comment on column public.pull_sources.watermark is 'Everything that happened before this is here. It never goes back.';
comment on column public.pull_sources.gaps_since is 'When its end was first reached while its site pushes: an item that only the pull brought before then is history, not a gap.';
comment on column public.pull_sources.items is 'How many items were new; the events are those with source pull:<name>.';
comment on column public.pull_sources.gaps is 'How many items a push should have brought.';
comment on column public.pull_sources.failures is 'Failed pulls in a row.';
create index pull_sources_site_idx on public.pull_sources (org_id, site_id);
create index pull_sources_due_idx on public.pull_sources (next_at) where enabled;

create trigger pull_sources_touch before update on public.pull_sources
  for each row execute function private.touch_updated_at();
-- The cursor is not audited: the events tell how far a list was read.
create trigger pull_sources_audit after insert or delete
  or update of name, url, paging, page_size, kinds, mapping, id_prefix, pushes, every, enabled on public.pull_sources
  for each row execute function private.audit_change('all');

alter table public.pull_sources enable row level security, force row level security;
grant select on public.pull_sources to authenticated, service_role;
grant update (every, enabled) on public.pull_sources to authenticated;
create policy "members read pull sources" on public.pull_sources for select to authenticated
  using (org_id in (select private.my_orgs('pulls.read')));
create policy "admins change pull sources" on public.pull_sources for update to authenticated
  using (org_id in (select private.my_orgs('pulls.update')))
  with check (org_id in (select private.my_orgs('pulls.update')));

create function private.set_pull_token(source_id uuid, token text)
returns void
language plpgsql set search_path = ''
as $$
declare
  secret_name text := 'pull_source:' || source_id;
  known uuid;
begin
  perform from public.pull_sources where pull_sources.id = source_id for update;
  if not found then
    perform private.fail(404, 'unknown_pull_source', 'There is no such pull source.');
  end if;
  select secrets.id into known from vault.secrets where secrets.name = secret_name;
  if known is null then
    perform vault.create_secret(token, secret_name);
  else
    perform vault.update_secret(known, token);
  end if;
end;
$$;
comment on function private.set_pull_token is 'Give a pull source the bearer token that its partner wants.';
