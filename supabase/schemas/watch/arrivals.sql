-- Arrivals: events that sites sent or that were pulled from them, and the last time of each site.
--
-- An event that a site pushed has the source site:<slug>, a pulled one pull:<name>. When a pull makes up for the losses
-- of a push, a pulled event does not show that the push lives.

create view private.arrivals as
  select events.id, events.org_id, events.site_id, left(events.source, 5) as prefix
  from public.events
  where left(events.source, 5) in ('site:', 'pull:') and events.data #>> '{form,submission_id}' is distinct from 'test-event';
comment on view private.arrivals is 'Events that sites sent or that were pulled from them, without the form by which `make new-site` tries a connection.';

create function private.last_arrival(site public.sites, before timestamptz)
returns timestamptz
language sql stable set search_path = ''
as $$
  select private.uuid_v7_time(arrivals.id)
  from private.arrivals
  where arrivals.org_id = site.org_id and arrivals.site_id = site.id
    -- Asked once, not for each arrival.
    and arrivals.prefix = any ((select private.living_sources(site))::text[])
    and arrivals.id < private.uuid_v7_floor(before)
  order by arrivals.id desc
  limit 1;
$$;
comment on function private.last_arrival is 'When a site last sent anything at all before a time.';

create function private.first_arrival(site public.sites)
returns timestamptz
language sql stable set search_path = ''
as $$
  select private.uuid_v7_time(arrivals.id)
  from private.arrivals
  where arrivals.org_id = site.org_id and arrivals.site_id = site.id
    and arrivals.prefix = any ((select private.living_sources(site))::text[])
  order by arrivals.id
  limit 1;
$$;
comment on function private.first_arrival is 'When a site first sent anything.';

create function private.living_sources(site public.sites)
returns text[]
language plpgsql stable set search_path = ''
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
comment on function private.living_sources is 'The prefixes of the sources that show that a site lives; the pushes alone of a site that pushes and is pulled.';
