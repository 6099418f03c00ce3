-- Opting out: a contact is never written to or called again, on a channel or at all.

create function public.opt_out(
  org_id uuid, reason text, contact_id uuid default null, kind public.identifier_kind default null, value text default null,
  channel text default null, event_id uuid default null)
returns jsonb
language sql set search_path = ''
as $$
  select private.opt_out_for_caller(org_id, reason, contact_id, kind, value, channel, event_id);
$$;
comment on function public.opt_out is
  'Never write to or call a contact again (kind and value may name the identifier it was said by), or, without a contact, one identifier. One channel, or all.';
grant execute on function public.opt_out to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.opt_out_for_caller(
  org_id uuid, reason text, contact_id uuid, kind public.identifier_kind, value text, channel text, event_id uuid)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  if opt_out_for_caller.contact_id is null or opt_out_for_caller.contact_id not in (select private.my_assigned_contacts()) then
    perform private.permit(opt_out_for_caller.org_id, 'suppressions.write');
  end if;
  if opt_out_for_caller.contact_id is not null and not exists (
      select from public.contacts where contacts.id = opt_out_for_caller.contact_id and contacts.org_id = opt_out_for_caller.org_id) then
    perform private.fail(404, 'not_found', 'There is no such row here.');
  end if;
  return jsonb_build_object('suppressions', private.opt_out(
    org_id, reason, contact_id, kind, value, channel, event_id));
end;
$$;
comment on function private.opt_out_for_caller is 'Write an opt-out down within the caller''s organizations.';
grant execute on function private.opt_out_for_caller to authenticated, service_role;

create function private.opt_out(
  org_id uuid, reason text, contact_id uuid, kind public.identifier_kind, value text, channel text, event_id uuid)
returns integer
language plpgsql set search_path = ''
as $$
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
    perform private.write_event(
      opt_out.org_id, 'contact.opted_out',
      jsonb_strip_nulls(jsonb_build_object('reason', opt_out.reason, 'channel', opt_out.channel, 'kind', opt_out.kind)),
      source => private.doer(), contact_id => opt_out.contact_id, cause_id => opt_out.event_id);
  end if;
  return written;
end;
$$;
comment on function private.opt_out is 'Write an opt-out down, once.';

-- An opt-out by a contact's own identifier is that contact's; any other is every contact's of the family.
create function private.speakers(contact_id uuid, kind public.identifier_kind, value text)
returns uuid[]
language plpgsql stable set search_path = ''
as $$
declare
  family uuid[] := private.contact_family(speakers.contact_id);
  owners uuid[] := array(
    select distinct known.home_id
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
comment on function private.speakers is 'The contacts for which an opt-out holds that was said by this identifier, or by none that is known.';
