-- The filter of a replay, read once: the events that it means, within one organization.

create type private.replay_filter as (
  event_ids uuid[], types text[], statuses public.delivery_status[], since uuid, until uuid, site_ids uuid[], contact_ids uuid[],
  replayed_before timestamptz, most integer);
comment on type private.replay_filter is 'The events that are meant, within one organization; a null field means any.';

create function private.read_replay_filter(org_id uuid, filter jsonb)
returns private.replay_filter
language plpgsql stable set search_path = ''
as $$
declare
  unknown text;
  meant private.replay_filter;
begin
  select key into unknown from jsonb_object_keys(filter) as key
  where key not in ('event_ids', 'types', 'statuses', 'since', 'until', 'site', 'contact_id', 'replayed_before', 'limit') limit 1;
  if unknown is not null then
    perform private.fail(422, 'unknown_filter', 'There is no filter ' || unknown || '.');
  end if;
  -- A delivery that waits or runs is never replayed.
  meant.statuses := array(
    select jsonb_array_elements_text(coalesce(filter -> 'statuses', '["failed", "dead"]')) except values ('pending'), ('running'));
  meant.since := private.uuid_v7_floor((filter ->> 'since')::timestamptz);
  meant.until := private.uuid_v7_floor((filter ->> 'until')::timestamptz);
  meant.replayed_before := filter ->> 'replayed_before';
  meant.most := filter ->> 'limit';
  if meant.most < 1 then
    perform private.fail(422, 'unreadable_filter', 'The limit is 1 or more.');
  end if;
  if filter ? 'event_ids' then
    meant.event_ids := array(select jsonb_array_elements_text(filter -> 'event_ids'));
  end if;
  if filter ? 'types' then
    meant.types := private.canonical_types(array(select jsonb_array_elements_text(filter -> 'types')));
  end if;
  if filter ? 'site' then
    meant.site_ids := array(
      select sites.id from public.sites where sites.org_id = read_replay_filter.org_id and sites.slug = filter ->> 'site');
  end if;
  if filter ? 'contact_id' then
    meant.contact_ids := private.contact_family((filter ->> 'contact_id')::uuid);
  end if;
  return meant;
exception when data_exception then
  perform private.fail(422, 'unreadable_filter', 'The filter cannot be read: ' || sqlerrm || '.');
end;
$$;
comment on function private.read_replay_filter is 'The filter of a request: only failed deliveries unless it names statuses, a contact with those merged into it. A filter that would silently not filter is refused.';
grant execute on function private.read_replay_filter to authenticated, service_role;

create function private.read_event_filter(org_id uuid, filter jsonb)
returns private.replay_filter
language plpgsql stable set search_path = ''
as $$
begin
  if filter ?| '{statuses,replayed_before}' then
    perform private.fail(422, 'unknown_filter', 'A rehearsal has no filter by statuses or replayed_before: it takes events whatever became of their deliveries.');
  end if;
  return private.read_replay_filter(org_id, filter);
end;
$$;
comment on function private.read_event_filter is 'The filter of a rehearsal, or of a comparison of two versions.';
grant execute on function private.read_event_filter to authenticated, service_role;
