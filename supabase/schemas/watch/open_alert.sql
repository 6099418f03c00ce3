-- Opening an alert, seeing it again, closing it by recovery.

create function private.open_alert(
  org_id uuid, kind text, subject text, severity public.alert_severity, message text,
  details jsonb default '{}', topic text default null, event_id uuid default null, site_id uuid default null)
returns boolean
language sql set search_path = ''
as $$
  insert into public.alerts as known (org_id, kind, subject, severity, message, details, topic, event_id, site_id)
  values (
    open_alert.org_id, open_alert.kind, left(open_alert.subject, 300), open_alert.severity, left(open_alert.message, 2000),
    open_alert.details || jsonb_strip_nulls(jsonb_build_object('event_id', open_alert.event_id)), left(open_alert.topic, 300),
    open_alert.event_id, open_alert.site_id)
  on conflict (org_id, kind, subject) where closed_at is null do update
    set last_seen_at = now(), severity = excluded.severity, message = excluded.message,
        details = excluded.details || jsonb_strip_nulls(jsonb_build_object('event_id', known.event_id))
  returning known.xmax = 0;
$$;
comment on function private.open_alert is 'Open an alert, or see an open one again; answers whether it is new.';

create function private.close_alert(org_id uuid, kind text, subject text)
returns boolean
language plpgsql set search_path = ''
as $$
begin
  update public.alerts set closed_at = now()
  where alerts.org_id = close_alert.org_id and alerts.kind = close_alert.kind and alerts.subject = close_alert.subject
    and alerts.closed_at is null;
  return found;
end;
$$;
comment on function private.close_alert is 'Close an alert whose reason is gone; answers whether there was one.';
