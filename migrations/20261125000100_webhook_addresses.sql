-- Webhook addresses: a webhook that could never be reached is refused when it is made or changed.
--
-- A trigger asks, so every way to set a URL is covered. What a name resolves to is known only when something is sent:
-- there the sender looks at each address, by the same ranges (shared/outgoing.py).

set lock_timeout = '5s';
set statement_timeout = '60s';

create function private.webhook_url_problem(url text, may_be_local boolean)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  host text := regexp_replace(substring(url from '^https?://([^/:?]*)'), '\.$', '');
  port integer := substring(url from '^https?://[^/:?]*:([0-9]{1,5})');
  octet constant text := '(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])';
begin
  if not coalesce(private.is_webhook_url(url), false) or (url like 'http:%' and not may_be_local) then
    return 'A webhook''s URL is https with the name of a host, in lower case up to its path, without user or fragment.';
  elsif port not between 1 and 65535 then
    return 'A webhook''s port is between 1 and 65535.';
  elsif may_be_local and (host ~ '(^|\.)localhost$' or host ~ ('^127(\.' || octet || '){3}$')) then
    return null;
  -- Resolvers take a host that ends in a number for an address, in whatever notation: 127.1 and 0x7f.1 are 127.0.0.1.
  elsif host ~ '(^|\.)([0-9]+|0x[0-9a-f]*)$' then
    if host !~ ('^' || octet || '(\.' || octet || '){3}$') then
      return format('The address %s is not written as four decimal numbers.', host);
    elsif host::inet <<= any (
      '{0.0.0.0/8,10.0.0.0/8,100.64.0.0/10,127.0.0.0/8,169.254.0.0/16,172.16.0.0/12,192.0.0.0/24,192.0.2.0/24,
        192.88.99.0/24,192.168.0.0/16,198.18.0.0/15,198.51.100.0/24,203.0.113.0/24,224.0.0.0/3}'::inet[]) then
      return format('The address %s is not public.', host);
    end if;
  -- The endings are those reserved for use inside a network, or for none. Documents use example, and so do tests.
  elsif length(host) > 253 or host !~ '^[^.]{1,63}(\.[^.]{1,63})+$'
    or host ~ '(^|\.)(localhost|local|internal|home\.arpa|invalid|test|onion|alt)$' then
    return format('A webhook cannot go to %s: the internet has no such name.', host);
  end if;
  return null;
end;
$$;
comment on function private.webhook_url_problem is 'Why a webhook with this URL could never be reached, as a sentence; null when it might be.';

-- security definer: whoever makes a webhook does not read the vault, which knows whether the hub runs on one machine.
create function private.refuse_unreachable_webhook()
returns trigger
language plpgsql
security definer
set search_path = ''
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
create trigger subscriptions_reachable before insert or update of target, target_kind on public.subscriptions
  for each row when (new.target_kind = 'webhook') execute function private.refuse_unreachable_webhook();

-- As before; of its URL the trigger judges.
create or replace function private.add_webhook(name text, url text, event_types text[], org_id uuid)
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
