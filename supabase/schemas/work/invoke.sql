-- Calling a function over HTTP: the one place in the database that knows URL and secret.

create function private.invoke(name text, body jsonb default '{}', timeout_ms integer default 2000)
returns bigint
language plpgsql set search_path = ''
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
