-- Business hours: the form of a site's hours.

create function private.is_time_zone(name text)
returns boolean
language plpgsql immutable set search_path = ''
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
language sql immutable set search_path = ''
as $$
  select jsonb_typeof(hours) = 'object' and not exists (
    select from jsonb_each(case when jsonb_typeof(hours) = 'object' then hours else '{}' end) as day
    where day.key not in ('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')
      or day.value::text !~ '^\[("([01]\d|2[0-3]):[0-5]\d", "(([01]\d|2[0-3]):[0-5]\d|24:00)")?\]$');
$$;
comment on function private.are_business_hours is 'Whether these are hours of a week''s days: {"mon": ["07:30", "17:30"]}.';
grant execute on function private.are_business_hours to authenticated;
