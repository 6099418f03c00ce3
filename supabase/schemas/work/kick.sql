-- Kicks: a function that has deliveries waiting is called.
--
-- pg_net may lose a kick: the sweep finds what is due. One kick in a tenth of a second is enough for a target, because
-- a kicked function lingers and finds what comes meanwhile.

create table private.kicks (
  target     text primary key,
  kicked_at  timestamptz not null default '-infinity',
  failures   integer not null default 0,
  last_error text,
  failed_at  timestamptz
) with (fillfactor = 50);
comment on table private.kicks is 'When each target was last kicked, and why a kick failed. The event stands all the same: the sweep delivers it later.';

create function private.kick(target text)
returns boolean
language plpgsql set search_path = ''
as $$
declare
  moment constant timestamptz := clock_timestamp();
begin
  -- A time in the future was written by a clock that was set back.
  if exists (
    select from private.kicks
    where kicks.target = kick.target and kicks.kicked_at between moment - interval '100 milliseconds' and moment)
  -- One of the kicks at the same instant is enough, and nobody waits for its commit.
    or not pg_try_advisory_xact_lock(hashtext(kick.target), (extract(epoch from moment) * 10 % 1000000000)::integer)
  then
    return false;
  end if;
  update private.kicks
  set kicked_at = moment
  from (select free.target from private.kicks as free where free.target = kick.target for update skip locked) as mine
  where kicks.target = mine.target;
  begin
    perform private.invoke(kick.target, jsonb_build_object('target', kick.target));
  exception when others then
    update private.kicks
    set failures = kicks.failures + 1, last_error = sqlerrm, failed_at = now()
    from (select free.target from private.kicks as free where free.target = kick.target for update skip locked) as mine
    where kicks.target = mine.target;
    return false;
  end;
  return true;
end;
$$;
comment on function private.kick is 'Call a function that has deliveries waiting; at most every 100 ms, and never an error for the caller.';

create function private.kick_target(subscription public.subscriptions)
returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return case subscription.target_kind when 'webhook' then 'webhook-sender/' || subscription.id else subscription.target end;
end;
$$;
comment on function private.kick_target is 'The path at which a subscription''s function is kicked.';

-- security definer: changing a subscription needs no right to write kicks.
create function private.follow_target()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_op = 'DELETE' then
    delete from private.kicks where kicks.target = private.kick_target(old);
  else
    insert into private.kicks (target) values (private.kick_target(new)) on conflict on constraint kicks_pkey do nothing;
  end if;
  return null;
end;
$$;
comment on function private.follow_target is 'Trigger: a target that can be kicked has a row, and a webhook that is gone has none.';
create trigger subscriptions_kicks after insert or update of target on public.subscriptions
  for each row execute function private.follow_target();
create trigger subscriptions_no_kicks after delete on public.subscriptions
  for each row when (old.target_kind = 'webhook') execute function private.follow_target();
