-- The steps of settling: the deliveries whose lease is held are locked, and what became of them is written.

-- The lease's token is the fence: a function that was late, or was killed and came back, changes nothing.
-- Locked in the order of their ids, so that two batches never lock crosswise.
create function private.hold_deliveries(settlements jsonb)
returns private.settling[]
language plpgsql set search_path = ''
as $$
begin
  return (
    select array_agg(locked.settling)
    from (
      select row(
        deliveries.id, deliveries.org_id, deliveries.subscription_id, deliveries.attempts, subscriptions.max_attempts,
        subscriptions.retry_base, deliveries.claimed_at,
        said.outcome, left(said.error, 2000), said.duration_ms, said.retry_after_seconds,
        case when deliveries.mode = 'rehearsal' and said.effects is not null
          then coalesce(said.result, '{}') || jsonb_build_object('effects', said.effects) else said.result end,
        case
          when said.outcome <> 'done' or deliveries.mode <> 'live' or deliveries.effects_applied_at is not null then null
          when agents.autonomy <> 'auto' then private.proposed(said.effects)
          else said.effects end,
        events.id, events.occurred_at, events.site_id, events.contact_id, events.subject_type, events.subject_id, events.trace_id,
        agents.id, agents.name, versions.id
      )::private.settling as settling
      from jsonb_to_recordset(settlements) as said (
        id uuid, lease_token uuid, outcome text, error text, duration_ms integer, retry_after_seconds numeric, result jsonb, effects jsonb)
      join public.deliveries
        on deliveries.id = said.id and deliveries.lease_token = said.lease_token and deliveries.status = 'running'
      join public.subscriptions on subscriptions.id = deliveries.subscription_id
      join public.events on events.id = deliveries.event_id
      left join public.agents on agents.id = subscriptions.agent_id
      left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
      order by deliveries.id
      for update of deliveries
    ) as locked);
end;
$$;
comment on function private.hold_deliveries is 'Lock the deliveries of settlements whose lease is still held, and answer their rows.';

create function private.write_outcomes(held private.settling[])
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  statuses jsonb;
begin
  insert into public.delivery_attempts (org_id, delivery_id, attempt, outcome, error, duration_ms, started_at)
  select org_id, id, attempts, outcome, error, duration_ms, claimed_at
  from unnest(held)
  where outcome <> 'release';

  with written as (
    update public.deliveries
    set lease_token = null,
        leased_until = null,
        effects_applied_at = case when it.effects is not null then now() else deliveries.effects_applied_at end,
        result = coalesce(it.result, deliveries.result),
        last_error = case when it.outcome = 'release' then deliveries.last_error else it.error end,
        attempts = deliveries.attempts - (it.outcome = 'release')::integer,
        run_at = case it.outcome
          when 'retry' then private.retry_at(it.attempts, it.retry_base, it.retry_after_seconds)
          when 'release' then now()
          else deliveries.run_at end,
        status = case
          when it.outcome = 'done' then 'done'
          when it.outcome = 'skipped' then 'skipped'
          when it.outcome = 'release' then 'pending'
          when it.outcome = 'dead' or it.attempts >= it.max_attempts then 'dead'
          when it.outcome = 'retry' then 'failed'
        end::public.delivery_status
    from unnest(held) as it
    where deliveries.id = it.id
    returning deliveries.id, deliveries.status
  )
  select jsonb_object_agg(written.id, written.status) into statuses from written;
  return statuses;
end;
$$;
comment on function private.write_outcomes is 'Write each attempt and the new state of its delivery; answers the statuses by delivery.';

create function private.proposed(effects jsonb)
returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
  if effects is null or effects = '{}' then
    return effects;
  end if;
  if not effects ? 'action' then
    perform private.fail(422, 'nothing_to_review', 'An agent that may not act alone says what it decided.');
  end if;
  return jsonb_build_object(
    'action', (effects -> 'action') || '{"outcome": "escalated"}',
    'proposal', effects - 'action');
end;
$$;
comment on function private.proposed is 'Effects of an agent that may not act alone: its action, with the rest for a user to approve.';

-- Full jitter: a crowd that failed together does not come back together.
create function private.retry_at(attempts integer, base interval, retry_after_seconds numeric)
returns timestamptz
language sql volatile set search_path = ''
as $$
  select clock_timestamp() + greatest(
    make_interval(secs => greatest(0, least(coalesce(retry_after_seconds, 0), 86400))),
    random() * least(interval '1 hour', base * power(2, least(attempts - 1, 20))));
$$;
