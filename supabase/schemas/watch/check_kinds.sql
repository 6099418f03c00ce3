-- The check of kinds: sites that sent kinds of events which the catalogue does not know.

create function private.check_kind_unknown(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    sites.slug, 'warning'::public.alert_severity,
    format('%s sent kinds that nobody knows: %s. Their events are kept and start nothing until rpc/name_kind says what they mean.',
           sites.name, left(unknown.kinds, 200)),
    jsonb_build_object('kinds', left(unknown.kinds, 200), 'events', unknown.count),
    sites.id
  from (
    select kinds.site_id, string_agg(kinds.type, ', ' order by kinds.type) as kinds, sum(kinds.count) as count
    from (
      select latest.site_id, latest.type, count(*) as count
      from (
        select events.site_id, events.type
        from public.events
        where events.org_id = check_kind_unknown.org_id and events.unrecognised
        order by events.id desc
        limit 1000
      ) as latest
      group by latest.site_id, latest.type
    ) as kinds
    -- A kind that has a name by now is known.
    where private.canonical_type(kinds.type) is null
    group by kinds.site_id
  ) as unknown
  join public.sites on sites.id = unknown.site_id;
$$;
comment on function private.check_kind_unknown is 'Sites that sent kinds of events which the catalogue does not know.';
