-- The URLs that a webhook can have.
--
-- A URL that could never be reached is refused when a webhook is made or changed. The addresses behind a name are known
-- only when an event is sent: then the sender looks at each address, by the same ranges.

-- When the hub runs on one machine, partners may be on it too. Everywhere else a URL has TLS.
create function private.is_webhook_url(url text)
returns boolean
language sql immutable set search_path = ''
as $$
  select length(url) <= 2000
    and url ~ '^(https://[a-z0-9.-]+|http://(127\.0\.0\.1|localhost|[a-z0-9.-]+\.localhost))(:[0-9]{1,5})?([/?][!-"$-?A-~]*)?$';
$$;
comment on function private.is_webhook_url is 'Whether a webhook can have this URL: https without user or fragment; http on loopback, which only a local hub sends to.';
grant execute on function private.is_webhook_url to authenticated;

create function private.webhook_url_problem(url text, may_be_local boolean)
returns text
language plpgsql immutable set search_path = ''
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
  -- These endings are reserved for use inside a network, or for none. example is left: documents and tests use it.
  elsif length(host) > 253 or host !~ '^[^.]{1,63}(\.[^.]{1,63})+$'
    or host ~ '(^|\.)(localhost|local|internal|home\.arpa|invalid|test|onion|alt)$' then
    return format('A webhook cannot go to %s: the internet has no such name.', host);
  end if;
  return null;
end;
$$;
comment on function private.webhook_url_problem is 'Why a webhook with this URL could never be reached, as a sentence; null when it might be.';
