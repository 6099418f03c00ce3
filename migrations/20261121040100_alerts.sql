-- Alerts, whole: opened once, seen again, told, acknowledged, closed by recovery or by a person.
--
-- private.open_alert and private.close_alert are the two doors. Telling stands in triggers, so that it holds whoever
-- writes: an alert that opens or closes is an event, and whoever subscribes to alert.* learns of it. What comes and
-- goes is told at most once per topic and organizations.alert_every; what was held back is told when that time is
-- over, if it is still open.

set lock_timeout = '5s';
set statement_timeout = '60s';

create type public.alert_severity as enum ('info', 'warning', 'critical');

alter table public.alerts
  add column severity public.alert_severity not null default 'warning',
  add column topic text,
  add column site_id uuid,
  add column event_id uuid,
  add column last_seen_at timestamptz not null default now(),
  add column last_notified_at timestamptz,
  add column acknowledged_at timestamptz,
  add column acknowledged_by uuid;
alter table public.alerts
  add constraint alerts_site foreign key (org_id, site_id) references public.sites (org_id, id) not valid;
comment on column public.alerts.topic is 'What is told together: the subject, unless many subjects fail for one reason.';
comment on column public.alerts.event_id is 'The event that showed it. No foreign key: partitions of events are archived one by one.';
-- Alerts are few.
-- squawk-ignore require-concurrent-index-creation
create index alerts_site_idx on public.alerts (org_id, site_id) where site_id is not null;

alter table public.organizations
  add column alert_every interval not null default '1 hour'
    constraint organizations_alert_every_range check (alert_every between interval '0' and interval '7 days');
comment on column public.organizations.alert_every is 'How often at most one topic''s alerts are told.';
grant update (alert_every) on public.organizations to authenticated;

create table private.alert_notices (
  org_id      uuid not null references public.organizations (id),
  kind        text not null,
  topic       text not null,
  notified_at timestamptz not null default now(),

  primary key (org_id, kind, topic)
);
comment on table private.alert_notices is 'When a topic''s alerts were last told.';

insert into public.event_types (name, description, schema, sample) values
  ('alert.opened', 'Something needs a person''s eye.', '{"type": "object", "required": ["alert_id", "kind", "subject", "severity", "message"]}',
   '{"alert_id": "…", "kind": "site_silent", "subject": "prime", "severity": "warning", "message": "prime has sent nothing for 2.1 open hours.", "details": {}}'),
  ('alert.closed', 'What an alert was about is over.', '{"type": "object", "required": ["alert_id", "kind", "subject"]}',
   '{"alert_id": "…", "kind": "site_silent", "subject": "prime", "severity": "warning", "message": "prime has sent nothing for 2.1 open hours.", "details": {}}');

insert into public.role_permissions (role, permission) values ('admin', 'alerts.update'), ('operator', 'alerts.update');

create function private.tell_alert(alert public.alerts, type text)
returns void
language sql
set search_path = ''
as $$
  insert into public.events (org_id, site_id, type, subject_type, subject_id, source, data, trace_id, cause_id)
  select
    alert.org_id, alert.site_id, tell_alert.type, 'alert', alert.id, 'hub',
    jsonb_build_object('alert_id', alert.id, 'kind', alert.kind, 'subject', alert.subject, 'severity', alert.severity,
                       'message', alert.message, 'details', alert.details),
    coalesce((select events.trace_id from public.events where events.id = alert.event_id), replace(gen_random_uuid()::text, '-', '')),
    alert.event_id;
$$;
comment on function private.tell_alert is 'Write the event by which subscribers learn of an alert.';

create function private.notify_alert(alert_id uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  alert public.alerts;
begin
  -- Whoever tells of the same topic waits here, and then finds that it has been told.
  insert into private.alert_notices as notices (org_id, kind, topic)
  select alerts.org_id, alerts.kind, coalesce(alerts.topic, alerts.subject)
  from public.alerts where alerts.id = notify_alert.alert_id
  on conflict on constraint alert_notices_pkey do update set notified_at = now()
    where notices.notified_at <= now() - (select organizations.alert_every from public.organizations where organizations.id = notices.org_id);
  if not found then
    return false;
  end if;
  update public.alerts set last_notified_at = now() where alerts.id = notify_alert.alert_id returning * into alert;
  perform private.tell_alert(alert, 'alert.opened');
  return true;
end;
$$;
comment on function private.notify_alert is 'Tell of an open alert, unless its topic was told of a short while ago.';

-- security definer: whoever may open or close an alert need not be able to write events.
create function private.follow_alert()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    perform private.notify_alert(new.id);
  elsif new.last_notified_at is not null then
    perform private.tell_alert(new, 'alert.closed');
  end if;
  return null;
end;
$$;
comment on function private.follow_alert is 'Trigger: who learnt that an alert opened learns that it closed.';
create trigger alerts_opened after insert on public.alerts
  for each row when (new.closed_at is null) execute function private.follow_alert();
create trigger alerts_closed after update of closed_at on public.alerts
  for each row when (old.closed_at is null and new.closed_at is not null) execute function private.follow_alert();
create trigger alerts_audit after update on public.alerts
  for each row execute function private.audit_change('people');

create function private.open_alert(
  org_id uuid, kind text, subject text, severity public.alert_severity, message text,
  details jsonb default '{}', topic text default null, event_id uuid default null, site_id uuid default null)
returns boolean
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  is_new boolean;
begin
  insert into public.alerts as known (org_id, kind, subject, severity, message, details, topic, event_id, site_id)
  values (
    open_alert.org_id, open_alert.kind, left(open_alert.subject, 300), open_alert.severity, left(open_alert.message, 2000),
    open_alert.details || jsonb_strip_nulls(jsonb_build_object('event_id', open_alert.event_id)), left(open_alert.topic, 300),
    open_alert.event_id, open_alert.site_id)
  on conflict (org_id, kind, subject) where closed_at is null do update
    set last_seen_at = now(), severity = excluded.severity, message = excluded.message,
        details = excluded.details || jsonb_strip_nulls(jsonb_build_object('event_id', known.event_id))
  returning known.xmax = 0 into is_new;
  return is_new;
end;
$$;
comment on function private.open_alert is 'Open an alert, or see an open one again; answers whether it is new.';

create function private.close_alert(org_id uuid, kind text, subject text)
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  update public.alerts set closed_at = now()
  where alerts.org_id = close_alert.org_id and alerts.kind = close_alert.kind and alerts.subject = close_alert.subject
    and alerts.closed_at is null;
  return found;
end;
$$;
comment on function private.close_alert is 'Close an alert whose reason is gone; answers whether there was one.';

create function private.notify_held_back()
returns integer
language sql
set search_path = ''
as $$
  select count(*) filter (where private.notify_alert(latest.id))
  from (
    select distinct on (alerts.org_id, alerts.kind, coalesce(alerts.topic, alerts.subject)) alerts.id
    from public.alerts
    where alerts.closed_at is null and alerts.last_notified_at is null
    order by alerts.org_id, alerts.kind, coalesce(alerts.topic, alerts.subject), alerts.id desc
  ) as latest;
$$;
comment on function private.notify_held_back is 'Tell of what is open and could not be told of when it opened.';
-- squawk-ignore require-concurrent-index-creation
create index alerts_untold_idx on public.alerts (id) where closed_at is null and last_notified_at is null;

-- People

-- security definer: who may is asked here, by the caller's own permission.
create function private.decide_alert(alert_id uuid, is_over boolean)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  alert public.alerts;
begin
  update public.alerts
  set acknowledged_at = coalesce(alerts.acknowledged_at, now()),
      acknowledged_by = coalesce(alerts.acknowledged_by, (select auth.uid())),
      closed_at = case when is_over then now() end
  where alerts.id = decide_alert.alert_id and alerts.closed_at is null
    and ((select auth.role()) = 'service_role' or alerts.org_id in (select private.my_orgs('alerts.update')))
  returning * into alert;
  if alert.id is null then
    perform private.fail(404, 'unknown_alert', 'You may change no open alert with this id.');
  end if;
  return jsonb_build_object('id', alert.id, 'acknowledged_at', alert.acknowledged_at, 'closed_at', alert.closed_at);
end;
$$;
comment on function private.decide_alert is 'Acknowledge an open alert of the caller''s organizations, or close it.';
grant execute on function private.decide_alert to authenticated, service_role;

create function public.acknowledge_alert(alert_id uuid)
returns jsonb
language sql
set search_path = ''
as $$
  select private.decide_alert(alert_id, false);
$$;
comment on function public.acknowledge_alert is 'Say that somebody looks after an open alert.';
grant execute on function public.acknowledge_alert to authenticated, service_role;

create function public.close_alert(alert_id uuid)
returns jsonb
language sql
set search_path = ''
as $$
  select private.decide_alert(alert_id, true);
$$;
comment on function public.close_alert is 'Close an alert by hand; it opens again when its reason is found again.';
grant execute on function public.close_alert to authenticated, service_role;
