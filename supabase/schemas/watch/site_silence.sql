-- Silence: a site has sent nothing for longer than it should.
--
-- Only time within the site's business hours counts, in its own time zone. The site's quiet_alert_after (2 hours) is
-- the limit, to be raised for a site with little traffic. After four weeks the site's own rate may make it come sooner:
-- arrivals per hour of its week, the mean of up to eight weeks before its last arrival, without the busiest of them, so
-- that a campaign is not taken for the rule. A site is silent when the open hours since its last arrival would have
-- brought ln(1000) = 6.9 arrivals, a gap that comes once in a thousand when nothing is wrong, and at least 15 minutes
-- have passed. So ten forms an hour are missed after 42 minutes, a form a minute after 15. A site that never sent
-- anything is not connected, which is not silence.

create function private.site_silence(site public.sites, at timestamptz default now())
returns table (last_arrival timestamptz, open_for interval, expected numeric, is_silent boolean)
language plpgsql stable set search_path = ''
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
  -- Nothing is known from before the history.
  from private.open_times(site, greatest(last_arrival, at - interval '8 weeks'), at) as times
  cross join lateral generate_series(date_trunc('hour', times.opens, 'UTC'), times.closes, interval '1 hour') as hour
  join rates on rates.week_hour = extract(epoch from hour at time zone site.time_zone)::bigint / 3600 % 168
  where hour < times.closes;

  is_silent := open_for >= site.quiet_alert_after or coalesce(expected >= ln(1000), false);
  return next;
end;
$$;
comment on function private.site_silence is 'For how many open hours a site has sent nothing, how many arrivals were expected, and whether that is too long.';

create function private.site_rates(site public.sites, at timestamptz)
returns table (week_hour bigint, arrivals numeric)
language sql stable set search_path = ''
as $$
  with history as (
    select
      -- The hour of the week, of 168, as the clock on the wall shows it.
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
    -- Not all 168 hours: the latest are counted only when they have ended.
    having count(*) >= 160
  )
  -- The mean over the hours that there were: when clocks change, an hour is there twice or not at all.
  select history.week_hour, avg(history.arrivals)
  from history
  join weeks on weeks.week = history.week and weeks.place > 1
  where (select count(*) from weeks) >= 4
  group by history.week_hour;
$$;
comment on function private.site_rates is 'The mean arrivals of a site in each hour of its week; none before four weeks of history.';
