-- Deliveries: the duty to bring one event to one subscriber, with lease, attempts and outcome.

create type public.delivery_status as enum ('pending', 'running', 'done', 'failed', 'dead', 'skipped');

create table public.deliveries (
  id                 uuid primary key default private.uuid_v7(),
  org_id             uuid not null,
  event_id           uuid not null,
  subscription_id    uuid not null,
  mode               public.delivery_mode not null default 'live',
  replay_id          uuid,
  version_id         uuid,
  status             public.delivery_status not null default 'pending',
  is_waiting         boolean not null generated always as (status in ('pending', 'failed')) stored,
  attempts           smallint not null default 0,
  run_at             timestamptz not null default now(),
  order_key          uuid,
  lease_token        uuid,
  leased_until       timestamptz,
  claimed_at         timestamptz,
  last_error         text,
  result             jsonb,
  effects_applied_at timestamptz,
  created_at         timestamptz not null default now(),
  updated_at         timestamptz not null default now(),

  constraint deliveries_subscription foreign key (org_id, subscription_id) references public.subscriptions (org_id, id) on delete cascade,
  constraint deliveries_replay foreign key (org_id, replay_id) references public.replays (org_id, id),
  constraint deliveries_version foreign key (org_id, version_id) references public.agent_versions (org_id, id) on delete cascade,
  constraint deliveries_leased check ((status = 'running') = (lease_token is not null))
);
comment on table public.deliveries is 'Each is the duty to bring one event to one subscriber.';
comment on column public.deliveries.event_id is 'No foreign key: only the trigger on events makes deliveries, and partitions of events are archived one by one.';
comment on column public.deliveries.effects_applied_at is 'Effects happen once, however often the delivery is replayed.';
comment on column public.deliveries.replay_id is 'The last replay that put the delivery in line again.';
comment on column public.deliveries.version_id is 'The version that decides; without one, the published version.';
create unique index deliveries_once on public.deliveries (event_id, subscription_id) where mode = 'live';
create index deliveries_subscription_idx on public.deliveries (org_id, subscription_id, id desc);
create index deliveries_due_idx on public.deliveries (subscription_id, run_at) where is_waiting and mode = 'live';
create index deliveries_leased_idx on public.deliveries (leased_until) where status = 'running';
create index deliveries_order_idx on public.deliveries (subscription_id, order_key, id)
  where order_key is not null and status in ('pending', 'failed', 'running');
create index deliveries_dead_idx on public.deliveries (id) where status = 'dead' and mode = 'live';
create unique index deliveries_once_per_rehearsal on public.deliveries (replay_id, event_id, subscription_id) where mode = 'rehearsal';
create index deliveries_replay_idx on public.deliveries (org_id, replay_id) where replay_id is not null;
create index deliveries_version_idx on public.deliveries (org_id, version_id) where version_id is not null;
create index deliveries_failed_idx on public.deliveries (org_id, subscription_id, id) where status in ('failed', 'dead');
create index deliveries_rehearsed_idx on public.deliveries (subscription_id, run_at) where is_waiting and mode = 'rehearsal';

create trigger deliveries_touch before update on public.deliveries
  for each row execute function private.touch_updated_at();

alter table public.deliveries enable row level security, force row level security;
grant select on public.deliveries to authenticated, service_role;
create policy "members read deliveries" on public.deliveries for select to authenticated
  using (org_id in (select private.my_orgs('deliveries.read')));
