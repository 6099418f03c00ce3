-- Webhook secrets: they sign the events that are sent to a webhook. The vault keeps them.
--
-- Two may be valid while one replaces the other: both sign.

create table private.webhook_secrets (
  id              uuid primary key default private.uuid_v7(),
  subscription_id uuid not null references public.subscriptions (id) on delete cascade,
  vault_id        uuid not null,
  valid_to        timestamptz,
  created_at      timestamptz not null default now()
);
comment on table private.webhook_secrets is 'A webhook''s signing secrets, by their ids in the vault, and until when an old one signs too.';
create index webhook_secrets_subscription_idx on private.webhook_secrets (subscription_id);

-- security definer: only postgres reaches the vault.
create function private.forget_webhook_secret()
returns trigger
language plpgsql security definer set search_path = ''
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
language plpgsql set search_path = ''
as $$
declare
  -- 244 random bits in 32 bytes.
  secret text := 'whsec_' || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64');
begin
  -- Two sign at most: this secret and the one before it.
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
