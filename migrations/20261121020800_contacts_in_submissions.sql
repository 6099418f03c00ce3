-- A submission says what it knows of its contact; the answer names the contact under which it is seen.
--
-- Against 20261121000800: the event's id goes to resolve_contact, learn_facts is called, and both answers name
-- visible_contact.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- security definer: hub_service may touch no table itself.
create or replace function hub.record_submission(
  secret_id uuid,
  kind text,
  submission jsonb,
  contact jsonb,
  idempotency_key text default null,
  quarantine text default null,
  occurred_at timestamptz default null,
  trace_id text default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
  site record;
  digest bytea := sha256(convert_to(record_submission.kind || submission::text, 'UTF8'));
  receipt_key text := coalesce('key:' || idempotency_key, 'content:' || encode(digest, 'hex'));
  event_id uuid := private.uuid_v7();
  person uuid;
  lead uuid;
  first record;
begin
  select sites.id, sites.org_id, sites.slug into site
  from private.site_secrets
  join public.sites on sites.id = site_secrets.site_id and sites.enabled
  join public.organizations on organizations.id = sites.org_id and organizations.closed_at is null
  where site_secrets.id = record_submission.secret_id
    and site_secrets.valid_from <= now()
    and coalesce(site_secrets.valid_to, 'infinity') > now();
  if not found then
    perform private.fail(401, 'unknown_secret', 'The secret of this site is missing or wrong.');
  end if;

  insert into public.receipts (source, key, org_id, body_sha256, event_id, expires_at)
  values (
    'site:' || site.slug, receipt_key, site.org_id, digest, event_id,
    now() + case when idempotency_key is null then interval '1 day' else interval '30 days' end)
  on conflict on constraint receipts_pkey do update
    set body_sha256 = excluded.body_sha256, event_id = excluded.event_id, created_at = now(), expires_at = excluded.expires_at
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

  if quarantine is null then
    person := private.resolve_contact(site.org_id, contact ->> 'name', contact ->> 'email', contact ->> 'phone', event_id);
    perform private.learn_facts(
      site.org_id, person, coalesce(contact -> 'facts', jsonb_build_object('name', contact -> 'name')), event_id,
      coalesce(record_submission.occurred_at, now()));
    lead := private.open_lead(site.org_id, person, site.id, 'site:' || site.slug);
  end if;

  insert into public.events (id, org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, occurred_at)
  values (
    event_id, site.org_id, site.id,
    case when quarantine is null then record_submission.kind else 'submission.quarantined' end,
    person, case when lead is not null then 'lead' end, lead, 'site:' || site.slug,
    case when quarantine is null then submission
         else jsonb_build_object('reason', quarantine, 'kind', record_submission.kind, 'submission', submission) end,
    coalesce(record_submission.trace_id, replace(gen_random_uuid()::text, '-', '')),
    coalesce(record_submission.occurred_at, now()));
  return jsonb_build_object('event_id', event_id, 'contact_id', private.visible_contact(person), 'duplicate', false);
end;
$$;
