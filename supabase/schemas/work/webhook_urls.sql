-- Which URLs a webhook can have.

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
