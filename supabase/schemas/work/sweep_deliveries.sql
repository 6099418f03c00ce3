-- The sweep: take back the deliveries whose lease ran out, and kick every target with due work.

create function private.sweep_deliveries()
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  expired record;
  lapsed integer := 0;
  kicked integer;
begin
  for expired in
    select deliveries.id, deliveries.org_id, deliveries.attempts, deliveries.claimed_at, subscriptions.max_attempts, subscriptions.retry_base
    from public.deliveries
    join public.subscriptions on subscriptions.id = deliveries.subscription_id
    where deliveries.status = 'running' and deliveries.leased_until < now()
    order by deliveries.id
    limit 1000
    for update of deliveries skip locked
  loop
    lapsed := lapsed + 1;
    begin
      insert into public.delivery_attempts (org_id, delivery_id, attempt, outcome, error, started_at)
      values (expired.org_id, expired.id, expired.attempts, 'lapsed', 'the lease ran out', expired.claimed_at);
      if expired.attempts >= expired.max_attempts then
        perform private.mark_dead(expired.id, 'the lease ran out ' || expired.attempts || ' times');
      else
        update public.deliveries
        set status = 'failed', lease_token = null, leased_until = null, last_error = 'the lease ran out',
            run_at = case when expired.attempts = 1 then now() else private.retry_at(expired.attempts, expired.retry_base, 0) end
        where deliveries.id = expired.id;
      end if;
    exception when others then
      -- A delivery that cannot be taken back must not keep the others.
      raise warning 'delivery % could not be taken back: %', expired.id, sqlstate;
    end;
  end loop;

  select count(*) filter (where private.kick(waiting.target)) into kicked from private.due_targets() as waiting (target);
  return jsonb_build_object('lapsed', lapsed, 'kicked', kicked);
end;
$$;
comment on function private.sweep_deliveries is 'Take back the deliveries whose lease ran out and kick every target with due work; cron calls it.';

create function private.due_targets(for_at_least interval default '0')
returns setof text
language sql stable set search_path = ''
as $$
  select due_work.target from private.due_work where due_work.due_since <= now() - for_at_least
  union
  select willing.target
  from private.willing_subscriptions as willing
  where exists (
    select from public.deliveries
    where deliveries.subscription_id = willing.id and deliveries.is_waiting and deliveries.mode = 'rehearsal'
      and deliveries.run_at <= now() - for_at_least);
$$;
comment on function private.due_targets is 'The targets with deliveries that have been due for this long.';
