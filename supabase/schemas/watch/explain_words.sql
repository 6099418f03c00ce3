-- The words of an explanation: an event as a sentence, and its origin.

create function private.event_in_words(event public.events)
returns text
language sql stable set search_path = ''
as $$
  select case event.type
    when 'form.submitted' then format('%s sent a form on %s.', who.name, coalesce(place.name, 'a site'))
    when 'booking.placed' then format('%s placed a booking on %s.', who.name, coalesce(place.name, 'a site'))
    when 'submission.quarantined' then format('A form on %s was put aside: %s.', coalesce(place.name, 'a site'), event.data ->> 'reason')
    when 'lead.qualified' then format('The lead of %s was scored %s (%s).', who.name, event.data ->> 'score', event.data ->> 'band')
    when 'delivery.dead' then format('A delivery to %s is dead: %s.', event.data ->> 'subscription', rtrim(event.data ->> 'error', '.'))
    else coalesce(
      (select event_types.description from public.event_types where event_types.name = event.type),
      format('Something called %s happened.', event.type))
  end
  from (select coalesce((select contacts.name from public.contacts where contacts.id = event.contact_id), 'Somebody') as name) as who
  left join public.sites as place on place.id = event.site_id;
$$;
comment on function private.event_in_words is 'An event as one sentence.';
grant execute on function private.event_in_words to authenticated, service_role;

create function private.origin_in_words(event public.events)
returns jsonb
language sql stable set search_path = ''
as $$
  select case
    when private.is_from_outside(event.source) then jsonb_build_object(
      'kind', 'outside', 'says', format('It came from outside, by the %s %s.', split_part(event.source, ':', 1), split_part(event.source, ':', 2)))
    when event.source ~ '^user:' then jsonb_build_object('kind', 'person', 'says', 'A person did it.')
    -- An alert event without a cause is one whose alert is gone; any other event of the hub has a cause.
    when event.source = 'hub' and event.type like 'alert.%' then private.own_watch()
    when event.source = 'hub' then jsonb_build_object('kind', 'person', 'says', 'Somebody with the hub''s secret key did it.')
    when event.source ~ '^(clock|cron|schedule)' then jsonb_build_object('kind', 'clock', 'says', 'It was time: the hub''s own clock began it.')
    else jsonb_build_object('kind', 'person', 'says', format('A person recorded it, by %s.', event.source))
  end;
$$;
comment on function private.origin_in_words is 'The origin of an event without a cause.';
grant execute on function private.origin_in_words to authenticated, service_role;

create function private.own_watch()
returns jsonb
language sql immutable set search_path = ''
as $$
  select jsonb_build_object('kind', 'clock', 'says', 'The hub''s own watch found it.');
$$;
comment on function private.own_watch is 'The origin of an alert that no event showed.';
grant execute on function private.own_watch to authenticated, service_role;
