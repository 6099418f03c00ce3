-- Pausing: everything, an organization, a subscription or an agent stops at its next claim, and loses nothing.

set lock_timeout = '5s';
set statement_timeout = '60s';

create table public.system_controls (
  name       text primary key,
  is_on      boolean not null default false,
  updated_at timestamptz not null default now(),

  constraint system_controls_known check (name in ('global_pause'))
);
comment on table public.system_controls is 'Switches of the whole hub, for whoever runs it.';
insert into public.system_controls (name) values ('global_pause');
create trigger system_controls_touch before update on public.system_controls
  for each row execute function private.touch_updated_at();

alter table public.system_controls enable row level security;
alter table public.system_controls force row level security;
grant select on public.system_controls to authenticated, service_role;
grant update (is_on) on public.system_controls to service_role;
create policy "everybody signed in may see the switches" on public.system_controls for select to authenticated
  using ((select auth.uid()) is not null);

create or replace view private.willing_subscriptions as
  select subscriptions.*
  from public.subscriptions
  join public.organizations on organizations.id = subscriptions.org_id
  left join public.agents on agents.id = subscriptions.agent_id
  where subscriptions.target_kind = 'function'
    and not subscriptions.paused
    and not organizations.paused
    and organizations.closed_at is null
    and (agents.id is null or (agents.status in ('idle', 'running') and agents.autonomy <> 'off'))
    and not exists (select from public.system_controls where system_controls.name = 'global_pause' and system_controls.is_on);
