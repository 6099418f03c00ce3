-- Rehearsing: a version of an agent decides about past events, without effects.
--
-- A rehearsal's delivery is claimed like any other, after all live ones. Its would-be effects stay in its result.

create function private.rehearse_events(org_id uuid, filter jsonb, subscription text, version integer, dry_run boolean)
returns jsonb
language plpgsql set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  subscriber public.subscriptions;
  brain uuid;
  chosen uuid[];
  replay uuid;
  meant constant private.replay_filter := private.read_event_filter(org_id, filter);
begin
  select * into subscriber from public.subscriptions
  where subscriptions.org_id = rehearse_events.org_id and subscriptions.name = rehearse_events.subscription
    and subscriptions.agent_id is not null;
  if not found then
    return null;
  end if;
  select id into brain from public.agent_versions as versions
  where versions.agent_id = subscriber.agent_id
    and case when rehearse_events.version is null then versions.status = 'published' else versions.version = rehearse_events.version end;
  if brain is null then
    perform private.fail(404, 'unknown_version', 'This agent has no such version.');
  end if;

  chosen := array(
    select events.id
    from public.events
    where events.org_id = rehearse_events.org_id
      and private.wants(subscriber.event_types, events.type)
      and (events.cause_id is null or not private.has_acted_on_cause(events.cause_id, subscriber.id))
      and (meant.event_ids is null or events.id = any (meant.event_ids))
      and (meant.types is null or events.type = any (meant.types))
      and (meant.since is null or events.id >= meant.since)
      and (meant.until is null or events.id < meant.until)
      and (meant.site_ids is null or events.site_id = any (meant.site_ids))
      and (meant.contact_ids is null or events.contact_id = any (meant.contact_ids))
    order by events.id desc
    limit least(coalesce(meant.most, 1000), 10000));
  if dry_run or cardinality(chosen) = 0 then
    return jsonb_build_object('matched', cardinality(chosen));
  end if;

  insert into public.replays (org_id, mode, filter, subscription, version_id, asked_by, matched)
  values (rehearse_events.org_id, 'rehearsal', filter, subscriber.name, brain, (select auth.uid()), cardinality(chosen))
  returning id into replay;
  insert into public.deliveries (org_id, event_id, subscription_id, mode, replay_id, version_id)
  select subscriber.org_id, event_id, subscriber.id, 'rehearsal', replay, brain from unnest(chosen) as event_id;
  perform private.kick(willing.target) from private.willing_subscriptions as willing where willing.id = subscriber.id;
  return jsonb_build_object('matched', cardinality(chosen), 'replay_id', replay);
end;
$$;
comment on function private.rehearse_events is 'Let a version of an agent decide about past events, without effects: the latest 1000 unless the filter has a limit, 10000 at most. Null where no agent has such a subscription.';

create function private.prune_rehearsals()
returns void
language plpgsql set search_path = ''
as $$
begin
  delete from public.deliveries using public.replays
  where deliveries.org_id = replays.org_id and deliveries.replay_id = replays.id and deliveries.mode = 'rehearsal'
    and replays.mode = 'rehearsal' and replays.created_at < now() - interval '30 days';
  delete from public.replays where replays.mode = 'rehearsal' and replays.created_at < now() - interval '30 days';
end;
$$;
comment on function private.prune_rehearsals is 'Remove rehearsals that nobody compares any more.';
