-- Due work: when the oldest live delivery of each willing subscription was due.

create view private.due_work as
  select willing.id as subscription_id, willing.org_id, willing.name, willing.target, oldest.run_at as due_since
  from private.willing_subscriptions as willing
  cross join lateral (
    select deliveries.run_at
    from public.deliveries
    where deliveries.subscription_id = willing.id and deliveries.is_waiting and deliveries.mode = 'live'
      and deliveries.run_at <= now()
    order by deliveries.run_at
    limit 1
  ) as oldest;
comment on view private.due_work is 'Willing subscriptions with a live delivery that is due, and the time since which the oldest is.';
