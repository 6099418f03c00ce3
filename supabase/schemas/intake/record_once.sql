-- Recording what happened at a site, once, under its keys or else its content.

create function private.record_submission(
  site public.sites,
  kind text,
  is_sure boolean,
  submission jsonb,
  reading jsonb,
  contact jsonb,
  idempotency_key text,
  submission_id text,
  quarantine text,
  from_page boolean,
  secret_id uuid,
  occurred_at timestamptz,
  trace_id text,
  pulled_by text default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  is_pull boolean := pulled_by is not null;
  digest bytea := sha256(convert_to(record_submission.kind || submission::text, 'UTF8'));
  keys text[];
  event_id uuid := private.uuid_v7();
  event_type text := 'form.submitted';
  known public.event_types;
  makes_lead boolean := true;
  first uuid;
  person uuid;
  lead uuid;
begin
  -- The commonest kind needs no look-up.
  if record_submission.kind <> event_type then
    select * into known from public.event_types where event_types.name = private.canonical_type(record_submission.kind);
    if is_sure or known.makes_lead then
      event_type := coalesce(known.name, record_submission.kind);
      makes_lead := coalesce(known.makes_lead, false);
      if (from_page and not makes_lead) or not coalesce(known.from_sites, true) then
        quarantine := coalesce(quarantine, 'kind');
      end if;
    end if;
  end if;

  -- A browser's keys are its own: nobody can take a key that a server will use.
  keys := array_remove(array[
    case when from_page then 'page:' else 'key:' end || idempotency_key,
    case when from_page then 'page:' else 'key:' end || nullif(submission_id, idempotency_key),
    case when is_pull or coalesce(idempotency_key, submission_id) is null
      then case when from_page then 'page-content:' else 'content:' end || encode(digest, 'hex') end], null);
  if is_pull then
    first := private.sent_by_page(site, idempotency_key, event_type, submission, digest);
  end if;
  first := coalesce(private.claim_receipts(site, keys, coalesce(first, event_id), digest, event_type, is_pull, record_submission.secret_id), first);
  if first is not null then
    select events.contact_id into person from public.events where events.id = first;
    return jsonb_build_object('event_id', first, 'contact_id', private.visible_contact(person), 'duplicate', true);
  end if;

  if quarantine is null then
    if contact ->> 'email' is not null or contact ->> 'phone' is not null then
      person := private.resolve_contact(site.org_id, contact ->> 'name', contact ->> 'email', contact ->> 'phone', event_id);
      perform private.learn_facts(
        site.org_id, person, coalesce(contact -> 'facts', jsonb_build_object('name', contact -> 'name')), event_id,
        coalesce(record_submission.occurred_at, now()));
    elsif makes_lead then
      perform private.fail(422, 'unreachable_contact', 'An e-mail address or a phone number is needed.');
    end if;
    if makes_lead then
      lead := private.open_lead(site.org_id, person, site.id, 'site:' || site.slug);
    end if;
  end if;

  insert into public.events (id, org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, occurred_at)
  values (
    event_id, site.org_id, site.id,
    case when quarantine is null then event_type else 'submission.quarantined' end,
    person, case when lead is not null then 'lead' end, lead, coalesce('pull:' || pulled_by, 'site:' || site.slug),
    case when quarantine is not null then jsonb_build_object('reason', quarantine, 'kind', record_submission.kind, 'submission', submission)
         when reading is not null then reading || jsonb_build_object('form', submission)
         else submission end,
    coalesce(record_submission.trace_id, replace(gen_random_uuid()::text, '-', '')),
    coalesce(record_submission.occurred_at, now()));
  return jsonb_build_object('event_id', event_id, 'contact_id', private.visible_contact(person), 'duplicate', false);
end;
$$;
comment on function private.record_submission is
  'Record what happened at a site once, under its keys or else its content; answer its event and contact and whether it was known already.';
