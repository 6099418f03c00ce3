-- Open times: the spans in which a site was open.

create function private.open_times(site public.sites, since timestamptz, until timestamptz)
returns table (opens timestamptz, closes timestamptz)
language sql stable set search_path = ''
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
comment on function private.open_times is 'The spans in which a site was open between two times, by its hours in its time zone.';
