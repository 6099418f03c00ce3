-- Making, changing and removing webhooks, by an admin of the organization.

create function public.create_webhook_subscription(name text, url text, event_types text[], org_id uuid default null)
returns jsonb
language sql set search_path = ''
as $$
  select private.create_webhook_subscription_for_caller(name, url, event_types, org_id);
$$;
comment on function public.create_webhook_subscription is 'Have events of these types posted to a URL. The answer has the signing secret, which is shown only now.';
grant execute on function public.create_webhook_subscription to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.create_webhook_subscription_for_caller(name text, url text, event_types text[], org_id uuid)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  mine uuid[] := array(
    select orgs.id
    from private.caller_orgs('subscriptions.write') as orgs (id)
    where create_webhook_subscription_for_caller.org_id is null or orgs.id = create_webhook_subscription_for_caller.org_id);
  made public.subscriptions;
begin
  if cardinality(mine) = 0 then
    perform private.fail(403, 'not_permitted', 'Your role may not make webhooks.');
  elsif cardinality(mine) > 1 then
    perform private.fail(422, 'which_organization', 'Say for which organization: org_id.');
  elsif coalesce(trim(name), '') = '' or length(name) > 100 then
    perform private.fail(422, 'bad_name', 'A webhook has a name of up to 100 characters.');
  elsif coalesce(cardinality(event_types), 0) not between 1 and 100
    or exists (select from unnest(event_types) as pattern where coalesce(pattern !~ '^(\*|[a-z_]+\.(\*|[a-z_]+))$', true)) then
    perform private.fail(422, 'bad_event_types', 'Event types are names such as form.submitted, or patterns such as form.* or *.');
  elsif exists (select from public.subscriptions where subscriptions.org_id = mine[1] and subscriptions.name = create_webhook_subscription_for_caller.name) then
    perform private.fail(409, 'name_taken', 'There is a subscription of this name.');
  end if;
  -- Forty tries, up to an hour apart, are about a day and a half at most.
  insert into public.subscriptions (org_id, name, event_types, target_kind, target, max_attempts, retry_base)
  values (mine[1], create_webhook_subscription_for_caller.name, create_webhook_subscription_for_caller.event_types, 'webhook', create_webhook_subscription_for_caller.url, 40, '10 seconds')
  returning * into made;
  return jsonb_build_object('id', made.id, 'secret', private.add_webhook_secret(made.id));
end;
$$;
comment on function private.create_webhook_subscription_for_caller is 'Make a webhook in the caller''s organization.';
grant execute on function private.create_webhook_subscription_for_caller to authenticated, service_role;

create function public.rotate_webhook_secret(subscription_id uuid, old_valid_for interval default '1 day')
returns jsonb
language sql set search_path = ''
as $$
  select private.rotate_webhook_secret_for_caller(subscription_id, old_valid_for);
$$;
comment on function public.rotate_webhook_secret is 'A new signing secret for a webhook; until the old one ends, both sign.';
grant execute on function public.rotate_webhook_secret to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.rotate_webhook_secret_for_caller(subscription_id uuid, old_valid_for interval)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  owned public.subscriptions := private.own_webhook(subscription_id);
begin
  if (old_valid_for between interval '0' and interval '30 days') is not true then
    perform private.fail(422, 'bad_overlap', 'The old secret signs for up to 30 days more.');
  end if;
  perform private.write_audit(owned.org_id, 'rotate', 'webhook_secrets', owned.id::text, null, jsonb_build_object('old_valid_for', old_valid_for));
  return jsonb_build_object('id', owned.id, 'secret', private.add_webhook_secret(owned.id, old_valid_for));
end;
$$;
comment on function private.rotate_webhook_secret_for_caller is 'Give a webhook of the caller''s a new secret.';
grant execute on function private.rotate_webhook_secret_for_caller to authenticated, service_role;

create function public.delete_webhook_subscription(subscription_id uuid)
returns void
language sql set search_path = ''
as $$
  select private.delete_webhook_subscription_for_caller(subscription_id);
$$;
comment on function public.delete_webhook_subscription is 'Send nothing more to a webhook, and forget its deliveries. To stop for a while, set paused.';
grant execute on function public.delete_webhook_subscription to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.delete_webhook_subscription_for_caller(subscription_id uuid)
returns void
language plpgsql security definer set search_path = ''
as $$
declare
  owned public.subscriptions := private.own_webhook(subscription_id);
begin
  delete from public.subscriptions where subscriptions.id = owned.id;
end;
$$;
comment on function private.delete_webhook_subscription_for_caller is 'Remove a webhook of the caller''s with its deliveries; the events stay.';
grant execute on function private.delete_webhook_subscription_for_caller to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.own_webhook(subscription_id uuid)
returns public.subscriptions
language plpgsql security definer set search_path = ''
as $$
declare
  owned public.subscriptions;
begin
  select * into owned from public.subscriptions
  where subscriptions.id = own_webhook.subscription_id and subscriptions.target_kind = 'webhook'
    and subscriptions.org_id in (select private.caller_orgs('subscriptions.write'));
  if owned.id is null then
    perform private.fail(404, 'unknown_webhook', 'You may change no webhook with this id.');
  end if;
  return owned;
end;
$$;
comment on function private.own_webhook is 'A webhook that the caller may change, or 404.';
