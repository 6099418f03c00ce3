-- Recording a page of a list and the cursor that follows it; a pull that lost its lease records nothing.

-- security definer: hub_service may touch no table itself.
create function hub.record_page(
  source_id uuid,
  lease_token uuid,
  items jsonb,
  read_from text,
  next_cursor text default null,
  complete_until timestamptz default null,
  lease_seconds integer default 50)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  source public.pull_sources;
  site public.sites;
  item jsonb;
  outcome text;
  counts jsonb := '{"recorded": 0, "duplicates": 0, "failed": 0}';
begin
  -- The lease's token is the fence, and so is the cursor that the page was read from: a user may have set it back.
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
comment on function hub.record_page is 'Record a page of items and the cursor that follows it, if the lease is still held; answers how many were recorded, duplicates and failed.';
grant execute on function hub.record_page to hub_service;

create function private.record_pulled(source public.pull_sources, site public.sites, item jsonb)
returns text
language plpgsql set search_path = ''
as $$
declare
  failure text := item ->> 'failure';
  -- The key of an item that has no id, or whose id could not be read.
  content_key text := 'content:' || encode(sha256(convert_to(item ->> 'item', 'UTF8')), 'hex');
  item_key text := coalesce(item ->> 'key', content_key);
  written text;
  known public.event_types;
  kind text;
  said private.submission;
  recorded jsonb;
  rule text;
begin
  -- An item that is recorded is not missing because its list now tells it otherwise.
  if failure is not null and exists (
    select from public.receipts where receipts.source = 'site:' || site.slug and receipts.key = 'key:' || item_key
  ) then
    return 'duplicates';
  end if;

  written := coalesce(item ->> 'kind', source.kinds[1]);
  select * into known from public.event_types where event_types.name = private.canonical_type(written);
  -- An unknown kind is stored as a push of one is, for it opens nothing. A kind that only the hub may say is refused.
  if known.name is null and item ->> 'kind' is not null then
    kind := written;
  elsif known.from_sites and known.name = any (private.canonical_types(source.kinds)) then
    kind := known.name;
  else
    failure := coalesce(failure, 'Its kind is not one of this source''s.');
  end if;

  if failure is null then
    begin
      said := jsonb_populate_record(null::private.submission, item);
      said.kind := kind;
      said.idempotency_key := item_key;
      said.pulled_by := source.name;
      said.secret_id := null;
      said.from_page := false;
      recorded := private.record_once(site, said);
    exception
      when serialization_failure or deadlock_detected then
        raise;
      when others then
        -- An item that cannot be recorded must not take the others with it. Postgres' own words may quote a customer;
        -- its code, the rule's name and our own words do not.
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
