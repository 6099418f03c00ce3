-- Stand-in for pg_net 0.20.4: same schema, signatures, tables and grants in plain SQL. The worker is
-- emulator/net.py; Postgres notifies it at commit.

create schema if not exists net;

create domain net.http_method as text
  check (value ilike 'get' or value ilike 'post' or value ilike 'delete');

-- Unlogged as in the original: a crash empties both, because a request here is only a kick.
create unlogged table net.http_request_queue (
  id                   bigserial,
  method               net.http_method not null,
  url                  text not null,
  headers              jsonb,
  body                 bytea,
  timeout_milliseconds int not null
);

create unlogged table net._http_response (
  id           bigint,
  status_code  integer,
  content_type text,
  headers      jsonb,
  content      text,
  timed_out    bool,
  error_msg    text,
  created      timestamptz not null default now()
);
create index _http_response_created_idx on net._http_response (created);

create type net.request_status as enum ('PENDING', 'SUCCESS', 'ERROR');
create type net.http_response as (status_code integer, headers jsonb, body text);
create type net.http_response_result as (status net.request_status, message text, response net.http_response);

-- The worker --------------------------------------------------------------------------------------------------

create function net.wake()
returns void
language sql
as $$ select pg_catalog.pg_notify('pg_net', ''); $$;

create function net.check_worker_is_up()
returns void
language plpgsql
as $$
begin
  if not exists (select pid from pg_catalog.pg_stat_activity where application_name = 'pg_net worker') then
    raise exception using
      message = 'the pg_net background worker is not up',
      detail = 'the pg_net background worker is down due to an internal error and cannot process requests',
      hint = 'make sure that you didn''t modify any of pg_net internal tables';
  end if;
end;
$$;

create function net.wait_until_running()
returns void
language plpgsql
as $$
begin
  loop
    perform pg_catalog.pg_stat_clear_snapshot();
    exit when exists (select from pg_catalog.pg_stat_activity where application_name = 'pg_net worker');
    perform pg_catalog.pg_sleep(0.01);
  end loop;
end;
$$;

create function net.worker_restart()
returns bool
language sql
security definer
set search_path = ''
as $$
  select coalesce(pg_catalog.bool_and(pg_catalog.pg_terminate_backend(pid)), false)
  from pg_catalog.pg_stat_activity
  where application_name = 'pg_net worker';
$$;

-- Requests ----------------------------------------------------------------------------------------------------

create function net._urlencode_string(string varchar)
returns text
language sql
immutable
strict
as $$
  select coalesce(string_agg(
    case
      when octet_length(sign) = 1 and sign ~ '[A-Za-z0-9._~-]' then sign
      else regexp_replace(upper(encode(convert_to(sign, 'UTF8'), 'hex')), '(..)', '%\1', 'g')
    end, '' order by place), '')
  from regexp_split_to_table(string, '') with ordinality as signs (sign, place);
$$;

create function net._encode_url_with_params_array(url text, params_array text[])
returns text
language sql
immutable
strict
as $$
  select case
    when cardinality(params_array) = 0 then url
    else split_part(url, '#', 1)
      || case when position('?' in split_part(url, '#', 1)) > 0 then '&' else '?' end
      || array_to_string(params_array, '&')
      || case when position('#' in url) > 0 then substring(url from position('#' in url)) else '' end
  end;
$$;

create function net.http_get(
  url text,
  params jsonb default '{}'::jsonb,
  headers jsonb default '{}'::jsonb,
  timeout_milliseconds int default 5000
)
returns bigint
language plpgsql
volatile
parallel safe
as $$
declare
  request_id bigint;
  params_array text[];
begin
  select coalesce(array_agg(net._urlencode_string(key) || '=' || net._urlencode_string(value)), '{}')
  into params_array
  from jsonb_each_text(params);

  insert into net.http_request_queue (method, url, headers, timeout_milliseconds)
  values ('GET', net._encode_url_with_params_array(url, params_array), headers, timeout_milliseconds)
  returning id into request_id;

  perform net.wake();
  return request_id;
end;
$$;

create function net.http_post(
  url text,
  body jsonb default '{}'::jsonb,
  params jsonb default '{}'::jsonb,
  headers jsonb default '{"Content-Type": "application/json"}'::jsonb,
  timeout_milliseconds int default 5000
)
returns bigint
language plpgsql
volatile
parallel safe
as $$
declare
  request_id bigint;
  params_array text[];
  content_type text;
begin
  select header_value into content_type
  from jsonb_each_text(coalesce(headers, '{}'::jsonb)) as r (header_name, header_value)
  where lower(header_name) = 'content-type'
  limit 1;

  if content_type is null then
    headers := coalesce(headers, '{}'::jsonb) || '{"Content-Type": "application/json"}'::jsonb;
  end if;
  if content_type <> 'application/json' then
    raise exception 'Content-Type header must be "application/json"';
  end if;

  select coalesce(array_agg(net._urlencode_string(key) || '=' || net._urlencode_string(value)), '{}')
  into params_array
  from jsonb_each_text(params);

  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values (
    'POST', net._encode_url_with_params_array(url, params_array), headers, convert_to(body::text, 'UTF8'),
    timeout_milliseconds)
  returning id into request_id;

  perform net.wake();
  return request_id;
end;
$$;

create function net.http_delete(
  url text,
  params jsonb default '{}'::jsonb,
  headers jsonb default '{}'::jsonb,
  timeout_milliseconds int default 5000,
  body jsonb default null
)
returns bigint
language plpgsql
volatile
parallel safe
as $$
declare
  request_id bigint;
  params_array text[];
begin
  select coalesce(array_agg(net._urlencode_string(key) || '=' || net._urlencode_string(value)), '{}')
  into params_array
  from jsonb_each_text(params);

  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values (
    'DELETE', net._encode_url_with_params_array(url, params_array), headers, convert_to(body::text, 'UTF8'),
    timeout_milliseconds)
  returning id into request_id;

  perform net.wake();
  return request_id;
end;
$$;

-- Responses ---------------------------------------------------------------------------------------------------

create function net._await_response(request_id bigint)
returns bool
language plpgsql
volatile
parallel safe
strict
as $$
begin
  while not exists (select from net._http_response where id = request_id) loop
    perform pg_sleep(0.05);
  end loop;
  return true;
end;
$$;

create function net._http_collect_response(request_id bigint, async bool default true)
returns net.http_response_result
language plpgsql
volatile
parallel safe
strict
as $$
declare
  found_response net._http_response;
begin
  if not async then
    perform net._await_response(request_id);
  end if;

  select * into found_response from net._http_response where id = request_id;
  if not found then
    if exists (select from net.http_request_queue where id = request_id) then
      return ('PENDING', 'request is pending processing', null)::net.http_response_result;
    end if;
    return ('ERROR', 'request matching request_id not found', null)::net.http_response_result;
  end if;
  if found_response.error_msg is not null then
    return ('ERROR', found_response.error_msg, null)::net.http_response_result;
  end if;
  return (
    'SUCCESS', 'ok',
    (found_response.status_code, found_response.headers, found_response.content)::net.http_response
  )::net.http_response_result;
end;
$$;

create function net.http_collect_response(request_id bigint, async bool default true)
returns net.http_response_result
language plpgsql
volatile
parallel safe
strict
as $$
begin
  raise notice 'The net.http_collect_response function is deprecated.';
  return net._http_collect_response(request_id, async);
end;
$$;

-- Only in the local stack: faults that hosted pg_net has too ------------------------------------------------------

create table net.faults (
  url_pattern text primary key,
  lose        double precision not null default 0 check (lose between 0 and 1),
  repeat      int not null default 1 check (repeat >= 1),
  delay_ms    int not null default 0 check (delay_ms >= 0)
);
comment on table net.faults is 'Test switch: what happens to requests whose URL is like the pattern.';

create function net.set_faults(
  lose double precision default 0, repeat int default 1, delay_ms int default 0, url_pattern text default '%'
)
returns void
language sql
security definer
set search_path = ''
as $$
  insert into net.faults (url_pattern, lose, repeat, delay_ms)
  values (url_pattern, lose, repeat, delay_ms)
  on conflict on constraint faults_pkey
  do update set lose = excluded.lose, repeat = excluded.repeat, delay_ms = excluded.delay_ms;
$$;
comment on function net.set_faults is 'Lose this share of the requests, send each this often, delay each this long.';

create function net.clear_faults()
returns void
language sql
security definer
set search_path = ''
as $$ delete from net.faults where true; $$;

revoke execute on function
  net.set_faults(double precision, int, int, text), net.clear_faults(), net.worker_restart()
from public;
grant execute on function
  net.set_faults(double precision, int, int, text), net.clear_faults(), net.worker_restart()
to postgres;

grant usage on schema net to public;
grant all on net.http_request_queue, net._http_response to public;
grant all on all sequences in schema net to public;
grant usage on schema net to postgres, anon, authenticated, service_role, supabase_functions_admin;
