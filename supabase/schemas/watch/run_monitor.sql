-- The data monitor: every 15 minutes it looks at each organization and reports each thing that is wrong.
--
-- Cron writes one monitor.due event per organization and quarter of an hour; the agent data-monitor handles it like
-- any other, so each look is a delivery and an action, also when nothing is wrong. A finding opens an alert of the
-- check's name or sees it again, and an alert that is no longer found is closed. A check that fails is a finding itself
-- and keeps no other from being made.

-- security definer: hub_service may touch no table itself.
create function hub.run_monitor(event_id uuid, config jsonb)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  due public.events;
begin
  select * into strict due from public.events where events.id = run_monitor.event_id;
  -- After a pause many looks may wait: only the latest counts.
  if exists (
    select from public.events
    where events.org_id = due.org_id and events.type = due.type and events.id > due.id)
  then
    return null;
  end if;
  return private.run_checks(due.org_id, run_monitor.config, due.id);
end;
$$;
comment on function hub.run_monitor is 'Look at an organization; answers the findings, or null when a later look is due already.';
grant execute on function hub.run_monitor to hub_service;

create function private.run_checks(org_id uuid, config jsonb, event_id uuid, at timestamptz default now())
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  kinds constant text[] :=
    '{site_silent,deliveries_stuck,function_failing,pull_stale,pull_failed,pull_gaps,job_late,signatures_refused,duplicates_spike,kind_unknown,model_fallback}';
  checked text;
  findings private.finding[];
  finding private.finding;
  is_new boolean;
  opened text[] := '{}';
  open text[] := '{}';
  failed text[] := '{}';
  closed text[] := '{}';
begin
  perform private.close_mended_deliveries(org_id);
  foreach checked in array kinds loop
    begin
      execute format('select array_agg(found) from private.%I($1, $2, $3) as found', 'check_' || checked)
      into findings using org_id, config, at;
      perform private.close_alert(org_id, 'check_failed', checked);
    exception when others then
      failed := failed || checked;
      perform private.open_alert(org_id, 'check_failed', checked, 'warning', format('The check %s failed: %s.', checked, sqlstate), event_id => run_checks.event_id);
      continue;
    end;
    foreach finding in array coalesce(findings, '{}') loop
      is_new := private.open_alert(
        org_id, checked, finding.subject, finding.severity, finding.message, finding.details,
        event_id => run_checks.event_id, site_id => finding.site_id);
      open := open || finding.message;
      if is_new then
        opened := opened || (checked || ' ' || finding.subject);
      end if;
    end loop;
    with mended as (
      update public.alerts set closed_at = now()
      where alerts.org_id = run_checks.org_id and alerts.kind = checked and alerts.closed_at is null
        and not alerts.subject = any (array(select found.subject from unnest(findings) as found))
      returning alerts.kind || ' ' || alerts.subject as name
    )
    select closed || coalesce(array_agg(mended.name), '{}') into closed from mended;
  end loop;
  return jsonb_build_object('checks', cardinality(kinds), 'failed', failed, 'open', open[1:50], 'opened', opened[1:50], 'closed', closed[1:50]);
end;
$$;
comment on function private.run_checks is 'Make every check for an organization; open, see again and close alerts.';

create function private.close_mended_deliveries(org_id uuid)
returns void
language sql set search_path = ''
as $$
  update public.alerts set closed_at = now()
  where alerts.org_id = close_mended_deliveries.org_id and alerts.kind = 'delivery_dead' and alerts.closed_at is null
    and not exists (
      select from public.deliveries where deliveries.id = alerts.subject::uuid and deliveries.status = 'dead');
$$;
comment on function private.close_mended_deliveries is 'Close the alerts of deliveries that are no longer dead.';

create function private.tick_monitors(at timestamptz default now())
returns integer
language plpgsql set search_path = ''
as $$
declare
  quarter timestamptz := date_bin('15 minutes', at, timestamptz '2000-01-01');
  made integer;
begin
  with due as (
    insert into public.receipts (source, key, org_id, body_sha256, event_id, expires_at)
    select 'schedule', format('monitor.due:%s:%s', watched.org_id, extract(epoch from quarter)::bigint), watched.org_id, sha256('monitor.due'),
           private.uuid_v7(), now() + interval '1 day'
    from (select distinct willing.org_id from private.willing_subscriptions as willing where willing.target = 'data-monitor') as watched
    on conflict on constraint receipts_pkey do nothing
    returning receipts.org_id, receipts.event_id
  )
  insert into public.events (id, org_id, type, source, data)
  select due.event_id, due.org_id, 'monitor.due', 'cron', jsonb_build_object('quarter', quarter) from due;
  get diagnostics made = row_count;
  return made;
end;
$$;
comment on function private.tick_monitors is 'Say to each organization''s monitor that it is time, once per quarter of an hour; cron calls it.';

create function private.watch()
returns void
language plpgsql set search_path = ''
as $$
begin
  update public.alerts set closed_at = now()
  from public.sites
  where alerts.kind = 'site_silent' and alerts.closed_at is null
    and sites.org_id = alerts.org_id and sites.id = alerts.site_id
    and private.last_arrival(sites, now()) > alerts.opened_at;
  -- One decision ends the alert, however many the monitor waited for.
  update public.alerts set closed_at = now()
  where alerts.kind = 'model_fallback' and alerts.closed_at is null
    and not exists (select from private.fallbacks(alerts.org_id, 1));
  perform private.notify_held_back();
end;
$$;
comment on function private.watch is 'Between two looks of the monitor: end the silences that have ended, tell of alerts that were held back; cron calls it.';
