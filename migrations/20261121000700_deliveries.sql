-- Deliveries: the duty to bring one event to one subscriber, with lease, attempts and outcome.
--
-- A trigger makes one delivery per matching subscription and rings the target's bell through pg_net. The bell
-- may be lost: the sweep finds whatever is due. A function claims a batch under leases and settles each
-- delivery in the transaction of its effects; whoever lost the lease settles nothing.

set lock_timeout = '5s';
set statement_timeout = '60s';

create type public.target_kind as enum ('function', 'webhook');
create type public.delivery_mode as enum ('live', 'shadow');
create type public.delivery_status as enum ('pending', 'running', 'done', 'failed', 'dead', 'skipped');

create table public.subscriptions (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null references public.organizations (id),
  name         text not null,
  event_types  text[] not null,
  target_kind  public.target_kind not null default 'function',
  target       text not null,
  agent_id     uuid,
  paused       boolean not null default false,
  ordered      boolean not null default false,
  max_attempts smallint not null default 8,
  retry_base   interval not null default '5 seconds',
  created_at   timestamptz not null default now(),
  updated_at   timestamptz not null default now(),

  constraint subscriptions_of_org unique (org_id, id),
  constraint subscriptions_name_unique unique (org_id, name),
  constraint subscriptions_agent foreign key (org_id, agent_id) references public.agents (org_id, id),
  constraint subscriptions_target_form check (target_kind <> 'function' or target ~ '^[a-z][a-z0-9-]{1,62}$'),
  constraint subscriptions_max_attempts_range check (max_attempts between 1 and 50),
  constraint subscriptions_retry_base_range check (retry_base between interval '0' and interval '1 hour')
);
comment on table public.subscriptions is 'A standing wish: bring events of these types to this function or URL.';
comment on column public.subscriptions.event_types is 'Names, or patterns such as form.*';
comment on column public.subscriptions.ordered is 'One delivery at a time and in order for each contact.';
create index subscriptions_agent_idx on public.subscriptions (org_id, agent_id);
create index subscriptions_target_idx on public.subscriptions (target);

create table public.deliveries (
  id                 uuid primary key default private.uuid_v7(),
  org_id             uuid not null,
  event_id           uuid not null,
  subscription_id    uuid not null,
  mode               public.delivery_mode not null default 'live',
  status             public.delivery_status not null default 'pending',
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
  constraint deliveries_leased check ((status = 'running') = (lease_token is not null))
);
comment on table public.deliveries is 'The duty to bring one event to one subscriber.';
comment on column public.deliveries.event_id is 'No foreign key: only the trigger on events makes deliveries, and partitions of events are archived one by one.';
comment on column public.deliveries.effects_applied_at is 'Effects happen once, however often the delivery is replayed.';
create unique index deliveries_once on public.deliveries (event_id, subscription_id) where mode = 'live';
create index deliveries_subscription_idx on public.deliveries (org_id, subscription_id, id desc);
create index deliveries_due_idx on public.deliveries (subscription_id, run_at) where status in ('pending', 'failed');
create index deliveries_leased_idx on public.deliveries (leased_until) where status = 'running';
create index deliveries_order_idx on public.deliveries (subscription_id, order_key, id)
  where order_key is not null and status in ('pending', 'failed', 'running');

create table public.delivery_attempts (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null,
  delivery_id uuid not null references public.deliveries (id) on delete cascade,
  attempt     smallint not null,
  outcome     text not null,
  error       text,
  duration_ms integer,
  started_at  timestamptz,
  ended_at    timestamptz not null default clock_timestamp()
);
comment on table public.delivery_attempts is 'Each try of a delivery and how it ended.';
create index delivery_attempts_delivery_idx on public.delivery_attempts (delivery_id);

create table public.agent_actions (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null,
  agent_id     uuid not null,
  agent        text not null,
  version_id   uuid not null,
  delivery_id  uuid not null references public.deliveries (id),
  event_id     uuid not null,
  contact_id   uuid,
  lead_id      uuid,
  decision     text not null,
  reasons      text[] not null default '{}',
  confidence   numeric(4, 3),
  outcome      public.action_outcome not null,
  input_digest text,
  output       jsonb not null default '{}',
  tokens       integer,
  cost_cents   numeric(12, 4),
  duration_ms  integer,
  trace_id     text not null,
  created_at   timestamptz not null default now(),

  constraint agent_actions_agent foreign key (org_id, agent_id) references public.agents (org_id, id),
  constraint agent_actions_version foreign key (org_id, version_id) references public.agent_versions (org_id, id),
  constraint agent_actions_contact foreign key (org_id, contact_id) references public.contacts (org_id, id),
  constraint agent_actions_lead foreign key (org_id, lead_id) references public.leads (org_id, id),
  constraint agent_actions_once unique (delivery_id),
  constraint agent_actions_confidence_range check (confidence between 0 and 1)
);
comment on table public.agent_actions is 'One decision of one agent: what it saw, what it chose, how sure, what came of it.';
create index agent_actions_agent_idx on public.agent_actions (org_id, agent_id, id desc);
create index agent_actions_version_idx on public.agent_actions (org_id, version_id);
create index agent_actions_event_idx on public.agent_actions (event_id);
create index agent_actions_contact_idx on public.agent_actions (org_id, contact_id, id desc);
create index agent_actions_lead_idx on public.agent_actions (org_id, lead_id);

create table public.alerts (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  kind       text not null,
  subject    text not null,
  message    text not null,
  details    jsonb not null default '{}',
  opened_at  timestamptz not null default now(),
  closed_at  timestamptz
);
comment on table public.alerts is 'What a person should look at; one open alert per kind and subject.';
create unique index alerts_one_open on public.alerts (org_id, kind, subject) where closed_at is null;
create index alerts_org_idx on public.alerts (org_id, id desc);

create table private.kick_failures (
  target    text primary key,
  failures  integer not null default 1,
  error     text not null,
  failed_at timestamptz not null default now()
);
comment on table private.kick_failures is 'Bells that could not be rung: the event stands, the sweep delivers, this says why it took longer.';

create trigger subscriptions_touch before update on public.subscriptions
  for each row execute function private.touch_updated_at();
create trigger deliveries_touch before update on public.deliveries
  for each row execute function private.touch_updated_at();

alter table public.subscriptions enable row level security;
alter table public.subscriptions force row level security;
grant select on public.subscriptions to authenticated, service_role;
grant update (event_types, paused, max_attempts, retry_base) on public.subscriptions to authenticated;
create policy "members read subscriptions" on public.subscriptions for select to authenticated
  using (org_id in (select private.my_orgs('subscriptions.read')));
create policy "admins change subscriptions" on public.subscriptions for update to authenticated
  using (org_id in (select private.my_orgs('subscriptions.write')))
  with check (org_id in (select private.my_orgs('subscriptions.write')));

alter table public.deliveries enable row level security;
alter table public.deliveries force row level security;
-- The lease token too: only hub_service may settle, so it opens nothing for whoever reads it.
grant select on public.deliveries to authenticated, service_role;
create policy "members read deliveries" on public.deliveries for select to authenticated
  using (org_id in (select private.my_orgs('deliveries.read')));

alter table public.delivery_attempts enable row level security;
alter table public.delivery_attempts force row level security;
grant select on public.delivery_attempts to authenticated, service_role;
create policy "members read delivery attempts" on public.delivery_attempts for select to authenticated
  using (org_id in (select private.my_orgs('deliveries.read')));

alter table public.agent_actions enable row level security;
alter table public.agent_actions force row level security;
grant select on public.agent_actions to authenticated, service_role;
create policy "members read actions, closers those of their leads" on public.agent_actions for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')) or contact_id in (select private.my_assigned_contacts()));

alter table public.alerts enable row level security;
alter table public.alerts force row level security;
grant select on public.alerts to authenticated, service_role;
create policy "members read alerts" on public.alerts for select to authenticated
  using (org_id in (select private.my_orgs('alerts.read')));

-- The bell

create function private.invoke(name text, body jsonb default '{}', timeout_ms integer default 2000)
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  base text;
  key text;
begin
  select max(decrypted_secret) filter (where decrypted_secrets.name = 'functions_url'),
         max(decrypted_secret) filter (where decrypted_secrets.name = 'hub_invoke_secret')
  into base, key
  from vault.decrypted_secrets
  where decrypted_secrets.name in ('functions_url', 'hub_invoke_secret');
  if base is null or key is null then
    perform private.fail(500, 'vault_secret_missing', 'The vault lacks functions_url or hub_invoke_secret.');
  end if;
  return net.http_post(
    url => base || '/' || invoke.name,
    body => body,
    headers => jsonb_build_object(
      'Content-Type', 'application/json',
      'apikey', key,
      'traceparent', format('00-%s-%s-01', replace(gen_random_uuid()::text, '-', ''),
                            left(replace(gen_random_uuid()::text, '-', ''), 16))),
    timeout_milliseconds => timeout_ms);
end;
$$;
comment on function private.invoke is 'Call a function over HTTP, after commit. The only place that knows URL and secret.';

-- When a target was last kicked is kept in a sequence, because that is the one thing in Postgres that every
-- transaction sees at once and no transaction holds a lock on.
create function private.make_kick_clock()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  if new.target_kind = 'function' then
    execute format('create sequence if not exists private.%I', 'kicked_' || md5(new.target));
  end if;
  return null;
end;
$$;
comment on function private.make_kick_clock is 'Trigger: a target that can be kicked has a clock.';
create trigger subscriptions_kick_clock after insert or update of target on public.subscriptions
  for each row execute function private.make_kick_clock();

create view private.willing_subscriptions as
  select subscriptions.*
  from public.subscriptions
  join public.organizations on organizations.id = subscriptions.org_id
  left join public.agents on agents.id = subscriptions.agent_id
  where subscriptions.target_kind = 'function'
    and not subscriptions.paused
    and not organizations.paused
    and organizations.closed_at is null
    and (agents.id is null or agents.status in ('idle', 'running'));
comment on view private.willing_subscriptions is 'Subscriptions whose deliveries a function may handle now: nothing about them is paused or closed.';

create function private.kick(target text)
returns boolean
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  clock regclass := to_regclass('private.kicked_' || md5(kick.target));
  now_ms bigint := extract(epoch from clock_timestamp()) * 1000;
begin
  -- A target that was kicked this very moment lingers and will find this work too. If it does not, the sweep will.
  -- A time in the future is a clock that was set back, or another server's.
  if pg_sequence_last_value(clock) between now_ms - 100 and now_ms then
    return false;
  end if;
  perform setval(clock, now_ms);
  begin
    perform private.invoke(kick.target, jsonb_build_object('target', kick.target));
  exception when others then
    insert into private.kick_failures (target, error) values (kick.target, sqlerrm)
    on conflict (target) do update set failures = kick_failures.failures + 1, error = excluded.error, failed_at = now();
    return false;
  end;
  return true;
end;
$$;
comment on function private.kick is 'Wake a function that has deliveries waiting; at most every 100 ms, and never an error for the caller.';

create function private.wants(patterns text[], type text)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- A pattern can only end in a dot and a star, so a type has few that name it.
  return patterns && array[type, split_part(type, '.', 1) || '.*', '*'];
end;
$$;
comment on function private.wants is 'Whether one of the patterns names this event type.';

-- An agent never acts on what came of its own action, however many others stood between: that would not end.
create function private.has_acted_on_cause(cause_id uuid, subscription_id uuid)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_column
begin
  return exists (
    with recursive chain (id) as (
      select has_acted_on_cause.cause_id
      union all
      select events.cause_id
      from chain
      join public.events on events.id = chain.id and events.cause_id is not null
    )
    select from chain
    join public.deliveries on deliveries.event_id = chain.id
    where deliveries.subscription_id = has_acted_on_cause.subscription_id);
end;
$$;
comment on function private.has_acted_on_cause is 'Whether a subscription was delivered one of the events that led to this one.';

-- security definer: whoever may write an event need not be able to write deliveries.
create function private.dispatch_events()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  waiting text[];
begin
  with made as (
    insert into public.deliveries (org_id, event_id, subscription_id, order_key)
    select fresh.org_id, fresh.id, subscriptions.id, case when subscriptions.ordered then fresh.contact_id end
    from fresh
    join public.subscriptions on subscriptions.org_id = fresh.org_id and private.wants(subscriptions.event_types, fresh.type)
    where fresh.cause_id is null or not private.has_acted_on_cause(fresh.cause_id, subscriptions.id)
    returning subscription_id
  )
  select array_agg(distinct willing.target) into waiting
  from made
  join private.willing_subscriptions as willing on willing.id = made.subscription_id;

  if waiting is not null then
    perform private.kick(target) from unnest(waiting) as target;
  end if;
  return null;
end;
$$;
comment on function private.dispatch_events is 'Trigger: one delivery per matching subscription, one kick per target and statement.';
create trigger events_dispatch after insert on public.events
  referencing new table as fresh
  for each statement execute function private.dispatch_events();

create function private.bury_delivery(delivery_id uuid, error text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  buried record;
begin
  update public.deliveries
  set status = 'dead', last_error = bury_delivery.error, lease_token = null, leased_until = null
  where deliveries.id = bury_delivery.delivery_id;

  select events.id as event_id, events.org_id, events.site_id, events.contact_id, events.type, events.trace_id, subscriptions.name
  into buried
  from public.deliveries
  join public.events on events.id = deliveries.event_id
  join public.subscriptions on subscriptions.id = deliveries.subscription_id
  where deliveries.id = bury_delivery.delivery_id;

  insert into public.alerts (org_id, kind, subject, message, details)
  values (
    buried.org_id, 'delivery_dead', bury_delivery.delivery_id::text,
    format('%s gave up on a %s event: %s', buried.name, buried.type, bury_delivery.error),
    jsonb_build_object('event_id', buried.event_id, 'subscription', buried.name, 'trace_id', buried.trace_id))
  on conflict (org_id, kind, subject) where closed_at is null do nothing;

  -- Else a subscriber that fails on every event would bury without end.
  if buried.type <> 'delivery.dead' then
    insert into public.events (org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, cause_id)
    values (
      buried.org_id, buried.site_id, 'delivery.dead', buried.contact_id, 'delivery', bury_delivery.delivery_id, 'hub',
      jsonb_build_object('delivery_id', bury_delivery.delivery_id, 'subscription', buried.name, 'error', bury_delivery.error),
      buried.trace_id, buried.event_id);
  end if;
end;
$$;
comment on function private.bury_delivery is 'Give a delivery up: it stays with its error, an alert and an event say so.';

-- Full jitter: a crowd that failed together does not come back together.
create function private.retry_at(attempts integer, base interval, retry_after_seconds numeric)
returns timestamptz
language sql
volatile
set search_path = ''
as $$
  select clock_timestamp() + greatest(
    make_interval(secs => greatest(0, least(coalesce(retry_after_seconds, 0), 86400))),
    random() * least(interval '1 hour', base * power(2, least(attempts - 1, 20))));
$$;

-- The doors of functions. security definer throughout: hub_service may touch no table itself.

create function hub.claim_deliveries(target text, batch_size integer default 10, lease_seconds integer default 20)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  batch jsonb;
begin
  with willing as (
    select willing_subscriptions.id
    from private.willing_subscriptions
    where willing_subscriptions.target = claim_deliveries.target
    -- No tenant's backlog goes always first.
    order by random()
  ),
  due as (
    select next.id
    from willing
    cross join lateral (
      select deliveries.id
      from public.deliveries
      where deliveries.subscription_id = willing.id
        and deliveries.status in ('pending', 'failed')
        and deliveries.run_at <= now()
        and (deliveries.order_key is null or not exists (
          select from public.deliveries as earlier
          where earlier.subscription_id = deliveries.subscription_id
            and earlier.order_key = deliveries.order_key
            and earlier.id < deliveries.id
            and earlier.status in ('pending', 'failed', 'running')))
      order by deliveries.run_at
      limit least(claim_deliveries.batch_size, 100)
      for update of deliveries skip locked
    ) as next
    limit least(claim_deliveries.batch_size, 100)
  ),
  claimed as (
    update public.deliveries
    set status = 'running',
        attempts = deliveries.attempts + 1,
        lease_token = gen_random_uuid(),
        claimed_at = clock_timestamp(),
        leased_until = clock_timestamp() + make_interval(secs => least(claim_deliveries.lease_seconds, 600))
    from due
    where deliveries.id = due.id
    returning deliveries.*
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', claimed.id,
    'lease_token', claimed.lease_token,
    'attempt', claimed.attempts,
    'mode', claimed.mode,
    'subscription', subscriptions.name,
    'org_id', claimed.org_id,
    'event', jsonb_build_object(
      'id', events.id, 'type', events.type, 'site_id', events.site_id, 'site', sites.slug, 'contact_id', events.contact_id,
      'subject_type', events.subject_type, 'subject_id', events.subject_id, 'source', events.source,
      'data', events.data, 'trace_id', events.trace_id, 'occurred_at', events.occurred_at),
    'contact', case when contacts.id is not null then jsonb_build_object(
      'id', contacts.id, 'name', contacts.name, 'is_repeat', history.earlier > 0, 'earlier_events', history.earlier) end,
    'agent', case when agents.id is not null then jsonb_build_object(
      'id', agents.id, 'name', agents.name, 'version_id', versions.id, 'version', versions.version, 'config', versions.config) end,
    'memory', coalesce(memory.facts, '{}')
  ) order by claimed.run_at), '[]')
  into batch
  from claimed
  join public.subscriptions on subscriptions.id = claimed.subscription_id
  join public.events on events.id = claimed.event_id
  left join public.sites on sites.id = events.site_id
  left join public.contacts on contacts.id = events.contact_id
  left join public.agents on agents.id = subscriptions.agent_id
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  cross join lateral (
    select count(*) as earlier
    from (
      select from public.events as before
      where before.org_id = events.org_id and before.contact_id = events.contact_id and before.id < events.id
        and before.type = events.type
      limit 50
    ) as seen
  ) as history
  left join lateral (
    select jsonb_object_agg(agent_memory.key, agent_memory.value) as facts
    from public.agent_memory
    where agent_memory.agent_id = agents.id
      and agent_memory.subject_type = 'contact'
      and agent_memory.subject_id = events.contact_id
      and coalesce(agent_memory.expires_at, 'infinity') > now()
  ) as memory on true;
  return batch;
end;
$$;
comment on function hub.claim_deliveries is 'Take up to batch_size due deliveries of a target under a lease, with all that is needed to handle them.';
grant execute on function hub.claim_deliveries to hub_service;

create function hub.extend_leases(leases jsonb, lease_seconds integer)
returns jsonb
language sql
security definer
set search_path = ''
as $$
  with kept as (
    update public.deliveries
    set leased_until = clock_timestamp() + make_interval(secs => least(extend_leases.lease_seconds, 600))
    from jsonb_to_recordset(leases) as held (id uuid, lease_token uuid)
    where deliveries.id = held.id and deliveries.lease_token = held.lease_token and deliveries.status = 'running'
    returning deliveries.id
  )
  select coalesce(jsonb_agg(kept.id), '[]') from kept;
$$;
comment on function hub.extend_leases is 'Keep leases that are still held; answers which ones.';
grant execute on function hub.extend_leases to hub_service;

create function private.apply_effects(delivery public.deliveries, effects jsonb, duration_ms integer)
returns void
language plpgsql
set search_path = ''
as $$
declare
  event public.events;
  brain record;
  scored_lead uuid;
begin
  select * into event from public.events where events.id = delivery.event_id;
  select agents.id as agent_id, agents.name as agent, versions.id as version_id
  into brain
  from public.subscriptions
  join public.agents on agents.id = subscriptions.agent_id
  join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  where subscriptions.id = delivery.subscription_id;

  if effects ? 'lead' and event.subject_type = 'lead' then
    update public.leads
    set score = (effects #>> '{lead,score}')::smallint,
        reasons = array(select jsonb_array_elements_text(effects #> '{lead,reasons}')),
        next_step = effects #>> '{lead,next_step}',
        scored_by = event.id,
        last_action_at = now()
    where leads.org_id = event.org_id and leads.id = event.subject_id
      and coalesce(leads.scored_by, event.id) <= event.id
    returning leads.id into scored_lead;

    update public.contacts
    set attributes = contacts.attributes || jsonb_build_object('lead_score', effects #> '{lead,score}')
    where scored_lead is not null and contacts.id = event.contact_id;
  end if;

  if effects ? 'action' then
    insert into public.agent_actions (
      org_id, agent_id, agent, version_id, delivery_id, event_id, contact_id, lead_id, decision, reasons, confidence,
      outcome, input_digest, output, tokens, cost_cents, duration_ms, trace_id)
    select
      event.org_id, brain.agent_id, brain.agent, coalesce((effects #>> '{action,version_id}')::uuid, brain.version_id),
      delivery.id, event.id, event.contact_id, case when event.subject_type = 'lead' then event.subject_id end,
      action.decision, coalesce(action.reasons, '{}'), action.confidence, action.outcome, action.input_digest,
      coalesce(action.output, '{}'), action.tokens, action.cost_cents, apply_effects.duration_ms, event.trace_id
    from jsonb_to_record(effects -> 'action') as action (
      decision text, reasons text[], confidence numeric, outcome public.action_outcome, input_digest text,
      output jsonb, tokens integer, cost_cents numeric);
  end if;

  insert into public.agent_memory (org_id, agent_id, subject_type, subject_id, key, value, source_event_id)
  select event.org_id, brain.agent_id, 'contact', event.contact_id, fact.key, coalesce(fact.value, 'null'), event.id
  from jsonb_to_recordset(coalesce(effects -> 'memory', '[]')) as fact (key text, value jsonb)
  where event.contact_id is not null
  on conflict on constraint agent_memory_once do update
    set value = excluded.value, source_event_id = excluded.source_event_id
    where coalesce(agent_memory.source_event_id, event.id) <= event.id;

  insert into public.events (org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, cause_id)
  select
    event.org_id, event.site_id, said.type, event.contact_id,
    coalesce(said.subject_type, event.subject_type), coalesce(said.subject_id, event.subject_id),
    coalesce(brain.agent, 'hub'), coalesce(said.data, '{}'), event.trace_id, event.id
  from jsonb_to_recordset(coalesce(effects -> 'events', '[]')) as said (type text, data jsonb, subject_type text, subject_id uuid);
end;
$$;
comment on function private.apply_effects is 'What a handled delivery changes: an action, a lead''s score, memories, new events.';

create function private.settle_delivery(settlement jsonb)
returns text
language plpgsql
set search_path = ''
as $$
declare
  delivery public.deliveries;
  wish public.subscriptions;
  outcome text := settlement ->> 'outcome';
  error text := left(settlement ->> 'error', 2000);
begin
  -- The lease's token is the fence: who was late, or was killed and came back, changes nothing.
  select * into delivery
  from public.deliveries
  where deliveries.id = (settlement ->> 'id')::uuid
    and deliveries.status = 'running'
    and deliveries.lease_token = (settlement ->> 'lease_token')::uuid
  for update;
  if not found then
    return 'lost';
  end if;
  select * into wish from public.subscriptions where subscriptions.id = delivery.subscription_id;

  if outcome = 'done' and delivery.mode = 'live' and delivery.effects_applied_at is null and settlement ? 'effects' then
    perform private.apply_effects(delivery, settlement -> 'effects', (settlement ->> 'duration_ms')::integer);
    delivery.effects_applied_at := now();
  end if;

  if outcome <> 'release' then
    insert into public.delivery_attempts (org_id, delivery_id, attempt, outcome, error, duration_ms, started_at)
    values (delivery.org_id, delivery.id, delivery.attempts, outcome, error, (settlement ->> 'duration_ms')::integer, delivery.claimed_at);
  end if;

  if outcome = 'dead' or (outcome = 'retry' and delivery.attempts >= wish.max_attempts) then
    perform private.bury_delivery(delivery.id, coalesce(error, 'no reason given'));
    return 'dead';
  end if;

  update public.deliveries
  set lease_token = null,
      leased_until = null,
      effects_applied_at = delivery.effects_applied_at,
      result = coalesce(settlement -> 'result', deliveries.result),
      last_error = case when outcome = 'release' then deliveries.last_error else error end,
      attempts = deliveries.attempts - (outcome = 'release')::integer,
      run_at = case outcome
        when 'retry' then private.retry_at(deliveries.attempts, wish.retry_base, (settlement ->> 'retry_after_seconds')::numeric)
        when 'release' then now()
        else deliveries.run_at end,
      status = case outcome
        when 'done' then 'done' when 'skipped' then 'skipped' when 'retry' then 'failed' when 'release' then 'pending'
      end::public.delivery_status
  where deliveries.id = delivery.id
  returning status::text into outcome;
  return outcome;
end;
$$;
comment on function private.settle_delivery is 'Write down how a delivery ended, with its effects, if the lease is still ours.';

create function hub.settle_deliveries(settlements jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  settlement jsonb;
  status text;
  rule text;
  results jsonb := '[]';
begin
  -- Ordered, so that two batches lock in the same order.
  for settlement in select value from jsonb_array_elements(settlements) order by value ->> 'id' loop
    begin
      status := private.settle_delivery(settlement);
    exception
      when serialization_failure or deadlock_detected then
        raise;
      when others then
        -- One that cannot be written must not take the others with it: it is tried again, then given up. Postgres'
        -- own words may quote what a customer wrote; its code and the rule's name do not.
        get stacked diagnostics rule = constraint_name;
        status := private.settle_delivery(jsonb_build_object(
          'id', settlement -> 'id', 'lease_token', settlement -> 'lease_token', 'outcome', 'retry',
          'error', concat_ws(' ', 'could not be settled:', sqlstate, nullif(rule, ''))));
    end;
    results := results || jsonb_build_object('id', settlement -> 'id', 'status', status);
  end loop;
  return results;
end;
$$;
comment on function hub.settle_deliveries is 'Settle deliveries, each by itself; answers what became of each.';
grant execute on function hub.settle_deliveries to hub_service;

create function private.sweep_deliveries()
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  expired record;
  lapsed integer := 0;
  kicked integer;
begin
  for expired in
    select deliveries.id, deliveries.org_id, deliveries.attempts, deliveries.claimed_at, subscriptions.max_attempts, subscriptions.retry_base
    from public.deliveries
    join public.subscriptions on subscriptions.id = deliveries.subscription_id
    where deliveries.status = 'running' and deliveries.leased_until < now()
    order by deliveries.id
    limit 1000
    for update of deliveries skip locked
  loop
    lapsed := lapsed + 1;
    begin
      insert into public.delivery_attempts (org_id, delivery_id, attempt, outcome, error, started_at)
      values (expired.org_id, expired.id, expired.attempts, 'lapsed', 'the lease ran out', expired.claimed_at);
      if expired.attempts >= expired.max_attempts then
        perform private.bury_delivery(expired.id, 'the lease ran out ' || expired.attempts || ' times');
      else
        update public.deliveries
        set status = 'failed', lease_token = null, leased_until = null, last_error = 'the lease ran out',
            run_at = case when expired.attempts = 1 then now() else private.retry_at(expired.attempts, expired.retry_base, 0) end
        where deliveries.id = expired.id;
      end if;
    exception when others then
      -- One that cannot be taken back must not keep the others.
      raise warning 'delivery % could not be taken back: %', expired.id, sqlstate;
    end;
  end loop;

  select count(*) filter (where private.kick(waiting.target)) into kicked
  from (
    select distinct willing.target
    from private.willing_subscriptions as willing
    where exists (
        select from public.deliveries
        where deliveries.subscription_id = willing.id
          and deliveries.status in ('pending', 'failed')
          and deliveries.run_at <= now())
  ) as waiting;
  return jsonb_build_object('lapsed', lapsed, 'kicked', kicked);
end;
$$;
comment on function private.sweep_deliveries is 'Take back what lost its lease and wake whoever has something due; cron calls it.';

-- A closed organization's work stops at once: nothing more is claimed, and what runs cannot be settled.
create function private.stop_deliveries()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  update public.deliveries
  set status = 'skipped', lease_token = null, leased_until = null, last_error = 'the organization was closed'
  where deliveries.org_id = new.id and deliveries.status in ('pending', 'running', 'failed');
  return null;
end;
$$;
comment on function private.stop_deliveries is 'Trigger: closing an organization cancels its deliveries.';
create trigger organizations_closed after update of closed_at on public.organizations
  for each row when (old.closed_at is null and new.closed_at is not null) execute function private.stop_deliveries();
