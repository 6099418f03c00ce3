-- Asking an invariant, twice a minute: its violations are one open alert per organization, and can pause an agent.
--
-- Each query runs as hub_reader, which may read tables and nothing else, read-only, in a subtransaction that is always
-- rolled back, as a statement with a timeout of its own. An agent is paused once: a user who lets it run again is not
-- overruled. Large tables are looked at from their newest rows back, by their v7 ids; the description says how far.

create function private.run_invariant(name text)
returns integer
language plpgsql set search_path = ''
as $$
declare
  began timestamptz := clock_timestamp();
  invariant public.invariants;
  violations jsonb;
  problem text;
  violated record;
  paused text;
begin
  select * into strict invariant from public.invariants where invariants.name = run_invariant.name;
  begin
    violations := private.violations_of(invariant);
  exception when query_canceled then
    problem := 'it took too long';
  when others then
    problem := sqlstate || ' ' || sqlerrm;
  end;

  update public.invariants
  set last_run_at = now(), last_ms = extract(epoch from clock_timestamp() - began) * 1000, last_error = problem
  where invariants.name = invariant.name;

  update public.alerts set closed_at = now()
  where problem is null and alerts.subject = invariant.name and alerts.closed_at is null
    and (alerts.kind = 'invariant_unchecked' or (alerts.kind = 'invariant' and not exists (
      select from jsonb_to_recordset(violations) as violation (org_id uuid)
      where coalesce(violation.org_id, alerts.org_id) = alerts.org_id)));

  for violated in
    select organizations.id as org_id, count(violation.found) as count, (array_agg(violation.found))[1:5] as examples
    from public.organizations
    left join jsonb_to_recordset(violations) as violation (org_id uuid, found text)
      on coalesce(violation.org_id, organizations.id) = organizations.id
    where organizations.closed_at is null and (problem is not null or violation.found is not null)
    group by organizations.id
  loop
    if problem is not null then
      perform private.open_alert(violated.org_id, 'invariant_unchecked', invariant.name, 'warning',
        format('The invariant %s cannot be checked: %s.', invariant.name, problem));
      continue;
    end if;
    update public.agents set status = 'paused'
    where agents.org_id = violated.org_id and agents.name = invariant.pauses and agents.status in ('idle', 'running')
      and not exists (
        select from public.alerts
        where alerts.org_id = violated.org_id and alerts.kind = 'invariant' and alerts.subject = invariant.name
          and alerts.closed_at is null)
    returning agents.name into paused;
    -- An alert that is seen again still says which agent was paused when it opened.
    paused := coalesce(paused, (
      select alerts.details ->> 'paused' from public.alerts
      where alerts.org_id = violated.org_id and alerts.kind = 'invariant' and alerts.subject = invariant.name
        and alerts.closed_at is null));
    perform private.open_alert(violated.org_id, 'invariant', invariant.name, invariant.severity,
      concat_ws(' ',
        format('%s Not so: %s.', invariant.description, rtrim(violated.examples[1], '.')),
        'The agent ' || paused || ' was paused; to let it run again, set its status to idle in agents.'),
      jsonb_strip_nulls(jsonb_build_object(
        'violations', violated.count, 'examples', violated.examples, 'pauses', invariant.pauses, 'paused', paused)));
  end loop;
  return jsonb_array_length(violations);
end;
$$;
comment on function private.run_invariant is 'Ask one invariant; open or close its alerts and pause the agent it names. Answers the number of violations.';

create function private.violations_of(invariant public.invariants)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  found jsonb;
begin
  begin
    perform set_config('transaction_read_only', 'on', true), set_config('role', 'hub_reader', true);
    -- A few rows are looked up in large tables by their indexes, which the planner finds dearer than they are.
    perform set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true);
    execute format(
      'select coalesce(jsonb_agg(jsonb_build_object(''org_id'', violation.org_id, ''found'', coalesce(left(violation.found, 500), ''it does not say what''))), ''[]'')'
      ' from (select org_id::uuid, found::text from (%s) as query limit 1000) as violation', invariant.sql)
    into found;
    -- The exception undoes all that the query did, and gives the role back.
    raise exception using errcode = 'HBOK1';
  exception when sqlstate 'HBOK1' then
    return found;
  end;
end;
$$;
comment on function private.violations_of is 'The answers of an invariant''s query, as a role that can only read, in a read-only transaction.';
