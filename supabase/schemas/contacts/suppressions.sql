-- Suppressions: contacts and identifiers that must not be written to or called any more, and who said so.
--
-- A suppression is of an identifier (this address, this number) or of a contact by whatever identifier, on one channel
-- or on all. A merge makes the stricter side hold for both, because a contact is suppressed when any of its family is.
-- An unmerge never widens: an opt-out that a merged contact said by an identifier clearly its own is its own; any other
-- was written down for each of the family.

create table public.suppressions (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  contact_id uuid,
  kind       public.identifier_kind,
  match_key  text,
  channel    text,
  reason     text not null,
  event_id   uuid,
  said_by    uuid,
  created_at timestamptz not null default now(),

  constraint suppressions_contact foreign key (org_id, contact_id) references public.contacts (org_id, id),
  constraint suppressions_of_one check ((contact_id is null) <> (match_key is null) and (kind is null) = (match_key is null)),
  constraint suppressions_channel_form check (channel ~ '^[a-z][a-z_]{1,29}$'),
  constraint suppressions_match_key_length check (length(match_key) between 3 and 320),
  constraint suppressions_reason_length check (length(reason) between 1 and 1000),
  constraint suppressions_once unique nulls not distinct (org_id, contact_id, kind, match_key, channel)
);
comment on table public.suppressions is 'Identifiers and contacts that must not be written to or called, on a channel or, without one, on all.';
comment on column public.suppressions.match_key is 'The key of the identifier; no contact need have it.';
comment on column public.suppressions.event_id is 'The event in which it was said. No foreign key: partitions of events are archived one by one.';

create trigger suppressions_audit after insert or update or delete on public.suppressions
  for each row execute function private.audit_change('users');

alter table public.suppressions enable row level security, force row level security;
grant select on public.suppressions to authenticated, service_role;
create policy "members read suppressions, closers those of their leads" on public.suppressions for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or contact_id in (select private.my_assigned_contacts()));

create function private.is_suppressed(contact_id uuid, kind public.identifier_kind, value text, channel text)
returns boolean
language plpgsql stable set search_path = ''
as $$
declare
  org uuid := (select contacts.org_id from public.contacts where contacts.id = is_suppressed.contact_id);
  family uuid[] := private.contact_family(is_suppressed.contact_id);
begin
  return exists (
    select from public.suppressions as said
    where said.org_id = org and said.contact_id = any (family)
      and (said.channel is null or said.channel = is_suppressed.channel)
  ) or exists (
    select from public.suppressions as said
    where said.org_id = org and said.contact_id is null and said.kind = is_suppressed.kind
      and said.match_key = private.match_key(is_suppressed.kind, is_suppressed.value)
      and (said.channel is null or said.channel = is_suppressed.channel));
end;
$$;
comment on function private.is_suppressed is 'Whether a contact must not be written to or called by this identifier on this channel.';
