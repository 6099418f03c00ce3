-- Silence: when a site has sent nothing for longer than it should have.
--
-- Only time within the site's business hours counts, in its own time zone. The site's quiet_alert_after (2 hours) is
-- the limit, to be raised for a site with little traffic. After four weeks the site's own rate may make it come sooner:
-- arrivals per hour of its week, the mean of up to eight weeks before its last arrival, without the busiest of them, so
-- that a campaign is not taken for the rule. A site is silent when the open hours since its last arrival would have
-- brought ln(1000) = 6.9 arrivals, a gap that comes once in a thousand when nothing is wrong, and at least 15 minutes
-- have passed. So ten forms an hour are missed after 42 minutes, a form a minute after 15. A site that never sent
-- anything is not connected, which is not silence.
--
-- What it sends has a source of site:<slug> or, fetched from it, pull:<name>. Where a pull makes up for what a push
-- loses, what was pulled does not say that the push lives.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- Here, for a transaction of its own keeps readers waiting for less.
alter table public.alerts validate constraint alerts_site;

create function private.is_time_zone(name text)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  perform timestamptz 'epoch' at time zone name;
  return true;
exception when invalid_parameter_value then
  return false;
end;
$$;
comment on function private.is_time_zone is 'Whether Postgres knows a time zone by this name.';
grant execute on function private.is_time_zone to authenticated;

create function private.are_business_hours(hours jsonb)
returns boolean
language sql
immutable
set search_path = ''
as $$
  select jsonb_typeof(hours) = 'object' and not exists (
    select from jsonb_each(case when jsonb_typeof(hours) = 'object' then hours else '{}' end) as day
    where day.key not in ('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')
      or day.value::text !~ '^\[("([01]\d|2[0-3]):[0-5]\d", "(([01]\d|2[0-3]):[0-5]\d|24:00)")?\]$');
$$;
comment on function private.are_business_hours is 'Whether this says when a week''s days open and close: {"mon": ["07:30", "17:30"]}.';
grant execute on function private.are_business_hours to authenticated;

alter table public.sites
  add constraint sites_time_zone_known check (private.is_time_zone(time_zone)) not valid,
  add constraint sites_business_hours_form check (private.are_business_hours(business_hours)) not valid,
  add constraint sites_quiet_alert_after_range check (quiet_alert_after between interval '15 minutes' and interval '60 days') not valid;

create function private.check_site_hours()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if not private.is_time_zone(new.time_zone) then
    perform private.fail(422, 'bad_time_zone', 'sites.time_zone is a name such as Pacific/Auckland.');
  elsif not private.are_business_hours(new.business_hours) then
    perform private.fail(422, 'bad_business_hours',
      'sites.business_hours says when days open and close, as {"mon": ["07:30", "17:30"]}; the days are mon, tue, wed, thu, fri, sat and sun.');
  elsif new.quiet_alert_after not between interval '15 minutes' and interval '60 days' then
    perform private.fail(422, 'bad_quiet_alert_after', 'sites.quiet_alert_after is from 15 minutes to 60 days.');
  end if;
  return new;
end;
$$;
comment on function private.check_site_hours is 'Trigger: what the constraints of these columns would refuse by their names is refused in words.';
create trigger sites_hours before insert or update of time_zone, business_hours, quiet_alert_after on public.sites
  for each row execute function private.check_site_hours();

comment on column public.sites.business_hours is 'When each day opens and closes, in the site''s time zone; a day left out is closed, none at all: always open.';
comment on column public.sites.quiet_alert_after is 'Open hours without a sign of life after which a site is silent at the latest; its own rate may say so sooner. To be raised for a site with little traffic.';

create function private.uuid_v7_time(id uuid)
returns timestamptz
language sql
immutable
set search_path = ''
as $$
  select to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0);
$$;
comment on function private.uuid_v7_time is 'The time in a version 7 UUID.';

create table private.site_hours (
  site_id  uuid not null references public.sites (id) on delete cascade,
  hour     timestamptz not null,
  arrivals integer not null,

  primary key (site_id, hour)
);
comment on table private.site_hours is 'What each site sent in each hour since its first arrival, hours with nothing too; nine weeks of it.';

create view private.arrivals as
  select events.id, events.org_id, events.site_id, left(events.source, 5) as way
  from public.events
  where left(events.source, 5) in ('site:', 'pull:') and events.data ->> 'submission_id' is distinct from 'test-event';
comment on view private.arrivals is 'What sites sent or had fetched from them, without the form by which `make new-site` tries a connection.';

create function private.ways_of_life(site public.sites)
returns text[]
language plpgsql
stable
set search_path = ''
as $$
begin
  if exists (
    select from public.pull_sources
    where pull_sources.org_id = site.org_id and pull_sources.site_id = site.id and pull_sources.enabled and pull_sources.pushes
  ) then
    return '{site:}';
  end if;
  return '{site:,pull:}';
end;
$$;
comment on function private.ways_of_life is 'Which ways of arrival show that a site lives: of one that pushes and is pulled as well, its pushes alone.';

create function private.last_arrival(site public.sites, before timestamptz)
returns timestamptz
language sql
stable
set search_path = ''
as $$
  select private.uuid_v7_time(arrivals.id)
  from private.arrivals
  where arrivals.org_id = site.org_id and arrivals.site_id = site.id
    -- Asked once, not for each arrival.
    and arrivals.way = any ((select private.ways_of_life(site))::text[])
    and arrivals.id < private.uuid_v7_floor(before)
  order by arrivals.id desc
  limit 1;
$$;
comment on function private.last_arrival is 'When a site last sent anything at all before a time.';

create function private.first_arrival(site public.sites)
returns timestamptz
language sql
stable
set search_path = ''
as $$
  select private.uuid_v7_time(arrivals.id)
  from private.arrivals
  where arrivals.org_id = site.org_id and arrivals.site_id = site.id
    and arrivals.way = any ((select private.ways_of_life(site))::text[])
  order by arrivals.id
  limit 1;
$$;
comment on function private.first_arrival is 'When a site first sent anything.';

create function private.roll_up_site_hours(until timestamptz default now())
returns integer
language plpgsql
set search_path = ''
as $$
declare
  site public.sites;
  counted integer;
  rows integer := 0;
begin
  for site in select sites.* from public.sites loop
    insert into private.site_hours (site_id, hour, arrivals)
    select site.id, hours.hour, (
      select count(*)
      from private.arrivals
      where arrivals.org_id = site.org_id and arrivals.site_id = site.id
        and arrivals.way = any ((select private.ways_of_life(site))::text[])
        and arrivals.id >= private.uuid_v7_floor(hours.hour) and arrivals.id < private.uuid_v7_floor(hours.hour + interval '1 hour'))
    from (
      select coalesce(
        (select max(site_hours.hour) + interval '1 hour' from private.site_hours where site_hours.site_id = site.id),
        date_trunc('hour', private.first_arrival(site), 'UTC')) as hour
    ) as next
    cross join lateral generate_series(
      greatest(next.hour, date_trunc('hour', until, 'UTC') - interval '8 weeks'),
      date_trunc('hour', until, 'UTC') - interval '1 hour',
      interval '1 hour') as hours (hour)
    where next.hour is not null
    on conflict on constraint site_hours_pkey do nothing;
    get diagnostics counted = row_count;
    rows := rows + counted;
  end loop;
  delete from private.site_hours where site_hours.hour < until - interval '9 weeks';
  return rows;
end;
$$;
comment on function private.roll_up_site_hours is 'Count the hours that have ended since the last time; cron calls it.';
select cron.schedule('roll_up_site_hours', '3 * * * *', $$select private.roll_up_site_hours()$$);

create function private.open_times(site public.sites, since timestamptz, until timestamptz)
returns table (opens timestamptz, closes timestamptz)
language sql
stable
set search_path = ''
as $$
  select greatest(days.opens, since), least(days.closes, until)
  from (
    select
      (day::date + (hours ->> 0)::time) at time zone site.time_zone as opens,
      (day::date + (hours ->> 1)::time + case when (hours ->> 1)::time <= (hours ->> 0)::time then interval '1 day' else '0' end)
        at time zone site.time_zone as closes
    from generate_series(
      date_trunc('day', since at time zone site.time_zone) - interval '1 day', until at time zone site.time_zone, interval '1 day') as day
    cross join lateral (select site.business_hours -> to_char(day, 'dy') as hours) as week
    where jsonb_array_length(hours) = 2
    union all
    select since, until where site.business_hours = '{}'
  ) as days
  where days.opens < until and days.closes > since and since < until;
$$;
comment on function private.open_times is 'When a site was open between two times, by its hours in its time zone.';

create function private.site_rates(site public.sites, at timestamptz)
returns table (week_hour bigint, arrivals numeric)
language sql
stable
set search_path = ''
as $$
  with history as (
    select
      -- Of 168, as the clock on the wall shows them.
      extract(epoch from site_hours.hour at time zone site.time_zone)::bigint / 3600 % 168 as week_hour,
      floor(extract(epoch from at - site_hours.hour) / 604800) as week,
      site_hours.arrivals
    from private.site_hours
    where site_hours.site_id = site.id and site_hours.hour >= at - interval '8 weeks' and site_hours.hour < at
  ),
  weeks as (
    select history.week, rank() over (order by sum(history.arrivals) desc, history.week) as place
    from history
    group by history.week
    -- Of 168, for the latest hours are counted only when they have ended.
    having count(*) >= 160
  )
  -- The mean over the hours there were: when clocks change, one of them was there twice or not at all.
  select history.week_hour, avg(history.arrivals)
  from history
  join weeks on weeks.week = history.week and weeks.place > 1
  where (select count(*) from weeks) >= 4
  group by history.week_hour;
$$;
comment on function private.site_rates is 'What a site sends in each hour of its week; nothing before four weeks of history.';

create function private.site_silence(site public.sites, at timestamptz default now())
returns table (last_arrival timestamptz, open_for interval, expected numeric, is_silent boolean)
language plpgsql
stable
set search_path = ''
as $$
begin
  last_arrival := private.last_arrival(site, at);
  if last_arrival is null then
    is_silent := false;
    return next;
    return;
  end if;
  select coalesce(sum(times.closes - times.opens), '0') into open_for
  from private.open_times(site, last_arrival, at) as times;
  if open_for < interval '15 minutes' then
    is_silent := false;
    return next;
    return;
  end if;

  with rates as materialized (
    select rates.week_hour, rates.arrivals from private.site_rates(site, last_arrival) as rates
  )
  select case when exists (select from rates) then coalesce(
    sum(extract(epoch from least(times.closes, hour + interval '1 hour') - greatest(times.opens, hour)) / 3600 * rates.arrivals), 0) end
  into expected
  -- Longer ago than the history reaches, nothing more is known.
  from private.open_times(site, greatest(last_arrival, at - interval '8 weeks'), at) as times
  cross join lateral generate_series(date_trunc('hour', times.opens, 'UTC'), times.closes, interval '1 hour') as hour
  join rates on rates.week_hour = extract(epoch from hour at time zone site.time_zone)::bigint / 3600 % 168
  where hour < times.closes;

  is_silent := open_for >= site.quiet_alert_after or coalesce(expected >= ln(1000), false);
  return next;
end;
$$;
comment on function private.site_silence is 'For how many open hours a site has sent nothing, what it would have sent, and whether that is too long.';
