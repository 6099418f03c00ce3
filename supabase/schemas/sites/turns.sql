-- Turns: each submission takes one, and a site has only so many a second.
--
-- A site's turns are a bucket that leaks at the site's rate and holds twenty seconds' worth. A form takes its turn in
-- the bucket if nobody holds that row, else aside, in another row that nobody holds: so no form waits for another one.
-- The next form that gets the bucket pours in the turns taken aside. While the bucket is less than half full, one form of
-- several takes the turns of all of them, by chance: a site far from its limit costs a look-up.

create unlogged table private.site_turns (
  site_id uuid not null references public.sites (id) on delete cascade,
  purpose text not null,
  level   double precision not null,
  at      timestamptz not null,
  poured  bigint not null,

  primary key (site_id, purpose)
) with (fillfactor = 50);
comment on table private.site_turns is 'How full a site''s bucket was at a time. Unlogged: after a crash every site has rested.';
comment on column private.site_turns.poured is 'How many of the turns taken aside the level contains.';

create unlogged table private.site_turns_aside (
  site_id uuid not null references public.sites (id) on delete cascade,
  purpose text not null,
  slot    bigint generated always as identity,
  taken   bigint not null,

  primary key (site_id, purpose, slot)
) with (fillfactor = 50);
comment on table private.site_turns_aside is
  'Turns taken while another transaction held the bucket: per site as many rows as there ever were such transactions at once.';

create function private.take_site_turn(site_id uuid, purpose text, per_second integer)
returns void
language plpgsql set search_path = ''
as $$
declare
  burst constant double precision := per_second * 20;
  taken_at constant timestamptz := clock_timestamp();
  used double precision;
  turns integer := 1;
begin
  select private.turns_used(bucket.level, bucket.at, 0, taken_at, per_second) into used
  from private.site_turns as bucket
  where bucket.site_id = take_site_turn.site_id and bucket.purpose = take_site_turn.purpose;
  if used < burst / 2 then
    turns := least(16, 1 + per_second / 10);
    if random() * turns >= 1 then
      return;
    end if;
  end if;

  with mine as (
    select
      bucket.site_id, bucket.purpose, greatest(aside.taken, bucket.poured) as poured,
      private.turns_used(bucket.level, bucket.at, aside.taken - bucket.poured, taken_at, per_second) + turns as level
    from private.site_turns as bucket
    cross join (
      select coalesce(sum(beside.taken), 0)::bigint as taken
      from private.site_turns_aside as beside
      where beside.site_id = take_site_turn.site_id and beside.purpose = take_site_turn.purpose
    ) as aside
    where bucket.site_id = take_site_turn.site_id and bucket.purpose = take_site_turn.purpose
    for update of bucket skip locked
  )
  update private.site_turns as bucket
  set level = mine.level, at = taken_at, poured = mine.poured
  from mine
  where bucket.site_id = mine.site_id and bucket.purpose = mine.purpose and mine.level <= burst;
  if not found then
    perform private.take_turns_aside(site_id, purpose, per_second, turns);
  end if;
end;
$$;
comment on function private.take_site_turn is 'Take a turn of a site, or raise 429. Forms that come at the same instant may not see each other.';

create function private.take_turns_aside(site_id uuid, purpose text, per_second integer, turns integer)
returns void
language plpgsql set search_path = ''
as $$
declare
  taken_at constant timestamptz := clock_timestamp();
  used double precision;
begin
  select private.turns_used(bucket.level, bucket.at, aside.taken - bucket.poured, taken_at, per_second)
  into used
  from private.site_turns as bucket
  cross join (
    select coalesce(sum(beside.taken), 0)::bigint as taken
    from private.site_turns_aside as beside
    where beside.site_id = take_turns_aside.site_id and beside.purpose = take_turns_aside.purpose
  ) as aside
  where bucket.site_id = take_turns_aside.site_id and bucket.purpose = take_turns_aside.purpose;
  if used + turns > per_second * 20 then
    perform private.refuse_turn(((used + turns) / per_second - 20)::numeric);
  elsif used is null and pg_try_advisory_xact_lock(hashtextextended(purpose || site_id, 0)) then
    -- The first form of a site makes the row; a form at the same instant goes aside and waits for nobody.
    insert into private.site_turns (site_id, purpose, level, at, poured)
    values (take_turns_aside.site_id, take_turns_aside.purpose, 0, taken_at, 0)
    on conflict on constraint site_turns_pkey do nothing;
  end if;

  update private.site_turns_aside as beside
  set taken = beside.taken + turns
  from (
    select free.site_id, free.purpose, free.slot
    from private.site_turns_aside as free
    where free.site_id = take_turns_aside.site_id and free.purpose = take_turns_aside.purpose
    limit 1
    for update skip locked
  ) as mine
  where beside.site_id = mine.site_id and beside.purpose = mine.purpose and beside.slot = mine.slot;
  if not found then
    insert into private.site_turns_aside (site_id, purpose, taken)
    values (take_turns_aside.site_id, take_turns_aside.purpose, turns);
  end if;
end;
$$;
comment on function private.take_turns_aside is 'Take turns in a row that nobody holds, or raise 429.';

-- A level above the burst was taken at a higher rate, and a time in the future by a clock that was set back.
create function private.turns_used(level double precision, at timestamptz, aside bigint, taken_at timestamptz, per_second integer)
returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return greatest(least(level, per_second * 20) - per_second * abs(date_part('epoch', taken_at - at)), 0) + greatest(aside, 0);
end;
$$;
comment on function private.turns_used is 'How full a bucket is: its level, less the turns that have leaked since, and those taken aside.';

create function private.refuse_turn(seconds numeric)
returns void
language plpgsql set search_path = ''
as $$
begin
  raise exception 'Too many requests; nothing of this one was stored.'
    using errcode = 'PT429', detail = 'rate_limited', hint = greatest(1, ceil(seconds))::text;
end;
$$;
comment on function private.refuse_turn is 'Raise 429; the hint says after how many seconds to come again.';
