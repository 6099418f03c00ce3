-- Settling: deliveries end with their effects, in one transaction; a function that lost the lease settles nothing.
--
-- A batch is settled by a few statements for all of it, not by a few for each: one by one cost a third of a millisecond
-- for a delivery without effects and two and a half with them. A batch that cannot be written as a whole is settled one
-- by one, so that one delivery does not take the others along.

create type private.settling as (
  id uuid, org_id uuid, subscription_id uuid, attempts smallint, max_attempts smallint, retry_base interval, claimed_at timestamptz,
  outcome text, error text, duration_ms integer, retry_after_seconds numeric, result jsonb, effects jsonb,
  event_id uuid, occurred_at timestamptz, site_id uuid, contact_id uuid, subject_type text, subject_id uuid, trace_id text,
  agent_id uuid, agent text, version_id uuid
);
comment on type private.settling is 'A delivery that is being settled, with its row. Effects are there if they are to happen.';

-- security definer: hub_service may touch no table itself.
create function hub.settle_deliveries(settlements jsonb)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  settlement jsonb;
  rule text;
  results jsonb := '[]';
begin
  begin
    return private.settle_together(settlements);
  exception
    when serialization_failure or deadlock_detected then
      raise;
    when others then
      null;
  end;

  -- The one that cannot be written is retried and is dead in the end; the others are settled without it.
  for settlement in select value from jsonb_array_elements(settlements) order by value ->> 'id' loop
    begin
      results := results || private.settle_together(jsonb_build_array(settlement));
    exception
      when serialization_failure or deadlock_detected then
        raise;
      when others then
        -- Postgres' own words may quote a customer; its code and the rule's name do not.
        get stacked diagnostics rule = constraint_name;
        results := results || private.settle_together(jsonb_build_array(jsonb_build_object(
          'id', settlement -> 'id', 'lease_token', settlement -> 'lease_token', 'outcome', 'retry',
          'error', concat_ws(' ', 'could not be settled:', sqlstate, nullif(rule, '')))));
    end;
  end loop;
  return results;
end;
$$;
comment on function hub.settle_deliveries is 'Settle deliveries, each by itself; answers the new status of each.';
grant execute on function hub.settle_deliveries to hub_service;

create function private.settle_together(settlements jsonb)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  held constant private.settling[] := private.hold_deliveries(settlements);
  statuses jsonb;
begin
  if exists (select from unnest(held) where effects is not null and effects <> '{}') then
    perform private.apply_effects(held);
  end if;
  statuses := private.write_outcomes(held);
  perform private.mark_dead(ended.id, coalesce(ended.error, 'no reason given'))
  from unnest(held) as ended
  where statuses ->> ended.id::text = 'dead';
  return (
    select coalesce(jsonb_agg(jsonb_build_object('id', said ->> 'id', 'status', coalesce(statuses ->> (said ->> 'id'), 'lost'))), '[]')
    from jsonb_array_elements(settlements) as said);
end;
$$;
comment on function private.settle_together is 'Write the ends of deliveries whose lease is still held, with their effects.';
