-- Checks of deliveries: subscriptions that wait, and targets that fail.

create function private.check_deliveries_stuck(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  with since as (
    select at - make_interval(mins => coalesce((config ->> 'stuck_after_minutes')::integer, 15)) as due,
           at - interval '5 minutes' as leased
  )
  select
    willing.name, 'critical'::public.alert_severity,
    case when due.due_since is null
      then format('%s deliveries to %s are still held by leases that ran out.', held.count, willing.name)
      else format('A delivery to %s has been due since %s UTC and nobody takes it.',
                  willing.name, to_char(due.due_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI'))
    end,
    jsonb_build_object('subscription', willing.name, 'due_since', due.due_since, 'held', coalesce(held.count, 0)),
    null::uuid
  from since
  cross join private.willing_subscriptions as willing
  left join private.due_work as due on due.subscription_id = willing.id and due.due_since < since.due
  left join (
    select deliveries.subscription_id, count(*) as count
    from since
    join public.deliveries on deliveries.status = 'running' and deliveries.leased_until < since.leased
    group by deliveries.subscription_id
  ) as held on held.subscription_id = willing.id
  where willing.org_id = check_deliveries_stuck.org_id and (due.due_since is not null or held.count > 0);
$$;
comment on function private.check_deliveries_stuck is 'Subscriptions whose deliveries wait although nothing is paused.';

create function private.check_function_failing(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  -- The latest two thousand failures tell as much as all of them, for the time in which they happened. A rehearsal's
  -- failures tell of a draft.
  with failures as materialized (
    select delivery_attempts.id, delivery_attempts.delivery_id
    from public.delivery_attempts
    join public.deliveries on deliveries.id = delivery_attempts.delivery_id and deliveries.mode = 'live'
    where delivery_attempts.org_id = check_function_failing.org_id
      and delivery_attempts.outcome in ('retry', 'dead', 'lapsed')
      and delivery_attempts.id >= private.uuid_v7_floor(at - interval '1 hour')
    order by delivery_attempts.id desc
    limit 2000
  ),
  hour as materialized (
    select case when (select count(*) from failures) < 2000 then private.uuid_v7_floor(at - interval '1 hour')
                else (select failures.id from failures order by failures.id limit 1) end as floor
  ),
  failing as (
    select deliveries.subscription_id,
           count(distinct deliveries.id) as failed,
           count(distinct deliveries.id) filter (where deliveries.id < hour.floor) as from_before
    from failures
    cross join hour
    join public.deliveries on deliveries.id = failures.delivery_id
    group by deliveries.subscription_id
  ),
  -- Counted once, not for each of its uses.
  served as materialized (
    select
      case when subscriptions.target_kind = 'function' then subscriptions.target else subscriptions.name end as name,
      sum(failing.failed) as failed,
      sum(failing.from_before + (
        select count(*)
        from (
          select from public.deliveries
          where deliveries.org_id = subscriptions.org_id and deliveries.subscription_id = subscriptions.id and deliveries.id >= hour.floor
            and deliveries.mode = 'live'
          limit 20000
        ) as fresh)) as handled
    from failing
    cross join hour
    join public.subscriptions on subscriptions.id = failing.subscription_id
    group by 1
  )
  select
    served.name, 'warning'::public.alert_severity,
    format('%s failed %s of %s deliveries within an hour.', served.name, served.failed, served.handled),
    jsonb_build_object('failed', served.failed, 'handled', served.handled),
    null::uuid
  from served
  where served.handled >= coalesce((config ->> 'failure_min')::integer, 10)
    and served.failed > served.handled * coalesce((config ->> 'failure_rate')::numeric, 0.2);
$$;
comment on function private.check_function_failing is 'Functions, and webhooks, that fail too large a share of their deliveries of the last hour.';
