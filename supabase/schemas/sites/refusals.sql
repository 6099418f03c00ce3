-- Refusals: how many requests of a site stored nothing, and why.

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
comment on column public.refusals.reason is 'Why the request was refused; duplicate: it was accepted, being here already.';
create index refusals_site_idx on public.refusals (org_id, site_id, minute);
create index refusals_minute_idx on public.refusals (minute);

alter table public.refusals enable row level security, force row level security;
grant select on public.refusals to authenticated, service_role;
create policy "members read refusals" on public.refusals for select to authenticated
  using (org_id in (select private.my_orgs('events.read')));

-- security definer: hub_service may touch no table itself.
create function hub.count_refusals(refusals jsonb)
returns jsonb
language sql security definer set search_path = ''
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
comment on function hub.count_refusals is 'Add up the requests that an instance refused lately, and those that were sent again.';
grant execute on function hub.count_refusals to hub_service;

create function private.prune_limits()
returns void
language sql set search_path = ''
as $$
  delete from private.address_turns where address_turns.free_at < now();
  delete from public.refusals where refusals.minute < now() - interval '2 days';
$$;
comment on function private.prune_limits is 'Remove addresses that have rested and old refusals.';
