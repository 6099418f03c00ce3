-- Subscriptions: each has events of some types delivered to a function or a URL.

create type public.target_kind as enum ('function', 'webhook');

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
  constraint subscriptions_url_form check (target_kind <> 'webhook' or private.is_webhook_url(target)),
  constraint subscriptions_max_attempts_range check (max_attempts between 1 and 50),
  constraint subscriptions_retry_base_range check (retry_base between interval '0' and interval '1 hour')
);
comment on table public.subscriptions is 'Events of these types are delivered to this function or URL.';
comment on column public.subscriptions.event_types is 'Names, or patterns such as form.*';
comment on column public.subscriptions.ordered is 'One delivery at a time and in order for each contact.';
create index subscriptions_agent_idx on public.subscriptions (org_id, agent_id);
create index subscriptions_target_idx on public.subscriptions (target);
-- Deliveries to a function are claimed by its name, those to a webhook by this expression.
create index subscriptions_webhook_idx on public.subscriptions (('webhook-sender/' || id)) where target_kind = 'webhook';

-- security definer: changing a subscription needs no right to read the catalogue.
create function private.name_subscribed_types()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  new.event_types := private.canonical_types(new.event_types);
  return new;
end;
$$;
comment on function private.name_subscribed_types is 'Trigger: subscriptions hold names, not aliases.';

-- security definer: only the vault knows whether the hub runs on one machine, and admins may not read it.
create function private.refuse_unreachable_webhook()
returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  problem text := private.webhook_url_problem(new.target, exists (
    select from vault.decrypted_secrets
    where decrypted_secrets.name = 'functions_url' and decrypted_secrets.decrypted_secret like 'http://127.0.0.1:%'));
begin
  if problem is not null then
    perform private.fail(422, 'bad_url', problem);
  end if;
  return new;
end;
$$;
comment on function private.refuse_unreachable_webhook is 'Trigger: a webhook has a URL that a partner can be reached at.';

create trigger subscriptions_touch before update on public.subscriptions
  for each row execute function private.touch_updated_at();
create trigger subscriptions_audit after insert or update or delete on public.subscriptions
  for each row execute function private.audit_change('all');
create trigger subscriptions_names before insert or update of event_types on public.subscriptions
  for each row execute function private.name_subscribed_types();
create trigger subscriptions_reachable before insert or update of target, target_kind on public.subscriptions
  for each row when (new.target_kind = 'webhook') execute function private.refuse_unreachable_webhook();

alter table public.subscriptions enable row level security, force row level security;
grant select on public.subscriptions to authenticated, service_role;
grant update (event_types, paused, max_attempts, retry_base) on public.subscriptions to authenticated;
create policy "members read subscriptions" on public.subscriptions for select to authenticated
  using (org_id in (select private.my_orgs('subscriptions.read')));
create policy "admins change subscriptions" on public.subscriptions for update to authenticated
  using (org_id in (select private.my_orgs('subscriptions.write')))
  with check (org_id in (select private.my_orgs('subscriptions.write')));
