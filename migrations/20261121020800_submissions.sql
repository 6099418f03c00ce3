-- Submissions by any way in, of any kind: who proves to be a site may say what happened there.
--
-- hub.record_submission asks who it is and whether it is their turn; private.record_submission records, once. A kind
-- that the catalogue does not know is stored and opens no lead. What a browser says is believed less: it may send what
-- opens a lead, its keys are its own, and all else it says is quarantined.

set lock_timeout = '5s';
set statement_timeout = '60s';

alter table public.receipts add column secret_id uuid;
comment on column public.receipts.secret_id is 'The secret it was signed with, so that one can be ended when nobody uses it any more. No foreign key: it would cost a look-up for each form.';

create function private.record_submission(
  site public.sites,
  kind text,
  is_sure boolean,
  submission jsonb,
  reading jsonb,
  contact jsonb,
  sender_key text,
  quarantine text,
  from_page boolean,
  secret_id uuid,
  occurred_at timestamptz,
  trace_id text)
returns jsonb
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  digest bytea := sha256(convert_to(record_submission.kind || submission::text, 'UTF8'));
  receipt_key text := coalesce(sender_key, 'content:' || encode(digest, 'hex'));
  event_id uuid := private.uuid_v7();
  event_type text := 'form.submitted';
  known public.event_types;
  makes_lead boolean := true;
  person uuid;
  lead uuid;
  first record;
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

  insert into public.receipts (source, key, org_id, body_sha256, event_id, expires_at, secret_id)
  values (
    'site:' || site.slug, receipt_key, site.org_id, digest, event_id,
    now() + case when sender_key is null then interval '1 day' else interval '30 days' end, record_submission.secret_id)
  on conflict on constraint receipts_pkey do update
    set body_sha256 = excluded.body_sha256, event_id = excluded.event_id, created_at = now(),
        expires_at = excluded.expires_at, secret_id = excluded.secret_id
    where receipts.expires_at <= now();
  if not found then
    -- A second statement, because only a fresh snapshot sees what a concurrent sender has just committed.
    select receipts.event_id, receipts.body_sha256, events.contact_id into strict first
    from public.receipts
    join public.events on events.id = receipts.event_id
    where receipts.source = 'site:' || site.slug and receipts.key = receipt_key;
    if first.body_sha256 <> digest then
      perform private.fail(409, 'idempotency_conflict', 'This idempotency key was used for another submission.');
    end if;
    return jsonb_build_object('event_id', first.event_id, 'contact_id', private.visible_contact(first.contact_id), 'duplicate', true);
  end if;

  if quarantine is null and (makes_lead or known.name is not null) then
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
    person, case when lead is not null then 'lead' end, lead, 'site:' || site.slug,
    case when quarantine is not null then jsonb_build_object('reason', quarantine, 'kind', record_submission.kind, 'submission', submission)
         when reading is not null then reading || jsonb_build_object('form', submission)
         else submission end,
    coalesce(record_submission.trace_id, replace(gen_random_uuid()::text, '-', '')),
    coalesce(record_submission.occurred_at, now()));
  return jsonb_build_object('event_id', event_id, 'contact_id', private.visible_contact(person), 'duplicate', false);
end;
$$;
comment on function private.record_submission is
  'Record what happened at a site once, under its key or else its content; answer its event and contact and whether it was known already.';

-- Whoever calls it by name, as functions do, finds the next one.
-- squawk-ignore ban-drop-function
drop function hub.record_submission(uuid, text, jsonb, jsonb, text, text, timestamptz, text);
-- security definer: hub_service may touch no table itself.
create function hub.record_submission(
  secret_id uuid,
  kind text,
  submission jsonb,
  contact jsonb,
  idempotency_key text default null,
  quarantine text default null,
  occurred_at timestamptz default null,
  trace_id text default null,
  is_sure boolean default true,
  reading jsonb default null,
  address text default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  shown record;
  site public.sites;
  is_page boolean;
begin
  select site_secrets.kind as way, sites as site into shown
  from private.site_secrets
  join public.sites on sites.id = site_secrets.site_id and sites.enabled
  join public.organizations on organizations.id = sites.org_id and organizations.closed_at is null
  where site_secrets.id = record_submission.secret_id
    and site_secrets.valid_from <= now()
    and coalesce(site_secrets.valid_to, 'infinity') > now();
  if not found then
    perform private.fail(401, 'unknown_secret', 'The secret of this site is missing or wrong.');
  end if;
  site := shown.site;
  is_page := shown.way = 'page';

  -- The address first: one that sends too much must not use up the turns of others.
  if is_page then
    perform private.take_address_turn(site.id, 'page', coalesce(address, 'unknown'), site.max_per_minute_per_address);
    perform private.take_site_turn(site.id, 'page', site.max_per_second_from_pages);
  else
    perform private.take_site_turn(site.id, 'sender', site.max_per_second);
  end if;

  return private.record_submission(
    site, kind, is_sure, submission, reading, contact,
    -- A browser's keys are its own: nobody can take a key that a server will use.
    case when is_page then 'page:' else 'key:' end || idempotency_key,
    quarantine, is_page, secret_id, occurred_at, trace_id);
end;
$$;
comment on function hub.record_submission is
  'Record a submission of whoever showed this secret, if it is their turn; answer its event and contact and whether it was known already.';
grant execute on function hub.record_submission to hub_service;
