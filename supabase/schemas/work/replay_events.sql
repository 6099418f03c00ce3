-- Replaying: failed deliveries are put in line again. Effects that happened do not happen again.

create function public.replay_events(
  filter jsonb default '{}', subscription text default null, mode text default 'live', version integer default null, dry_run boolean default true)
returns jsonb
language sql set search_path = ''
as $$
  -- A null dry_run is an argument left out: it never means to replay.
  select private.replay_events_for_caller(coalesce(filter, '{}'), subscription, coalesce(mode, 'live'), version, coalesce(dry_run, true));
$$;
comment on function public.replay_events is 'Put failed deliveries in line again, or (mode rehearsal) let a version decide about past events without effects. Filter: event_ids, types, statuses, since, until, site, contact_id, replayed_before, limit. At most 5000 at once: while more is true, ask again, with the first answer''s began as replayed_before. A dry run unless told otherwise.';
grant execute on function public.replay_events to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission to replay.
create function private.replay_events_for_caller(filter jsonb, subscription text, mode text, version integer, dry_run boolean)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  organization uuid;
  organizations uuid[] := '{}';
  replayed jsonb;
  ids jsonb := '[]';
  matched integer := 0;
  is_known boolean := false;
  more boolean := false;
begin
  if mode not in ('live', 'rehearsal') then
    perform private.fail(422, 'unknown_mode', 'The mode is live or rehearsal.');
  end if;
  if mode = 'live' and version is not null then
    perform private.fail(422, 'version_in_live_mode', 'Live deliveries are handled by the published version.');
  end if;

  for organization in
    select private.caller_orgs('events.replay')
  loop
    organizations := organizations || organization;
    replayed := case mode
      when 'live' then private.replay_deliveries(organization, filter, subscription, dry_run)
      else private.rehearse_events(organization, filter, subscription, version, dry_run) end;
    matched := matched + coalesce((replayed ->> 'matched')::integer, 0);
    is_known := is_known or replayed is not null;
    more := more or coalesce((replayed ->> 'more')::boolean, false);
    ids := ids || coalesce(replayed -> 'replay_id', '[]');
  end loop;
  if organization is null then
    perform private.fail(403, 'not_permitted', 'Your role may not replay events.');
  end if;
  if not is_known then
    perform private.fail(422, 'unknown_subscription', 'A rehearsal needs the name of an agent''s subscription.');
  end if;
  -- Without this a mistyped name would look like nothing to do.
  if subscription is not null and not exists (
    select from public.subscriptions
    where subscriptions.org_id = any (organizations) and subscriptions.name = replay_events_for_caller.subscription)
  then
    perform private.fail(422, 'unknown_subscription', format('You have no subscription %s.', subscription));
  end if;
  if filter ? 'site' and not exists (
    select from public.sites where sites.org_id = any (organizations) and sites.slug = filter ->> 'site')
  then
    perform private.fail(422, 'unknown_site', format('You have no site %s.', filter ->> 'site'));
  end if;
  return jsonb_build_object(
    'matched', matched, 'more', more, 'began', now(), 'dry_run', dry_run, 'mode', mode, 'replay_ids', ids);
end;
$$;
comment on function private.replay_events_for_caller is 'Replay within the caller''s organizations.';
grant execute on function private.replay_events_for_caller to authenticated, service_role;

create function private.replay_deliveries(org_id uuid, filter jsonb, subscription text, dry_run boolean)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  -- One request can do no more before REST ends it; the next request takes the next deliveries.
  most constant integer := 5000;
  chosen uuid[];
  replay uuid;
  subscriptions uuid[];
  matched integer;
  is_all boolean;
  meant constant private.replay_filter := private.read_replay_filter(org_id, filter);
begin
  if dry_run then
    return (
      select jsonb_build_object('matched', count(*), 'more', count(*) = 100000)
      from private.chosen_for_replay(replay_deliveries.org_id, meant, replay_deliveries.subscription, 100000));
  end if;
  chosen := array(select private.chosen_for_replay(replay_deliveries.org_id, meant, replay_deliveries.subscription, most));
  if cardinality(chosen) = 0 then
    return jsonb_build_object('matched', 0);
  end if;

  is_all := cardinality(chosen) < most;
  insert into public.replays (org_id, mode, filter, subscription, asked_by, matched)
  values (replay_deliveries.org_id, 'live', filter, replay_deliveries.subscription, (select auth.uid()), cardinality(chosen))
  returning id into replay;
  -- The status is asked again: one of the deliveries may have been done meanwhile.
  with replayed as (
    update public.deliveries
    set status = 'pending', attempts = 0, run_at = now(), replay_id = replay
    where deliveries.id = any (chosen) and deliveries.status = any (meant.statuses)
    returning deliveries.id, deliveries.subscription_id
  )
  select array_agg(replayed.id), array_agg(distinct replayed.subscription_id), count(*) into chosen, subscriptions, matched from replayed;
  update public.alerts set closed_at = now()
  where alerts.org_id = replay_deliveries.org_id and alerts.kind = 'delivery_dead' and alerts.closed_at is null
    and alerts.subject in (select id::text from unnest(chosen) as id);
  perform private.write_audit(replay_deliveries.org_id, 'replay', 'deliveries', coalesce(replay_deliveries.subscription, '*'), null,
    jsonb_build_object('replay_id', replay, 'filter', filter, 'deliveries', matched));
  perform private.kick(waiting.target)
  from (select distinct target from private.willing_subscriptions where id = any (subscriptions)) as waiting;
  return jsonb_build_object('matched', matched, 'replay_id', replay, 'more', not is_all);
end;
$$;
comment on function private.replay_deliveries is 'Put deliveries in line again. Effects that happened do not happen again.';

create function private.chosen_for_replay(org_id uuid, meant private.replay_filter, subscription text, most integer)
returns setof uuid
language plpgsql stable set search_path = ''
-- A plan for each filter: that for one event differs from that for all of a month.
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  select deliveries.id
  from public.deliveries
  join public.events on events.id = deliveries.event_id
  join public.subscriptions on subscriptions.id = deliveries.subscription_id
  where deliveries.org_id = chosen_for_replay.org_id
    and deliveries.mode = 'live'
    and deliveries.status = any (meant.statuses)
    and (chosen_for_replay.subscription is null or subscriptions.name = chosen_for_replay.subscription)
    and (meant.event_ids is null or deliveries.event_id = any (meant.event_ids))
    and (meant.types is null or events.type = any (meant.types))
    and (meant.since is null or deliveries.event_id >= meant.since)
    and (meant.until is null or deliveries.event_id < meant.until)
    and (meant.site_ids is null or events.site_id = any (meant.site_ids))
    and (meant.contact_ids is null or events.contact_id = any (meant.contact_ids))
    and (meant.replayed_before is null or not exists (
      select from public.replays where replays.id = deliveries.replay_id and replays.created_at >= meant.replayed_before))
  order by deliveries.id
  limit least(meant.most, most);
end;
$$;
comment on function private.chosen_for_replay is 'The deliveries that a filter means, the oldest of them first.';
