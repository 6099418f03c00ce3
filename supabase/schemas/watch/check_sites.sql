-- Checks of sites: silence, refused signatures, repeats.

create function private.check_site_silent(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    format('%s has sent nothing for %s open hours%s.', sites.name, round(extract(epoch from silence.open_for) / 3600, 1),
           case when silence.expected is not null then format(', in which it sends %s', round(silence.expected, 1)) else '' end)
    || case when silence.open_for >= sites.quiet_alert_after
         then format(' If so little is usual for it, raise sites.quiet_alert_after (%s now).', sites.quiet_alert_after) else '' end,
    jsonb_build_object('site', sites.slug, 'last_arrival', silence.last_arrival, 'expected', round(silence.expected, 2),
                       'quiet_alert_after', sites.quiet_alert_after),
    sites.id
  from public.sites
  cross join lateral private.site_silence(sites, check_site_silent.at) as silence
  where sites.org_id = check_site_silent.org_id
    and sites.enabled
    -- Only a sign of life ends a silence: that the shop has closed, or has new hours, does not.
    and (silence.is_silent or exists (
      select from public.alerts
      where alerts.org_id = sites.org_id and alerts.kind = 'site_silent' and alerts.subject = sites.slug
        and alerts.closed_at is null and silence.last_arrival < alerts.opened_at));
$$;
comment on function private.check_site_silent is 'Sites that have sent nothing for longer than they should have.';

create function private.check_signatures_refused(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    case when refused.in_a_row >= least_of.in_a_row
      then format('%s requests to %s had a wrong secret or signature, and none was accepted %s.', refused.in_a_row, sites.name,
                  coalesce('since ' || to_char(last.accepted_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC', 'within a day'))
      else format('%s requests to %s within an hour had a wrong secret or signature, against %s that were accepted.',
                  refused.lately, sites.name, accepted.count)
    end,
    jsonb_build_object('refused', refused.lately, 'accepted', accepted.count, 'in_a_row', refused.in_a_row, 'last_accepted', last.accepted_at),
    sites.id
  from public.sites
  cross join (
    select coalesce((config ->> 'refused_in_a_row')::integer, 5) as in_a_row, coalesce((config ->> 'refused_min')::integer, 20) as lately
  ) as least_of
  cross join lateral (
    select greatest(
      (select private.uuid_v7_time(events.id)
       from public.events
       where events.org_id = sites.org_id and events.site_id = sites.id and left(events.source, 5) = 'site:'
         and events.id >= private.uuid_v7_floor(at - interval '1 day')
       order by events.id desc
       limit 1),
      -- A repeated submission shows the right secret, too.
      (select max(refusals.minute)
       from public.refusals
       where refusals.org_id = sites.org_id and refusals.site_id = sites.id and refusals.reason = 'duplicate')) as accepted_at
  ) as last
  cross join lateral (
    select
      coalesce(sum(refusals.count) filter (where refusals.minute >= at - interval '1 hour'), 0) as lately,
      -- An instance writes its counts a moment after they happen.
      coalesce(sum(refusals.count) filter (
        where refusals.minute > coalesce(last.accepted_at + interval '5 seconds', '-infinity')), 0) as in_a_row
    from public.refusals
    where refusals.org_id = sites.org_id and refusals.site_id = sites.id and refusals.minute >= at - interval '1 day'
      and refusals.reason in ('secret', 'signature', 'timestamp', 'page_token', 'revoked')
  ) as refused
  cross join lateral (
    select count(*) as count
    from (
      select from public.events
      where events.org_id = sites.org_id and events.site_id = sites.id and left(events.source, 5) = 'site:'
        and events.id >= private.uuid_v7_floor(at - interval '1 hour')
      limit 20000
    ) as latest
  ) as accepted
  where sites.org_id = check_signatures_refused.org_id
    and sites.enabled
    and (refused.in_a_row >= least_of.in_a_row
      or (refused.lately >= least_of.lately
        and refused.lately > (refused.lately + accepted.count) * coalesce((config ->> 'refused_rate')::numeric, 0.05)));
$$;
comment on function private.check_signatures_refused is
  'Sites of whose requests too many show a wrong secret or signature within an hour, or several and none that is accepted within a day.';

create function private.check_duplicates_spike(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    format('%s of the last %s submissions of %s are repeats: %s under a key that was used, %s of contacts who had just sent one.',
           recent.arrivals - recent.contacts + repeated.count, recent.arrivals + repeated.count, sites.name, repeated.count, recent.arrivals - recent.contacts),
    jsonb_build_object('arrivals', recent.arrivals, 'contacts', recent.contacts, 'repeats', repeated.count),
    sites.id
  from public.sites
  cross join lateral (
    select count(*) as arrivals, count(distinct latest.contact_id) as contacts
    from (
      select events.contact_id
      from public.events
      where events.org_id = sites.org_id and events.site_id = sites.id and left(events.source, 5) in ('site:', 'pull:')
        and events.contact_id is not null
        and events.id >= private.uuid_v7_floor(check_duplicates_spike.at - interval '1 hour')
        and events.id < private.uuid_v7_floor(check_duplicates_spike.at)
      order by events.id desc
      limit 20000
    ) as latest
  ) as recent
  cross join lateral (
    -- Repeats under a key make no event.
    select coalesce(sum(refusals.count), 0) as count
    from public.refusals
    where refusals.org_id = sites.org_id and refusals.site_id = sites.id and refusals.reason = 'duplicate'
      and refusals.minute >= check_duplicates_spike.at - interval '1 hour' and refusals.minute < check_duplicates_spike.at
  ) as repeated
  where sites.org_id = check_duplicates_spike.org_id
    and recent.arrivals + repeated.count >= coalesce((config ->> 'duplicates_min')::integer, 20)
    and recent.arrivals - recent.contacts + repeated.count
        > (recent.arrivals + repeated.count) * coalesce((config ->> 'duplicates_rate')::numeric, 0.5);
$$;
comment on function private.check_duplicates_spike is
  'Sites most of whose latest submissions are sent again under their key or repeat a contact who was just there: a sender that loops.';
