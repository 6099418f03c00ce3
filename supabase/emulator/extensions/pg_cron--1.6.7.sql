-- Stand-in for pg_cron 1.6.7: same schema, signatures, tables, row security and grants in plain SQL. The
-- scheduler is emulator/cron.py.

create schema cron;
create sequence cron.jobid_seq;
create sequence cron.runid_seq;

create table cron.job (
  jobid    bigint primary key default nextval('cron.jobid_seq'),
  schedule text not null,
  command  text not null,
  nodename text not null default 'localhost',
  nodeport int not null default current_setting('port')::int,
  database text not null default current_database(),
  username text not null default current_user,
  active   boolean not null default true,
  jobname  text,
  constraint jobname_username_uniq unique (jobname, username)
);
alter table cron.job enable row level security;
create policy cron_job_policy on cron.job using (username = current_user);

create table cron.job_run_details (
  jobid          bigint,
  runid          bigint primary key default nextval('cron.runid_seq'),
  job_pid        int,
  database       text,
  username       text,
  command        text,
  status         text,
  return_message text,
  start_time     timestamptz,
  end_time       timestamptz
);
alter table cron.job_run_details enable row level security;
create policy cron_job_run_details_policy on cron.job_run_details using (username = current_user);

-- Schedules -----------------------------------------------------------------------------------------------------

create function cron._fields_are_valid(fields text[])
returns boolean
language plpgsql
immutable
as $$
declare
  lowest constant int[] := '{0,0,1,1,0}';
  highest constant int[] := '{59,23,31,12,7}';
  names constant text[] := '{"","","","jan feb mar apr may jun jul aug sep oct nov dec","sun mon tue wed thu fri sat"}';
  part text;
  bound text;
  matched text[];
begin
  if cardinality(fields) <> 5 then
    return false;
  end if;
  for field in 1..5 loop
    foreach part in array string_to_array(lower(fields[field]), ',') loop
      continue when field = 3 and part = '$';
      matched := regexp_match(part, '^(?:\*|([0-9]+|[a-z]{3})(?:-([0-9]+|[a-z]{3}))?)(?:/([0-9]+))?$');
      if matched is null or matched[3]::int = 0 or (matched[3] is not null and part !~ '[*-]') then
        return false;
      end if;
      foreach bound in array array_remove(matched[1:2], null) loop
        if bound ~ '^[a-z]' then
          if not bound = any (string_to_array(names[field], ' ')) then
            return false;
          end if;
        elsif length(bound) > 2 or bound::int not between lowest[field] and highest[field] then
          return false;
        end if;
      end loop;
      if matched[1] ~ '^[0-9]' and matched[2] ~ '^[0-9]' and matched[1]::int > matched[2]::int then
        return false;
      end if;
    end loop;
  end loop;
  return true;
end;
$$;

create function cron._check_schedule(schedule text)
returns void
language plpgsql
immutable
as $$
begin
  if schedule ~* '^\s*[1-9][0-9]?\s+seconds?\s*$' and substring(schedule from '[0-9]+')::int <= 59
    or lower(trim(schedule)) in ('@reboot', '@yearly', '@annually', '@monthly', '@weekly', '@daily', '@midnight', '@hourly')
    or cron._fields_are_valid(regexp_split_to_array(trim(schedule), '\s+'))
  then
    return;
  end if;
  raise exception 'invalid schedule: %', schedule
    using errcode = '22023',
          hint = 'Use cron format (e.g. 5 4 * * *), or interval format ''[1-59] seconds''';
end;
$$;

create function cron._schedule(
  caller text, job_name text, schedule text, command text, database text, username text, active boolean
)
returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
  id bigint;
begin
  perform cron._check_schedule(schedule);
  if username <> caller and not (select rolsuper from pg_catalog.pg_roles where rolname = caller) then
    raise exception 'must be superuser to create a job for another role' using errcode = '42501';
  end if;
  insert into cron.job (jobname, schedule, command, database, username, active)
  values (job_name, schedule, command, database, username, active)
  on conflict on constraint jobname_username_uniq
  do update set schedule = excluded.schedule, command = excluded.command, database = excluded.database
  returning jobid into id;
  return id;
end;
$$;

create function cron.schedule(schedule text, command text)
returns bigint
language sql
as $$
  select cron._schedule(current_user, null, schedule, command, current_database(), current_user, true);
$$;
comment on function cron.schedule(text, text) is 'schedule a pg_cron job';

create function cron.schedule(job_name text, schedule text, command text)
returns bigint
language plpgsql
as $$
begin
  if job_name is null then
    raise exception 'job_name can not be NULL' using errcode = '22023';
  end if;
  return cron._schedule(current_user, job_name, schedule, command, current_database(), current_user, true);
end;
$$;
comment on function cron.schedule(text, text, text) is 'schedule a pg_cron job';

create function cron.schedule_in_database(
  job_name text, schedule text, command text, database text, username text default null, active boolean default true
)
returns bigint
language sql
as $$
  select cron._schedule(
    current_user, job_name, schedule, command, database, coalesce(username, current_user), active);
$$;

create function cron.unschedule(job_id bigint)
returns bool
language plpgsql
as $$
begin
  if not cron._unschedule(current_user, (select jobid from cron.job where jobid = job_id)) then
    raise exception 'could not find valid entry for job ''%''', job_id using errcode = 'XX000';
  end if;
  return true;
end;
$$;

create function cron.unschedule(job_name text)
returns bool
language plpgsql
as $$
begin
  if not cron._unschedule(
    current_user, (select jobid from cron.job where jobname = job_name and username = current_user))
  then
    raise exception 'could not find valid entry for job ''%''', job_name using errcode = 'XX000';
  end if;
  return true;
end;
$$;

create function cron._unschedule(caller text, job_id bigint)
returns bool
language plpgsql
security definer
set search_path = ''
as $$
begin
  delete from cron.job
  where jobid = job_id
    and (username = caller or (select rolsuper from pg_catalog.pg_roles where rolname = caller));
  return found;
end;
$$;

create function cron.alter_job(
  job_id bigint, schedule text default null, command text default null, database text default null,
  username text default null, active boolean default null
)
returns void
language sql
as $$
  select cron._alter_job(current_user, job_id, schedule, command, database, username, active);
$$;

create function cron._alter_job(
  caller text, job_id bigint, schedule text, command text, database text, username text, active boolean
)
returns void
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
  is_superuser boolean := (select rolsuper from pg_catalog.pg_roles where rolname = caller);
begin
  if _alter_job.schedule is not null then
    perform cron._check_schedule(_alter_job.schedule);
  end if;
  if _alter_job.username <> caller and not is_superuser then
    raise exception 'must be superuser to alter username' using errcode = '42501';
  end if;
  update cron.job
  set schedule = coalesce(_alter_job.schedule, schedule),
      command = coalesce(_alter_job.command, command),
      database = coalesce(_alter_job.database, database),
      username = coalesce(_alter_job.username, username),
      active = coalesce(_alter_job.active, active)
  where jobid = job_id and (username = caller or is_superuser);
  if not found then
    raise exception 'Job % does not exist or you don''t own it', job_id using errcode = 'XX000';
  end if;
end;
$$;

-- Only in the local stack: run a job now, whatever its schedule -----------------------------------------------------

create function cron.run_now(job_name text)
returns void
language plpgsql
as $$
declare
  id bigint := (select jobid from cron.job where jobname = job_name and username = current_user);
begin
  if id is null then
    raise exception 'could not find valid entry for job ''%''', job_name;
  end if;
  perform pg_notify('pg_cron', id::text);
end;
$$;
comment on function cron.run_now is 'Test switch: run a job once, after the commit, through the scheduler.';

-- Grants, as on a hosted project: everything to postgres, and no writing in the tables -------------------------------

revoke execute on all functions in schema cron from public;
grant usage on schema cron to postgres with grant option;
grant execute on all functions in schema cron to postgres with grant option;
grant select on cron.job to postgres with grant option;
grant select, delete, update, insert, references, truncate on cron.job_run_details to postgres with grant option;

-- Hosted puts the extension into pg_catalog whatever `with schema` says; the control file could only refuse.
update pg_extension set extnamespace = 'pg_catalog'::regnamespace where extname = 'pg_cron';

-- A dump brings the jobs along, as the original's does.
select pg_catalog.pg_extension_config_dump('cron.job', '');
select pg_catalog.pg_extension_config_dump('cron.jobid_seq', '');
