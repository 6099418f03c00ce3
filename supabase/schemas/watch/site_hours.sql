-- Site hours: the number of each site's arrivals in each hour, for nine weeks.

create table private.site_hours (
  site_id  uuid not null references public.sites (id) on delete cascade,
  hour     timestamptz not null,
  arrivals integer not null,

  primary key (site_id, hour)
);
comment on table private.site_hours is 'The number of each site''s arrivals in each hour since its first, hours with none too; for nine weeks.';

create function private.roll_up_site_hours(until timestamptz default now())
returns integer
language plpgsql set search_path = ''
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
        and arrivals.prefix = any ((select private.living_sources(site))::text[])
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
