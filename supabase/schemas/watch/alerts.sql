-- Alerts: each is a thing for a person to look at; one open alert per kind and subject.
--
-- private.open_alert and private.close_alert are the two doors.

create type public.alert_severity as enum ('info', 'warning', 'critical');

create table public.alerts (
  id               uuid primary key default private.uuid_v7(),
  org_id           uuid not null references public.organizations (id),
  kind             text not null,
  subject          text not null,
  topic            text,
  severity         public.alert_severity not null default 'warning',
  message          text not null,
  details          jsonb not null default '{}',
  site_id          uuid,
  event_id         uuid,
  opened_at        timestamptz not null default now(),
  last_seen_at     timestamptz not null default now(),
  last_notified_at timestamptz,
  acknowledged_at  timestamptz,
  acknowledged_by  uuid,
  closed_at        timestamptz,

  constraint alerts_site foreign key (org_id, site_id) references public.sites (org_id, id)
);
comment on table public.alerts is 'Things for a person to look at; one open alert per kind and subject.';
comment on column public.alerts.topic is 'Alerts of one topic are told together: the subject, unless many subjects fail for one reason.';
comment on column public.alerts.event_id is 'The event that showed it. No foreign key: partitions of events are archived one by one.';
create unique index alerts_one_open on public.alerts (org_id, kind, subject) where closed_at is null;
create index alerts_org_idx on public.alerts (org_id, id desc);
create index alerts_site_idx on public.alerts (org_id, site_id) where site_id is not null;
create index alerts_untold_idx on public.alerts (id) where closed_at is null and last_notified_at is null;

create trigger alerts_audit after update on public.alerts
  for each row execute function private.audit_change('users');

alter table public.alerts enable row level security, force row level security;
grant select on public.alerts to authenticated, service_role;
create policy "members read alerts" on public.alerts for select to authenticated
  using (org_id in (select private.my_orgs('alerts.read')));
