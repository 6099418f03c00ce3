-- The partitions of events, made ahead of time.

create function private.make_event_partitions(months_ahead integer default 3)
returns integer
language plpgsql set search_path = '' set lock_timeout = '2s'
as $$
declare
  month timestamptz;
  partition text;
  lower_bound uuid;
  upper_bound uuid;
  has_strays boolean;
  made integer := 0;
begin
  for month in
    select date_trunc('month', now(), 'UTC') + make_interval(months => ahead)
    from generate_series(0, months_ahead) as ahead
  loop
    partition := 'events_' || to_char(month at time zone 'UTC', 'YYYY_MM');
    continue when to_regclass('private.' || partition) is not null;
    lower_bound := private.uuid_v7_floor(month);
    upper_bound := private.uuid_v7_floor(month + interval '1 month');
    -- Rows of this month in the default partition stand in the way, and belong here.
    select exists (select from private.events_elsewhere where id >= lower_bound and id < upper_bound) into has_strays;
    if has_strays then
      alter table public.events detach partition private.events_elsewhere;
    end if;
    execute format('create table private.%I partition of public.events for values from (%L) to (%L)',
      partition, lower_bound, upper_bound);
    if has_strays then
      -- Not through public.events: these happenings were dispatched when they came.
      execute format('insert into private.%I select * from private.events_elsewhere where id >= %L and id < %L',
        partition, lower_bound, upper_bound);
      delete from private.events_elsewhere where id >= lower_bound and id < upper_bound;
      alter table public.events attach partition private.events_elsewhere default;
    end if;
    execute format('create trigger events_no_truncate before truncate on private.%I for each statement execute function private.refuse_change()', partition);
    made := made + 1;
  end loop;
  return made;
end;
$$;
comment on function private.make_event_partitions is 'Make the partitions of events ahead of time; run often.';

select private.make_event_partitions();
