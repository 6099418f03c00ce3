-- Pulls: what a partner's site lists is fetched page by page, for a site that cannot push, and to find what a push lost.
--
-- A source holds its cursor, and hub.record_page writes a page's items and the cursor after it in one transaction, so
-- a crash neither skips nor doubles. One pull of a source at a time: whoever lost the lease records nothing. An item
-- that cannot be recorded is kept in pull_failures, with its reason, and holds the watermark until a person decides.

set lock_timeout = '5s';
set statement_timeout = '60s';

create type public.pull_paging as enum ('cursor', 'since');
create type public.pull_failure_status as enum ('open', 'retry', 'resolved', 'dismissed');

insert into public.role_permissions (role, permission) values
  ('admin', 'pulls.read'), ('operator', 'pulls.read'), ('viewer', 'pulls.read'),
  ('admin', 'pulls.update'),
  ('admin', 'pull_failures.update'), ('operator', 'pull_failures.update');

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
comment on table public.pull_sources is 'A list of a partner''s that is pulled: where it is, how far it was read, and until when everything is here.';
comment on column public.pull_sources.kinds is 'Which known event types its items may be; the first is that of items that do not say.';
comment on column public.pull_sources.mapping is 'Our names and where its items have them, such as {"id": "uuid", "email": "customer.mail"}.';
comment on column public.pull_sources.id_prefix is 'Put before its ids, where a second list of the same site counts from one again.';
comment on column public.pull_sources.pushes is 'Its site pushes as well: what only the pull brought counts as a gap.';
comment on column public.pull_sources.watermark is 'Everything that happened before this is here. It never goes back.';
comment on column public.pull_sources.gaps_since is 'When its end was first reached while its site pushes: what only the pull brought before is history, not a gap.';
comment on column public.pull_sources.items is 'How many items were new; the events are those with source pull:<name>.';
comment on column public.pull_sources.gaps is 'How many of them a push should have brought.';
comment on column public.pull_sources.failures is 'Failed pulls in a row.';
create index pull_sources_site_idx on public.pull_sources (org_id, site_id);
create index pull_sources_due_idx on public.pull_sources (next_at) where enabled;

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
comment on table public.pull_failures is 'Pulled items that could not be recorded: kept as they came, until they are recorded or a person dismisses them.';
comment on column public.pull_failures.status is 'A person sets retry, and the next pull reads the item again, or dismissed.';
comment on column public.pull_failures.item is 'The item as JSON text: what jsonb refuses must be kept as well.';
create index pull_failures_source_idx on public.pull_failures (org_id, source_id, status);

create trigger pull_sources_touch before update on public.pull_sources
  for each row execute function private.touch_updated_at();
create trigger pull_failures_touch before update on public.pull_failures
  for each row execute function private.touch_updated_at();
-- Not how far it was read: that is told by the events.
create trigger pull_sources_audit after insert or delete
  or update of name, url, paging, page_size, kinds, mapping, id_prefix, pushes, every, enabled on public.pull_sources
  for each row execute function private.audit_change('all');
create trigger pull_failures_audit after update on public.pull_failures
  for each row execute function private.audit_change('people');

alter table public.pull_sources enable row level security;
alter table public.pull_sources force row level security;
grant select on public.pull_sources to authenticated, service_role;
-- Not the URL: to where the hub sends a token is its operator's to say.
grant update (every, enabled) on public.pull_sources to authenticated;
create policy "members read pull sources" on public.pull_sources for select to authenticated
  using (org_id in (select private.my_orgs('pulls.read')));
create policy "admins change pull sources" on public.pull_sources for update to authenticated
  using (org_id in (select private.my_orgs('pulls.update')))
  with check (org_id in (select private.my_orgs('pulls.update')));

alter table public.pull_failures enable row level security;
alter table public.pull_failures force row level security;
grant select on public.pull_failures to authenticated, service_role;
grant update (status) on public.pull_failures to authenticated;
create policy "members read pull failures" on public.pull_failures for select to authenticated
  using (org_id in (select private.my_orgs('pulls.read')));
create policy "operators decide about pull failures" on public.pull_failures for update to authenticated
  using (org_id in (select private.my_orgs('pull_failures.update')) and status <> 'resolved')
  with check (org_id in (select private.my_orgs('pull_failures.update')) and status <> 'resolved');

create function private.set_pull_token(source_id uuid, token text)
returns void
language plpgsql
set search_path = ''
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

create function private.due_pulls()
returns setof public.pull_sources
language sql
stable
set search_path = ''
as $$
  select pull_sources.*
  from public.pull_sources
  join public.sites on sites.id = pull_sources.site_id and sites.enabled
  join public.organizations on organizations.id = pull_sources.org_id and organizations.closed_at is null
  where pull_sources.enabled
    -- The clock ticks once a minute: what is due before the next tick is due now.
    and pull_sources.next_at <= now() + interval '30 seconds'
    and coalesce(pull_sources.leased_until, '-infinity') < now();
$$;
comment on function private.due_pulls is 'The sources that should be pulled now, and that nobody is pulling.';

create function private.wake_pulls()
returns bigint
language sql
set search_path = ''
as $$
  select private.invoke('pull-site') where exists (select from private.due_pulls());
$$;
comment on function private.wake_pulls is 'Call pull-site when a source is due; cron calls this.';

-- The doors of functions. security definer throughout: hub_service may touch no table itself.

create function hub.claim_pull(lease_seconds integer default 50)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  source public.pull_sources;
begin
  select pull_sources.* into source
  from public.pull_sources
  where pull_sources.id in (select due_pulls.id from private.due_pulls())
    -- Asked again of the row that is locked: another pull may have taken it meanwhile.
    and pull_sources.next_at <= now() + interval '30 seconds'
    and coalesce(pull_sources.leased_until, '-infinity') < now()
  order by pull_sources.next_at
  limit 1
  for update skip locked;
  if not found then
    return null;
  end if;

  update public.pull_sources
  set lease_token = gen_random_uuid(),
      leased_until = clock_timestamp() + make_interval(secs => least(claim_pull.lease_seconds, 600)),
      last_started_at = clock_timestamp(),
      -- Should this pull die, the others are not to wait behind it for ever.
      next_at = clock_timestamp() + interval '1 minute'
  where pull_sources.id = source.id
  returning * into source;

  return jsonb_build_object(
    'id', source.id, 'lease_token', source.lease_token, 'name', source.name, 'url', source.url,
    'paging', source.paging, 'page_size', source.page_size, 'mapping', source.mapping, 'id_prefix', source.id_prefix,
    'cursor', source.cursor,
    'phone_region', (select sites.phone_region from public.sites where sites.id = source.site_id),
    'token', (
      select decrypted_secrets.decrypted_secret from vault.decrypted_secrets
      where decrypted_secrets.name = 'pull_source:' || source.id),
    'retries', coalesce((
      select jsonb_agg(again.item order by again.id)
      from (
        select pull_failures.id, pull_failures.item
        from public.pull_failures
        where pull_failures.org_id = source.org_id and pull_failures.source_id = source.id and pull_failures.status = 'retry'
        order by pull_failures.id
        limit 100
      ) as again
    ), '[]'));
end;
$$;
comment on function hub.claim_pull is 'Take the source that has been due longest under a lease, with all that is needed to pull it; null when none is due.';
grant execute on function hub.claim_pull to hub_service;

create function private.record_pulled(source public.pull_sources, site public.sites, item jsonb)
returns text
language plpgsql
set search_path = ''
as $$
declare
  failure text := item ->> 'failure';
  -- By which an item is known that has no id, or whose id could not be read.
  content_key text := 'content:' || encode(sha256(convert_to(item ->> 'item', 'UTF8')), 'hex');
  item_key text := coalesce(item ->> 'key', content_key);
  written text;
  known public.event_types;
  kind text;
  recorded jsonb;
  rule text;
begin
  -- What is here already is not missing because its list tells it another way now.
  if failure is not null and exists (
    select from public.receipts where receipts.source = 'site:' || site.slug and receipts.key = 'key:' || item_key
  ) then
    return 'duplicates';
  end if;

  written := coalesce(item ->> 'kind', source.kinds[1]);
  select * into known from public.event_types where event_types.name = private.canonical_type(written);
  -- Stored as a push of an unknown kind is, for it opens nothing. What the hub alone says, nobody's list says for it.
  if known.name is null and item ->> 'kind' is not null then
    kind := written;
  elsif known.from_sites and known.name = any (private.canonical_types(source.kinds)) then
    kind := known.name;
  else
    failure := coalesce(failure, 'Its kind is not one of this source''s.');
  end if;

  if failure is null then
    begin
      recorded := private.record_submission(
        site, kind, is_sure => true, submission => item -> 'form',
        reading => case when kind = 'booking.placed' then item -> 'reading' end, contact => item -> 'contact',
        idempotency_key => item_key, submission_id => null, quarantine => item ->> 'quarantine', from_page => false,
        secret_id => null, occurred_at => (item ->> 'occurred_at')::timestamptz, trace_id => null, pulled_by => source.name);
    exception
      when serialization_failure or deadlock_detected then
        raise;
      when others then
        -- One that cannot be recorded must not take the others with it. Postgres' own words may quote what a
        -- customer wrote; its code, the rule's name and our own words do not.
        get stacked diagnostics rule = constraint_name;
        failure := case when sqlstate like 'PT%' then sqlerrm else concat_ws(' ', 'It could not be recorded:', sqlstate, nullif(rule, '')) end;
    end;
  end if;

  if failure is not null then
    insert into public.pull_failures (org_id, source_id, key, item, reason, occurred_at)
    values (source.org_id, source.id, item_key, item ->> 'item', left(failure, 500), (item ->> 'occurred_at')::timestamptz)
    on conflict on constraint pull_failures_once do update
      set item = excluded.item, reason = excluded.reason, occurred_at = excluded.occurred_at, event_id = null,
          attempts = pull_failures.attempts + 1,
          status = case when pull_failures.status = 'dismissed' then 'dismissed' else 'open' end::public.pull_failure_status;
  end if;
  update public.pull_failures set status = 'resolved', event_id = (recorded ->> 'event_id')::uuid
  where pull_failures.source_id = source.id and pull_failures.status <> 'resolved'
    and pull_failures.key in (item_key, content_key)
    and not (failure is not null and pull_failures.key = item_key);
  return case when failure is not null then 'failed' when (recorded ->> 'duplicate')::boolean then 'duplicates' else 'recorded' end;
end;
$$;
comment on function private.record_pulled is 'Record one pulled item as a push would have, or keep it with the reason why not.';

create function hub.record_page(
  source_id uuid,
  lease_token uuid,
  items jsonb,
  read_from text,
  next_cursor text default null,
  complete_until timestamptz default null,
  lease_seconds integer default 50)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  source public.pull_sources;
  site public.sites;
  item jsonb;
  outcome text;
  counts jsonb := '{"recorded": 0, "duplicates": 0, "failed": 0}';
begin
  -- The lease's token is the fence, and so is the cursor that the page was read from: somebody may have set it back.
  select * into source
  from public.pull_sources
  where pull_sources.id = record_page.source_id
    and pull_sources.lease_token = record_page.lease_token
    and pull_sources.enabled
    and pull_sources.cursor is not distinct from read_from
  for update;
  if not found then
    return jsonb_build_object('is_ours', false);
  end if;
  select * into site from public.sites where sites.id = source.site_id;

  for item in select value from jsonb_array_elements(items) loop
    outcome := private.record_pulled(source, site, item);
    counts := jsonb_set(counts, array[outcome], to_jsonb((counts ->> outcome)::integer + 1));
  end loop;

  update public.pull_sources
  set cursor = coalesce(next_cursor, pull_sources.cursor),
      leased_until = clock_timestamp() + make_interval(secs => least(record_page.lease_seconds, 600)),
      items = pull_sources.items + (counts ->> 'recorded')::integer,
      gaps = pull_sources.gaps
        + case when pull_sources.pushes and pull_sources.gaps_since is not null then (counts ->> 'recorded')::integer else 0 end,
      gaps_since = case
        when not pull_sources.pushes then null
        when complete_until is null then pull_sources.gaps_since
        else coalesce(pull_sources.gaps_since, clock_timestamp()) end,
      last_success_at = case when complete_until is null then pull_sources.last_success_at else clock_timestamp() end,
      -- greatest and least pass over nulls.
      watermark = case when complete_until is null then pull_sources.watermark else greatest(
        pull_sources.watermark,
        least(complete_until, clock_timestamp(), (
          select min(coalesce(pull_failures.occurred_at, pull_failures.created_at))
          from public.pull_failures
          where pull_failures.org_id = source.org_id and pull_failures.source_id = source.id
            and pull_failures.status in ('open', 'retry')))) end
  where pull_sources.id = source.id;
  return counts || '{"is_ours": true}';
end;
$$;
comment on function hub.record_page is 'Record a page of items and the cursor that follows it, if the lease is still ours; answers what became of them.';
grant execute on function hub.record_page to hub_service;

create function hub.release_pull(
  source_id uuid,
  lease_token uuid,
  is_complete boolean,
  error text default null,
  retry_after_seconds numeric default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  update public.pull_sources
  set lease_token = null,
      leased_until = null,
      last_error = left(release_pull.error, 500),
      failures = case when release_pull.error is null then 0 else pull_sources.failures + 1 end,
      next_at = case
        when release_pull.error is not null then clock_timestamp() + greatest(
          make_interval(secs => greatest(0, least(coalesce(retry_after_seconds, 0), 86400))),
          least(pull_sources.every, interval '1 minute' * power(2, least(pull_sources.failures, 12))))
        when is_complete then pull_sources.last_started_at + pull_sources.every
        -- The next tick goes on.
        else clock_timestamp() + interval '45 seconds' end
  where pull_sources.id = release_pull.source_id
    and pull_sources.lease_token = release_pull.lease_token;
  return jsonb_build_object('is_ours', found);
end;
$$;
comment on function hub.release_pull is 'Give a source back, and say when it is due again: after its time, at the next tick when there is more, later when it failed.';
grant execute on function hub.release_pull to hub_service;

select cron.schedule('pull_sites', '* * * * *', $$select private.wake_pulls()$$);
