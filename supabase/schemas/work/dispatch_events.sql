-- Dispatch: one delivery per matching subscription, one kick per target and statement.

-- security definer: writing an event needs no right to write deliveries.
create function private.dispatch_events()
returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  waiting text[];
begin
  with made as (
    insert into public.deliveries (org_id, event_id, subscription_id, order_key)
    select fresh.org_id, fresh.id, subscriptions.id, case when subscriptions.ordered then fresh.contact_id end
    from fresh
    join public.subscriptions on subscriptions.org_id = fresh.org_id and private.wants(subscriptions.event_types, fresh.type)
    where (fresh.cause_id is null and fresh.type not in ('alert.opened', 'alert.closed'))
       or not private.is_echo(fresh.id, fresh.cause_id, subscriptions.id)
    returning subscription_id
  )
  select array_agg(distinct willing.target) into waiting
  from made
  join private.willing_subscriptions as willing on willing.id = made.subscription_id;

  if waiting is not null then
    perform private.kick(target) from unnest(waiting) as target;
  end if;
  return null;
end;
$$;
comment on function private.dispatch_events is 'Trigger: one delivery per matching subscription, one kick per target and statement.';

create trigger events_dispatch after insert on public.events
  referencing new table as fresh
  for each statement execute function private.dispatch_events();

-- An agent never gets an event that its own action caused. A partner only reads, so it may get an event whose cause it
-- was sent; but never, in circles, the news that it cannot be reached.
create function private.is_echo(event_id uuid, cause_id uuid, subscription_id uuid)
returns boolean
language plpgsql stable set search_path = ''
as $$
declare
  subscriber public.subscriptions;
begin
  select * into subscriber from public.subscriptions where subscriptions.id = is_echo.subscription_id;
  if subscriber.target_kind = 'function' then
    return is_echo.cause_id is not null and private.has_acted_on_cause(is_echo.cause_id, subscriber.id);
  end if;
  return exists (
    with recursive chain (id, type, data, cause_id) as (
      select events.id, events.type, events.data, events.cause_id
      from public.events where events.id = is_echo.event_id
      union
      select events.id, events.type, events.data, events.cause_id
      from chain
      join public.events on events.id = chain.cause_id
    )
    select from chain
    where (chain.type = 'delivery.dead' and chain.data ->> 'subscription' = subscriber.name)
       or (chain.type in ('alert.opened', 'alert.closed') and chain.data #>> '{details,subscription}' = subscriber.name));
end;
$$;
comment on function private.is_echo is 'Whether a subscriber itself caused an event, so that delivering it there would never end.';

create function private.has_acted_on_cause(cause_id uuid, subscription_id uuid)
returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return exists (
    with recursive chain (id) as (
      select has_acted_on_cause.cause_id
      union
      select events.cause_id
      from chain
      join public.events on events.id = chain.id and events.cause_id is not null
    )
    select from chain
    join public.deliveries on deliveries.event_id = chain.id
    -- A rehearsal did not act.
    where deliveries.subscription_id = has_acted_on_cause.subscription_id and deliveries.mode = 'live');
end;
$$;
comment on function private.has_acted_on_cause is 'Whether a subscription was delivered one of the events that led to this one.';
