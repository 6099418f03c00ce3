-- Limits: how much a site and an address may send, and how much was refused.
--
-- A site's turns are counted by a sequence, because that is the one thing in Postgres that every transaction sees at
-- once and no transaction holds a lock on: its number runs ahead of the clock by as many turns as were taken of the
-- burst. An address matters only where no secret proves the sender, and has a row of its own.

set lock_timeout = '5s';
set statement_timeout = '60s';

alter table public.sites
  add column max_per_second integer not null default 500
    constraint sites_max_per_second_range check (max_per_second between 1 and 1000000),
  add column max_per_second_from_pages integer not null default 50
    constraint sites_max_per_second_from_pages_range check (max_per_second_from_pages between 1 and 1000000),
  add column max_per_minute_per_address integer not null default 20
    constraint sites_max_per_minute_per_address_range check (max_per_minute_per_address between 1 and 1000000);
comment on column public.sites.max_per_second is 'Submissions with a secret or signature, in the long run; fifteen to twenty seconds'' worth may come at once.';
comment on column public.sites.max_per_second_from_pages is 'The same of browsers, counted apart: they cannot use up what servers may send.';
comment on column public.sites.max_per_minute_per_address is 'Submissions of browsers from one address; a minute''s worth may come at once.';
grant update (max_per_second, max_per_second_from_pages, max_per_minute_per_address) on public.sites to authenticated;

-- security definer: whoever adds a site may create no sequence.
create function private.make_turn_clocks()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  purpose text;
begin
  foreach purpose in array '{sender,page,token}'::text[] loop
    execute format('create sequence if not exists private.%I', private.turn_clock(new.id, purpose));
  end loop;
  return null;
end;
$$;
comment on function private.make_turn_clocks is 'Trigger: a site has a clock for each sort of turn.';

create function private.turn_clock(site_id uuid, purpose text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return 'turns_' || purpose || '_' || replace(site_id::text, '-', '');
end;
$$;
comment on function private.turn_clock is 'The sequence that counts a site''s turns of one sort.';
create trigger sites_turn_clocks after insert on public.sites
  for each row execute function private.make_turn_clocks();
do $$
declare
  clock text;
begin
  for clock in
    select private.turn_clock(sites.id, sort.name) from public.sites cross join unnest('{sender,page,token}'::text[]) as sort (name)
  loop
    execute format('create sequence private.%I', clock);
  end loop;
end;
$$;

create function private.refuse_turn(seconds numeric)
returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'Too many requests; nothing of this one was stored.'
    using errcode = 'PT429', detail = 'rate_limited', hint = greatest(1, ceil(seconds))::text;
end;
$$;
comment on function private.refuse_turn is 'Raise 429; the hint says after how many seconds to come again.';

create function private.take_site_turn(site_id uuid, purpose text, per_second integer)
returns void
language plpgsql
set search_path = ''
as $$
declare
  clock regclass := ('private.' || private.turn_clock(site_id, purpose))::regclass;
  burst bigint := per_second * 20;
  now_turns bigint := extract(epoch from clock_timestamp()) * per_second;
  ahead bigint := nextval(clock) - now_turns;
begin
  -- Behind is a site that has rested. A quarter of the burst stays used, else each form of a site that never sends
  -- much would write the clock anew. Far ahead is a rate that was lowered, or a clock that was set back.
  if ahead <= 0 or ahead > burst + 1000 then
    perform setval(clock, now_turns + burst / 4);
  elsif ahead > burst then
    perform setval(clock, now_turns + burst);
    perform private.refuse_turn((ahead - burst)::numeric / per_second);
  end if;
end;
$$;
comment on function private.take_site_turn is 'One more from a site, or 429. A few that come at the same instant may pass uncounted.';

-- Kept for as long as they say anything: a minute.
create table private.address_turns (
  site_id uuid not null references public.sites (id) on delete cascade,
  purpose text not null,
  address text not null,
  free_at timestamptz not null,

  primary key (site_id, purpose, address),
  constraint address_turns_address_length check (length(address) between 1 and 64)
);
comment on table private.address_turns is 'When an address has used none of its burst any more.';
create index address_turns_free_idx on private.address_turns (free_at);

create function private.take_address_turn(site_id uuid, purpose text, address text, per_minute integer)
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  step interval := interval '1 minute' / per_minute;
  at timestamptz := clock_timestamp();
  free timestamptz;
begin
  insert into private.address_turns (site_id, purpose, address, free_at)
  values (take_address_turn.site_id, take_address_turn.purpose, take_address_turn.address, at + step)
  on conflict on constraint address_turns_pkey do update
    set free_at = greatest(address_turns.free_at, at) + step
    where address_turns.free_at <= at + interval '1 minute' - step;
  if not found then
    select address_turns.free_at into free from private.address_turns
    where address_turns.site_id = take_address_turn.site_id and address_turns.purpose = take_address_turn.purpose
      and address_turns.address = take_address_turn.address;
    perform private.refuse_turn(extract(epoch from free - at - interval '1 minute' + step));
  end if;
end;
$$;
comment on function private.take_address_turn is 'One more from an address, or 429.';

-- security definer, here and below: hub_service may touch no table itself.
create function hub.count_page_token(site_id uuid, address text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  site public.sites;
begin
  select * into site from public.sites where sites.id = count_page_token.site_id and sites.enabled;
  if not found then
    perform private.fail(401, 'unknown_site', 'There is no such site.');
  end if;
  perform private.take_address_turn(site.id, 'token', address, site.max_per_minute_per_address);
  perform private.take_site_turn(site.id, 'token', site.max_per_second_from_pages);
  return 'true';
end;
$$;
comment on function hub.count_page_token is 'Count a page token against what its site and address may have, or 429.';
grant execute on function hub.count_page_token to hub_service;

create table public.refusals (
  org_id  uuid not null,
  site_id uuid not null,
  reason  text not null,
  minute  timestamptz not null,
  count   integer not null,

  primary key (site_id, reason, minute),
  constraint refusals_site foreign key (org_id, site_id) references public.sites (org_id, id) on delete cascade,
  constraint refusals_reason_known check (reason in ('missing', 'secret', 'signature', 'timestamp', 'page_token', 'origin', 'revoked', 'rate', 'duplicate'))
);
comment on table public.refusals is 'How many requests stored nothing: per site, reason and minute, for two days.';
comment on column public.refusals.reason is 'Why it was refused; duplicate: it was accepted, being here already.';
create index refusals_site_idx on public.refusals (org_id, site_id, minute);
create index refusals_minute_idx on public.refusals (minute);

alter table public.refusals enable row level security;
alter table public.refusals force row level security;
grant select on public.refusals to authenticated, service_role;
create policy "members read refusals" on public.refusals for select to authenticated
  using (org_id in (select private.my_orgs('events.read')));

create function hub.count_refusals(refusals jsonb)
returns jsonb
language sql
security definer
set search_path = ''
as $$
  -- In order, so that two instances lock in the same order.
  insert into public.refusals (org_id, site_id, reason, minute, count)
  select sites.org_id, sites.id, refused.reason, date_trunc('minute', now()), sum(refused.count)
  from jsonb_to_recordset(count_refusals.refusals) as refused (site text, reason text, count integer)
  join public.sites on sites.slug = refused.site
  group by sites.id, refused.reason
  order by sites.id, refused.reason
  on conflict on constraint refusals_pkey do update set count = refusals.count + excluded.count;
  select 'true'::jsonb;
$$;
comment on function hub.count_refusals is 'Add up what an instance refused lately, and what it was sent again.';
grant execute on function hub.count_refusals to hub_service;

create function private.prune_limits()
returns void
language sql
set search_path = ''
as $$
  delete from private.address_turns where address_turns.free_at < now();
  delete from public.refusals where refusals.minute < now() - interval '2 days';
$$;
comment on function private.prune_limits is 'Remove addresses that have rested and refusals of old.';
select cron.schedule('prune_limits', '*/5 * * * *', $$select private.prune_limits()$$);
