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

-- Webhooks are willing subscriptions too, each under its own target: webhook-sender/<id>.

alter table public.subscriptions validate constraint subscriptions_url_form;

-- Two halves, so that a function's target is still looked up by its index.
create or replace view private.willing_subscriptions as
  select willing.*
  from (
    select subscriptions.* from public.subscriptions where subscriptions.target_kind = 'function'
    union all
    select
      subscriptions.id, subscriptions.org_id, subscriptions.name, subscriptions.event_types, subscriptions.target_kind,
      'webhook-sender/' || subscriptions.id, subscriptions.agent_id, subscriptions.paused, subscriptions.ordered,
      subscriptions.max_attempts, subscriptions.retry_base, subscriptions.created_at, subscriptions.updated_at
    from public.subscriptions where subscriptions.target_kind = 'webhook'
  ) as willing
  join public.organizations on organizations.id = willing.org_id
  left join public.agents on agents.id = willing.agent_id
  where not willing.paused
    and not organizations.paused
    and organizations.closed_at is null
    and (agents.id is null or (agents.status in ('idle', 'running') and agents.autonomy <> 'off'))
    and not exists (select from public.system_controls where system_controls.name = 'global_pause' and system_controls.is_on);
comment on view private.willing_subscriptions is 'Subscriptions whose deliveries may be handled now, by the target that claims them: nothing about them is paused or closed.';
-- A function is claimed by its name, a webhook by this.
-- squawk-ignore require-concurrent-index-creation
create index subscriptions_webhook_idx on public.subscriptions (('webhook-sender/' || id)) where target_kind = 'webhook';
