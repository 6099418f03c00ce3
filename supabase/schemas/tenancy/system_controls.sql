-- Switches of the whole hub, for its operator.

create table public.system_controls (
  name       text primary key,
  is_on      boolean not null default false,
  updated_at timestamptz not null default now(),

  constraint system_controls_known check (name in ('global_pause'))
);
comment on table public.system_controls is 'Switches of the whole hub, for its operator.';

create trigger system_controls_touch before update on public.system_controls
  for each row execute function private.touch_updated_at();

alter table public.system_controls enable row level security, force row level security;
grant select on public.system_controls to authenticated, service_role;
grant update (is_on) on public.system_controls to service_role;
create policy "everybody signed in may see the switches" on public.system_controls for select to authenticated
  using ((select auth.uid()) is not null);
