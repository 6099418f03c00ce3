-- Webhooks out: an event brought to a partner's URL, signed, like any other delivery.
--
-- An admin makes one by a function that answers its secret once; the vault keeps it. Each has a target of its own,
-- webhook-sender/<id>, which is also the path at which the function webhook-sender is kicked for it: so a partner that
-- stalls or has a backlog holds up no other. Two secrets may be valid while one replaces the other: both sign.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- Where the hub runs on one machine, partners may be on it too. Everywhere else a URL has TLS.
create function private.is_webhook_url(url text)
returns boolean
language sql
immutable
set search_path = ''
as $$
  select length(url) <= 2000
    and url ~ '^(https://[a-z0-9.-]+|http://(127\.0\.0\.1|localhost|[a-z0-9.-]+\.localhost))(:[0-9]{1,5})?([/?][!-"$-?A-~]*)?$';
$$;
comment on function private.is_webhook_url is 'Whether a webhook can have this URL: https without user or fragment; http on loopback, which only a local hub sends to.';
grant execute on function private.is_webhook_url to authenticated;

alter table public.subscriptions
  add constraint subscriptions_url_form check (target_kind <> 'webhook' or private.is_webhook_url(target)) not valid;

create table private.webhook_secrets (
  id              uuid primary key default private.uuid_v7(),
  subscription_id uuid not null references public.subscriptions (id) on delete cascade,
  vault_id        uuid not null,
  valid_to        timestamptz,
  created_at      timestamptz not null default now()
);
comment on table private.webhook_secrets is 'Where in the vault a webhook''s signing secrets are, and until when an old one signs too.';
create index webhook_secrets_subscription_idx on private.webhook_secrets (subscription_id);

-- security definer: only postgres reaches the vault.
create function private.forget_webhook_secret()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  delete from vault.secrets where secrets.id = old.vault_id;
  return null;
end;
$$;
comment on function private.forget_webhook_secret is 'Trigger: a secret that signs no more leaves the vault.';
create trigger webhook_secrets_forgotten after delete on private.webhook_secrets
  for each row execute function private.forget_webhook_secret();

create function private.add_webhook_secret(subscription_id uuid, old_valid_for interval default '0')
returns text
language plpgsql
set search_path = ''
as $$
declare
  -- 244 random bits in 32 bytes.
  secret text := 'whsec_' || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64');
begin
  -- Two sign at most: the one that was new until now, and this.
  delete from private.webhook_secrets
  where webhook_secrets.subscription_id = add_webhook_secret.subscription_id
    and (webhook_secrets.valid_to is not null or old_valid_for <= '0');
  update private.webhook_secrets set valid_to = now() + old_valid_for
  where webhook_secrets.subscription_id = add_webhook_secret.subscription_id;
  insert into private.webhook_secrets (subscription_id, vault_id)
  values (add_webhook_secret.subscription_id, vault.create_secret(secret, null, 'signs webhook ' || add_webhook_secret.subscription_id));
  return secret;
end;
$$;
comment on function private.add_webhook_secret is 'Make a signing secret; the older one goes on signing beside it for a while.';

-- The path at which a webhook's sender is kicked, and how its deliveries are claimed

create or replace function private.make_kick_clock()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  execute format('create sequence if not exists private.%I', 'kicked_' || md5(
    case new.target_kind when 'webhook' then 'webhook-sender/' || new.id else new.target end));
  return null;
end;
$$;

-- security definer: whoever deletes a webhook may drop no sequence.
create function private.drop_kick_clock()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  execute format('drop sequence if exists private.%I', 'kicked_' || md5('webhook-sender/' || old.id));
  return null;
end;
$$;
comment on function private.drop_kick_clock is 'Trigger: a webhook that is gone needs no clock.';
create trigger subscriptions_drop_kick_clock after delete on public.subscriptions
  for each row when (old.target_kind = 'webhook') execute function private.drop_kick_clock();

-- As before, and no event hangs whoever writes it that is said to have caused itself.
create or replace function private.has_acted_on_cause(cause_id uuid, subscription_id uuid)
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
      union
      select events.cause_id
      from chain
      join public.events on events.id = chain.id and events.cause_id is not null
    )
    select from chain
    join public.deliveries on deliveries.event_id = chain.id
    where deliveries.subscription_id = has_acted_on_cause.subscription_id);
end;
$$;

-- An agent never acts on what came of its own action. A partner only reads, so it may well want what came of an event
-- that it was sent; but not, in circles, that it cannot be reached.
create function private.is_echo(event_id uuid, cause_id uuid, subscription_id uuid)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_column
declare
  wish public.subscriptions;
begin
  select * into wish from public.subscriptions where subscriptions.id = is_echo.subscription_id;
  if wish.target_kind = 'function' then
    return is_echo.cause_id is not null and private.has_acted_on_cause(is_echo.cause_id, wish.id);
  end if;
  return exists (
    with recursive chain (id, type, data, cause_id) as (
      select events.id, events.type, events.data, events.cause_id
      from public.events where events.id = is_echo.event_id
      union
      select events.id, events.type, events.data, events.cause_id
      from chain
      join public.events on events.id = chain.cause_id
    )
    select from chain
    where (chain.type = 'delivery.dead' and chain.data ->> 'subscription' = wish.name)
       or (chain.type in ('alert.opened', 'alert.closed') and chain.data #>> '{details,subscription}' = wish.name));
end;
$$;
comment on function private.is_echo is 'Whether an event is of a subscriber''s own making, so that to send it there would not end.';

create or replace function private.dispatch_events()
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
    where (fresh.cause_id is null and fresh.type not in ('alert.opened', 'alert.closed'))
       or not private.is_echo(fresh.id, fresh.cause_id, subscriptions.id)
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

-- The door of the sender

-- security definer: hub_service may touch no table itself, here and below.
create function hub.webhook(target text)
returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
  select jsonb_build_object(
    'url', subscriptions.target,
    'secrets', (
      select jsonb_agg(decrypted_secrets.decrypted_secret order by webhook_secrets.id desc)
      from private.webhook_secrets
      join vault.decrypted_secrets on decrypted_secrets.id = webhook_secrets.vault_id
      where webhook_secrets.subscription_id = subscriptions.id and coalesce(webhook_secrets.valid_to, 'infinity') > now()))
  from public.subscriptions
  where webhook.target = 'webhook-sender/' || subscriptions.id and subscriptions.target_kind = 'webhook'
    and subscriptions.id = substring(webhook.target from '^webhook-sender/([0-9a-f-]{36})$')::uuid;
$$;
comment on function hub.webhook is 'Where a webhook goes and what signs it; null when there is none.';
grant execute on function hub.webhook to hub_service;

create function hub.stop_webhook(delivery_id uuid, reason text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  stopped public.subscriptions;
  event_id uuid;
begin
  update public.subscriptions set paused = true
  from public.deliveries
  where deliveries.id = stop_webhook.delivery_id and deliveries.status = 'running'
    and subscriptions.id = deliveries.subscription_id and subscriptions.target_kind = 'webhook' and not subscriptions.paused
  returning subscriptions.* into stopped;
  if stopped.id is null then
    return 'false';
  end if;
  select deliveries.event_id into event_id from public.deliveries where deliveries.id = stop_webhook.delivery_id;
  perform private.open_alert(
    stopped.org_id, 'webhook_gone', stopped.name, 'critical',
    format('The webhook %s is paused: %s Its deliveries wait.', stopped.name, stop_webhook.reason),
    jsonb_build_object('subscription', stopped.name), event_id => event_id);
  return 'true';
end;
$$;
comment on function hub.stop_webhook is 'Pause the webhook of a delivery that is being sent, and say so.';
grant execute on function hub.stop_webhook to hub_service;

-- security definer: whoever lets a webhook run again may write no alert.
create function private.webhook_resumed()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform private.close_alert(old.org_id, 'webhook_gone', old.name);
  return null;
end;
$$;
comment on function private.webhook_resumed is 'Trigger: a webhook that is sent to again, or is gone, is no alert.';
create trigger subscriptions_resumed after update of paused on public.subscriptions
  for each row when (old.target_kind = 'webhook' and old.paused and not new.paused) execute function private.webhook_resumed();
create trigger subscriptions_gone after delete on public.subscriptions
  for each row when (old.target_kind = 'webhook') execute function private.webhook_resumed();

-- People

-- security definer: who may is asked here, by the caller's own permission, throughout.
create function private.add_webhook(name text, url text, event_types text[], org_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  mine uuid[] := array(
    select orgs.id
    from public.organizations as orgs
    where orgs.closed_at is null
      and ((select auth.role()) = 'service_role' or orgs.id in (select private.my_orgs('subscriptions.write')))
      and (add_webhook.org_id is null or orgs.id = add_webhook.org_id));
  made public.subscriptions;
begin
  if cardinality(mine) = 0 then
    perform private.fail(403, 'not_permitted', 'Your role may not make webhooks.');
  elsif cardinality(mine) > 1 then
    perform private.fail(422, 'which_organization', 'Say for which organization: org_id.');
  elsif not coalesce(private.is_webhook_url(url), false)
    or (url like 'http:%' and not exists (
      select from vault.decrypted_secrets where decrypted_secrets.name = 'functions_url' and decrypted_secrets.decrypted_secret like 'http://127.0.0.1:%')) then
    perform private.fail(422, 'bad_url', 'A webhook''s URL is https, in lower case up to its path, without user or fragment.');
  elsif coalesce(trim(name), '') = '' or length(name) > 100 then
    perform private.fail(422, 'bad_name', 'A webhook has a name of up to 100 characters.');
  elsif coalesce(cardinality(event_types), 0) not between 1 and 100
    or exists (select from unnest(event_types) as pattern where coalesce(pattern !~ '^(\*|[a-z_]+\.(\*|[a-z_]+))$', true)) then
    perform private.fail(422, 'bad_event_types', 'Event types are names such as form.submitted, or patterns such as form.* or *.');
  elsif exists (select from public.subscriptions where subscriptions.org_id = mine[1] and subscriptions.name = add_webhook.name) then
    perform private.fail(409, 'name_taken', 'There is a subscription of this name.');
  end if;
  -- Forty tries, up to an hour apart, are about a day and a half at most.
  insert into public.subscriptions (org_id, name, event_types, target_kind, target, max_attempts, retry_base)
  values (mine[1], add_webhook.name, add_webhook.event_types, 'webhook', add_webhook.url, 40, '10 seconds')
  returning * into made;
  return jsonb_build_object('id', made.id, 'secret', private.add_webhook_secret(made.id));
end;
$$;
comment on function private.add_webhook is 'Make a webhook in the caller''s organization.';
grant execute on function private.add_webhook to authenticated, service_role;

create function private.own_webhook(subscription_id uuid)
returns public.subscriptions
language plpgsql
security definer
set search_path = ''
as $$
declare
  owned public.subscriptions;
begin
  select * into owned from public.subscriptions
  where subscriptions.id = own_webhook.subscription_id and subscriptions.target_kind = 'webhook'
    and ((select auth.role()) = 'service_role' or subscriptions.org_id in (select private.my_orgs('subscriptions.write')));
  if owned.id is null then
    perform private.fail(404, 'unknown_webhook', 'You may change no webhook with this id.');
  end if;
  return owned;
end;
$$;
comment on function private.own_webhook is 'A webhook that the caller may change, or 404.';

create function private.rotate_webhook(subscription_id uuid, old_valid_for interval)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  owned public.subscriptions := private.own_webhook(subscription_id);
begin
  if old_valid_for not between interval '0' and interval '30 days' then
    perform private.fail(422, 'bad_overlap', 'The old secret signs for up to 30 days more.');
  end if;
  perform private.write_audit(owned.org_id, 'rotate', 'webhook_secrets', owned.id::text, null, jsonb_build_object('old_valid_for', old_valid_for));
  return jsonb_build_object('id', owned.id, 'secret', private.add_webhook_secret(owned.id, old_valid_for));
end;
$$;
comment on function private.rotate_webhook is 'Give a webhook of the caller''s a new secret.';
grant execute on function private.rotate_webhook to authenticated, service_role;

create function private.remove_webhook(subscription_id uuid)
returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
  owned public.subscriptions := private.own_webhook(subscription_id);
begin
  delete from public.subscriptions where subscriptions.id = owned.id;
end;
$$;
comment on function private.remove_webhook is 'Remove a webhook of the caller''s with its deliveries; the events stay.';
grant execute on function private.remove_webhook to authenticated, service_role;

create function public.create_webhook_subscription(name text, url text, event_types text[], org_id uuid default null)
returns jsonb
language sql
set search_path = ''
as $$
  select private.add_webhook(name, url, event_types, org_id);
$$;
comment on function public.create_webhook_subscription is 'Have events of these types posted to a URL. The answer has the signing secret, which is shown only now.';
grant execute on function public.create_webhook_subscription to authenticated, service_role;

create function public.rotate_webhook_secret(subscription_id uuid, old_valid_for interval default '1 day')
returns jsonb
language sql
set search_path = ''
as $$
  select private.rotate_webhook(subscription_id, old_valid_for);
$$;
comment on function public.rotate_webhook_secret is 'A new signing secret for a webhook; until the old one ends, both sign.';
grant execute on function public.rotate_webhook_secret to authenticated, service_role;

create function public.delete_webhook_subscription(subscription_id uuid)
returns void
language sql
set search_path = ''
as $$
  select private.remove_webhook(subscription_id);
$$;
comment on function public.delete_webhook_subscription is 'Send nothing more to a webhook, and forget what was sent. To stop for a while, set paused.';
grant execute on function public.delete_webhook_subscription to authenticated, service_role;
