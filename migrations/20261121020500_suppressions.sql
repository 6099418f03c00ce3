-- Suppressions: who must not be written to or rung any more, and who said so.
--
-- Of an identifier (this address, this number) or of a contact (this person, by whatever identifier); on one channel
-- or on all. A merge makes the stricter side hold for both, because a contact is suppressed when anybody of its family
-- is. An unmerge never widens: what a merged person said by an identifier that is clearly one contact's own is that
-- contact's; anything else was written down for each of them.

set lock_timeout = '5s';
set statement_timeout = '60s';

insert into public.role_permissions (role, permission) values
  ('admin', 'suppressions.write'), ('operator', 'suppressions.write'), ('closer', 'suppressions.write_assigned');

insert into public.event_types (name, description, schema, sample) values
  ('contact.opted_out', 'Somebody does not want to hear from us, on a channel or at all.', '{"type": "object", "required": ["reason"]}',
   '{"reason": "STOP", "channel": "sms", "kind": "phone"}');

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
comment on table public.suppressions is 'Who must not be contacted: an identifier or a contact, on a channel or, without one, on all.';
comment on column public.suppressions.match_key is 'The identifier, whoever has it: it need not be known to any contact.';
comment on column public.suppressions.event_id is 'The event in which it was said. No foreign key: partitions of events are archived one by one.';
insert into private.contact_references (table_name, column_name, on_merge) values ('suppressions', 'contact_id', 'stays');

alter table public.suppressions enable row level security;
alter table public.suppressions force row level security;
grant select on public.suppressions to authenticated, service_role;
create policy "members read suppressions, closers those of their leads" on public.suppressions for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or contact_id in (select private.my_assigned_contacts()));
create trigger suppressions_audit after insert or update or delete on public.suppressions
  for each row execute function private.audit_change('people');

create function private.is_suppressed(contact_id uuid, kind public.identifier_kind, value text, channel text)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_column
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
comment on function private.is_suppressed is 'Whether a person must not be contacted by this identifier on this channel.';

-- Whose word it is: the contact whose own identifier it came by, else every contact of the person.
create function private.speakers(contact_id uuid, kind public.identifier_kind, value text)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_column
declare
  family uuid[] := private.contact_family(speakers.contact_id);
  owners uuid[] := array(
    select distinct coalesce(known.home_id, known.contact_id)
    from public.contact_identifiers as known
    where known.org_id = (select contacts.org_id from public.contacts where contacts.id = speakers.contact_id)
      and known.kind = speakers.kind and known.match_key = private.match_key(speakers.kind, speakers.value)
    limit 2);
begin
  if cardinality(owners) = 1 and owners <@ family then
    return owners;
  end if;
  return family;
end;
$$;
comment on function private.speakers is 'The contacts for which something holds that was said by this identifier, or by none that is known.';

create function private.opt_out(
  org_id uuid, reason text, contact_id uuid, kind public.identifier_kind, value text, channel text, event_id uuid)
returns integer
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  written integer;
begin
  if opt_out.contact_id is not null then
    -- A merge or its undoing waits, or we wait for it.
    perform from public.contacts where contacts.id = any (private.contact_family(opt_out.contact_id)) order by contacts.id for key share;
  elsif opt_out.value is null or opt_out.kind is null then
    perform private.fail(422, 'nobody_named', 'An opt-out names a contact, or an identifier by kind and value.');
  elsif (opt_out.kind = 'phone' and opt_out.value !~ '^\+[1-9][0-9]{6,14}$') or (opt_out.kind = 'email' and opt_out.value !~ '@') then
    perform private.fail(422, 'bad_identifier', 'A phone number begins with + and its country, as in +64211234567; an e-mail address has an @.');
  end if;
  if opt_out.event_id is not null
     and not exists (select from public.events where events.id = opt_out.event_id and events.org_id = opt_out.org_id) then
    perform private.fail(422, 'unknown_event', 'There is no such event.');
  end if;

  insert into public.suppressions (org_id, contact_id, channel, reason, event_id, said_by, kind, match_key)
  select opt_out.org_id, said.contact_id, opt_out.channel, opt_out.reason, opt_out.event_id, (select auth.uid()), said.kind, said.match_key
  from (
    select speaker, null, null
    from unnest(private.speakers(opt_out.contact_id, opt_out.kind, opt_out.value)) as speaker
    where opt_out.contact_id is not null
    union all
    select null, opt_out.kind, private.match_key(opt_out.kind, lower(opt_out.value))
    where opt_out.contact_id is null
  ) as said (contact_id, kind, match_key)
  order by said.contact_id
  on conflict on constraint suppressions_once do nothing;
  get diagnostics written = row_count;

  if written > 0 then
    insert into public.events (org_id, type, contact_id, source, data, cause_id)
    values (opt_out.org_id, 'contact.opted_out', opt_out.contact_id, private.doer(),
            jsonb_strip_nulls(jsonb_build_object('reason', opt_out.reason, 'channel', opt_out.channel, 'kind', opt_out.kind)), opt_out.event_id);
  end if;
  return written;
end;
$$;
comment on function private.opt_out is 'Write an opt-out down, once.';

-- security definer: who may is asked here, by the caller's own permission.
create function private.opt_out_mine(
  org_id uuid, reason text, contact_id uuid, kind public.identifier_kind, value text, channel text, event_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
  if opt_out_mine.contact_id is null or opt_out_mine.contact_id not in (select private.my_assigned_contacts()) then
    perform private.permit(opt_out_mine.org_id, 'suppressions.write');
  end if;
  if opt_out_mine.contact_id is not null and not exists (
      select from public.contacts where contacts.id = opt_out_mine.contact_id and contacts.org_id = opt_out_mine.org_id) then
    perform private.fail(404, 'not_found', 'There is no such row here.');
  end if;
  return jsonb_build_object('suppressions', private.opt_out(
    org_id, reason, contact_id, kind, value, channel, event_id));
end;
$$;
comment on function private.opt_out_mine is 'Write an opt-out down within the caller''s organizations.';
grant execute on function private.opt_out_mine to authenticated, service_role;

create function public.opt_out(
  org_id uuid, reason text, contact_id uuid default null, kind public.identifier_kind default null, value text default null,
  channel text default null, event_id uuid default null)
returns jsonb
language sql
set search_path = ''
as $$
  select private.opt_out_mine(org_id, reason, contact_id, kind, value, channel, event_id);
$$;
comment on function public.opt_out is
  'Never contact again: a contact (kind and value may say by which identifier it was said), or, without a contact, one identifier. One channel, or all.';
grant execute on function public.opt_out to authenticated, service_role;
