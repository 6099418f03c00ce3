-- Recording a submission once, under its keys or else its content.
--
-- The event's data is the reading of the form, in our words, with the form as it came under `form`.

create function private.record_once(site public.sites, said private.submission)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  digest constant bytea := sha256(convert_to(said.kind || said.form::text, 'UTF8'));
  event_id uuid := private.uuid_v7();
  type text := 'form.submitted';
  known public.event_types;
  makes_lead boolean := true;
  first uuid;
  home uuid;
  lead uuid;
begin
  -- The commonest kind needs no look-up.
  if said.kind <> type then
    select * into known from public.event_types where event_types.name = private.canonical_type(said.kind);
    if coalesce(said.is_sure, true) or known.makes_lead then
      type := coalesce(known.name, said.kind);
      makes_lead := coalesce(known.makes_lead, false);
      if (said.from_page and not makes_lead) or not coalesce(known.from_sites, true) then
        said.quarantine := coalesce(said.quarantine, 'kind');
      end if;
    end if;
  end if;

  first := private.claim_submission(site, said, type, event_id, digest);
  if first is not null then
    select events.contact_id into home from public.events where events.id = first;
    return jsonb_build_object('event_id', first, 'contact_id', private.visible_contact(home), 'duplicate', true);
  end if;

  if said.quarantine is null then
    if said.contact ->> 'email' is not null or said.contact ->> 'phone' is not null then
      home := private.resolve_contact(site.org_id, said.contact ->> 'name', said.contact ->> 'email', said.contact ->> 'phone', event_id);
      perform private.learn_facts(
        site.org_id, home, coalesce(said.contact -> 'facts', jsonb_build_object('name', said.contact -> 'name')), event_id,
        coalesce(said.occurred_at, now()));
    elsif makes_lead then
      perform private.fail(422, 'unreachable_contact', 'An e-mail address or a phone number is needed.');
    end if;
    if makes_lead then
      lead := private.open_lead(site.org_id, home, site.id, 'site:' || site.slug);
    end if;
  end if;

  perform private.write_event(
    site.org_id, case when said.quarantine is null then type else 'submission.quarantined' end,
    coalesce(said.reading, '{}')
    || case when said.quarantine is null then '{}' else jsonb_build_object('reason', said.quarantine, 'kind', said.kind) end
    || jsonb_build_object('form', said.form),
    source => coalesce('pull:' || said.pulled_by, 'site:' || site.slug), site_id => site.id, contact_id => home,
    subject_type => case when lead is not null then 'lead' end, subject_id => lead,
    trace_id => said.trace_id, occurred_at => said.occurred_at, id => event_id);
  return jsonb_build_object('event_id', event_id, 'contact_id', private.visible_contact(home), 'duplicate', false);
end;
$$;
comment on function private.record_once is
  'Record a submission once, under its keys or else its content; answer its event and contact and whether it was known already.';
