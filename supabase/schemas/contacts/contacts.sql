-- Contacts: one per person, whichever site and channel they came through.

create table public.contacts (
  id          uuid primary key default private.uuid_v7(),
  org_id      uuid not null references public.organizations (id),
  name        text,
  language    text,
  time_zone   text,
  merged_into uuid,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),

  constraint contacts_of_org unique (org_id, id),
  constraint contacts_merged_within_org foreign key (org_id, merged_into) references public.contacts (org_id, id),
  constraint contacts_not_into_itself check (merged_into <> id)
);
comment on table public.contacts is 'A person, once, whichever site and channel they came through.';
create index contacts_merged_into_idx on public.contacts (org_id, merged_into) where merged_into is not null;

create trigger contacts_touch before update on public.contacts
  for each row execute function private.touch_updated_at();
create trigger contacts_audit after update or delete on public.contacts
  for each row execute function private.audit_change('users');

alter table public.contacts enable row level security, force row level security;
grant select on public.contacts to authenticated, service_role;
grant update (name, language, time_zone) on public.contacts to authenticated;
create policy "members read contacts, closers those of their leads" on public.contacts for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or id in (select private.my_assigned_contacts()));
create policy "operators change contacts" on public.contacts for update to authenticated
  using (org_id in (select private.my_orgs('contacts.update')))
  with check (org_id in (select private.my_orgs('contacts.update')));
