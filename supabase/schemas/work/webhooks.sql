-- Webhooks out: an event is posted to a partner's URL, signed, as a delivery like any other.
--
-- Each webhook has a target of its own, webhook-sender/<id>, the path at which the function webhook-sender is kicked for
-- it: so a partner that stalls or has a backlog holds up no other.

-- security definer: hub_service may touch no table itself.
create function hub.webhook(target text)
returns jsonb
language sql stable security definer set search_path = ''
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
comment on function hub.webhook is 'The URL and signing secrets of a webhook; null when there is none.';
grant execute on function hub.webhook to hub_service;

-- security definer: hub_service may touch no table itself.
create function hub.stop_webhook(delivery_id uuid, reason text)
returns jsonb
language plpgsql security definer set search_path = ''
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
comment on function hub.stop_webhook is 'Pause the webhook of a delivery that is being sent, and open an alert.';
grant execute on function hub.stop_webhook to hub_service;

-- security definer: letting a webhook run again gives no right to write alerts.
create function private.close_webhook_alert()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.close_alert(old.org_id, 'webhook_gone', old.name);
  return null;
end;
$$;
comment on function private.close_webhook_alert is 'Trigger: a webhook that runs again or is gone closes its alert.';

create trigger subscriptions_resumed after update of paused on public.subscriptions
  for each row when (old.target_kind = 'webhook' and old.paused and not new.paused) execute function private.close_webhook_alert();

create trigger subscriptions_gone after delete on public.subscriptions
  for each row when (old.target_kind = 'webhook') execute function private.close_webhook_alert();
