-- Match keys: one mailbox has many spellings and one key, and keys are compared.
--
-- jo.smith@gmail.com and JoSmith+prime@googlemail.com are one. The right domain is suggested beside a mistyped one, for
-- a person to see; nothing is changed.

create type public.identifier_kind as enum ('email', 'phone');

create function private.match_key(kind public.identifier_kind, value text)
returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return case when kind = 'email' then private.email_key(value) else value end;
end;
$$;
comment on function private.match_key is 'The key by which an identifier matches.';

-- A provider that is not named takes dots and tags as part of the name, and so do we: two contacts can be merged,
-- two people in one contact are a leak.
create function private.email_key(address text)
returns text
language plpgsql immutable set search_path = ''
as $$
declare
  given text := lower(address);
  domain text := split_part(given, '@', -1);
  untagged text := split_part(left(given, -length(domain) - 1), '+', 1);
begin
  if untagged = '' then
    return given;
  elsif domain in ('gmail.com', 'googlemail.com') then
    return coalesce(nullif(replace(untagged, '.', ''), ''), untagged) || '@gmail.com';
  elsif domain in ('icloud.com', 'me.com', 'mac.com', 'fastmail.com', 'fastmail.fm', 'proton.me', 'protonmail.com', 'pm.me', 'msn.com')
    -- Microsoft has these names under many countries' endings.
    or domain ~ '^(outlook|hotmail|live)\.((com?\.)?[a-z]{2}|com)$'
  then
    return untagged || '@' || domain;
  end if;
  return given;
end;
$$;
comment on function private.email_key is 'The key by which an address matches: its case, dots and tags dropped where its provider drops them.';

create function private.email_suggestion(address text)
returns text
language plpgsql immutable set search_path = ''
as $$
declare
  domain text := lower(split_part(address, '@', -1));
  name text := split_part(domain, '.', 1);
  ending text := substr(domain, length(name) + 2);
begin
  name := coalesce('{
    "gmial": "gmail", "gmal": "gmail", "gmai": "gmail", "gamil": "gmail", "gnail": "gmail", "gmil": "gmail", "gmaill": "gmail",
    "gmaii": "gmail", "gmqil": "gmail", "gmsil": "gmail", "gimail": "gmail", "ggmail": "gmail", "gmeil": "gmail", "gmall": "gmail",
    "hotmial": "hotmail", "hotmal": "hotmail", "hotmil": "hotmail", "homail": "hotmail", "hotmai": "hotmail", "hotmaill": "hotmail",
    "htmail": "hotmail", "hotamil": "hotmail", "hotnail": "hotmail", "hormail": "hotmail", "hitmail": "hotmail", "hotmali": "hotmail",
    "outlok": "outlook", "outook": "outlook", "oulook": "outlook", "outloook": "outlook", "outlool": "outlook", "outllook": "outlook",
    "yaho": "yahoo", "yahooo": "yahoo", "yhaoo": "yahoo", "yahho": "yahoo", "yaoo": "yahoo", "tahoo": "yahoo",
    "iclod": "icloud", "icoud": "icloud", "iclould": "icloud", "icloude": "icloud", "iclud": "icloud", "icluod": "icloud",
    "protonmial": "protonmail", "protonmal": "protonmail", "xtar": "xtra", "xrta": "xtra"}'::jsonb ->> name, name);
  ending := coalesce('{
    "con": "com", "cmo": "com", "ocm": "com", "vom": "com", "xom": "com", "cpm": "com", "comm": "com", "c0m": "com",
    "co.nx": "co.nz", "co.ns": "co.nz", "co.bz": "co.nz", "c.nz": "co.nz", "co.n": "co.nz", "con.nz": "co.nz",
    "com.ua.au": "com.au", "con.au": "com.au", "cm.au": "com.au", "co.ul": "co.uk", "co.uj": "co.uk", "con.uk": "co.uk"}'::jsonb ->> ending, ending);
  -- .co and .cm are real endings, but no address of these providers ends in them.
  if name in ('gmail', 'hotmail', 'outlook', 'icloud') and ending in ('co', 'cm', 'om', 'cim', 'net') then
    ending := 'com';
  end if;
  return nullif(left(address, -length(domain)) || name || '.' || ending, lower(address));
end;
$$;
comment on function private.email_suggestion is 'The address that was probably meant, when its domain looks mistyped; else null.';
