-- Submissions by any way in, of any kind. Pushed and pulled are one: a submission may have several keys, and each of them leads to its event.
--
-- A push is known by what is signed or its Idempotency-Key, and by its own submission_id, or by its content; a pulled
-- item by its id, and by its content where a push without any key brought it first. A pull's body is not compared,
-- since a list may tell more of a submission than its form did, and its receipt stays for good, since a cursor may be
-- set back. What a page sent has keys of its own: it is the pulled item only if it says all that the item says.
--
-- hub.record_submission asks who it is and whether it is their turn; private.record_submission records, once. A kind
-- that the catalogue does not know is stored and opens no lead. What a browser says is believed less: it may send what
-- opens a lead, its keys are its own, and all else it says is quarantined.

set lock_timeout = '5s';
set statement_timeout = '60s';

alter table public.receipts add column secret_id uuid;
comment on column public.receipts.secret_id is 'The secret it was signed with, so that one can be ended when nobody uses it any more. No foreign key: it would cost a look-up for each form.';

-- Only SQL of ours reads it.
-- squawk-ignore ban-drop-not-null
alter table public.receipts alter column body_sha256 drop not null;
comment on column public.receipts.body_sha256 is 'Null: pulled, and whatever body comes under this key is the same submission.';

create function private.claim_receipts(
  site public.sites, keys text[], event_id uuid, digest bytea, type text, is_pull boolean, secret_id uuid)
returns uuid
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  origin text := 'site:' || site.slug;
  claimed integer;
  first record;
begin
  insert into public.receipts (source, key, org_id, body_sha256, event_id, expires_at, secret_id)
  select
    origin, given.key, site.org_id, case when not is_pull then digest end, claim_receipts.event_id,
    case when given.key ~ '^(page-)?content:' then now() + interval '1 day' when is_pull then 'infinity' else now() + interval '30 days' end,
    claim_receipts.secret_id
  from unnest(keys) as given (key)
  -- Ordered, so that two senders of the same keys cannot wait for each other.
  order by given.key
  on conflict on constraint receipts_pkey do update
    set body_sha256 = excluded.body_sha256, event_id = excluded.event_id, created_at = now(),
        expires_at = excluded.expires_at, secret_id = excluded.secret_id
    where receipts.expires_at <= now();
  get diagnostics claimed = row_count;
  if claimed = cardinality(keys) then
    return null;
  end if;

  -- A second statement, because only a fresh snapshot sees what a concurrent sender has just committed.
  select receipts.event_id, receipts.body_sha256, events.type, given.turn into first
  from unnest(keys) with ordinality as given (key, turn)
  join public.receipts on receipts.source = origin and receipts.key = given.key
  -- An event may have been archived by now.
  left join public.events on events.id = receipts.event_id
  where receipts.event_id <> claim_receipts.event_id
    and (given.turn = 1
      -- A second key decides only where the body agrees; a content that one pulled item has taken is not another's.
      or case when is_pull then receipts.body_sha256 is not null else coalesce(receipts.body_sha256, digest) = digest end)
  order by given.turn
  limit 1;
  if not found then
    return null;
  end if;

  if is_pull and first.type not in (claim_receipts.type, 'submission.quarantined') then
    perform private.fail(409, 'id_in_use', 'Something of another kind has this id.');
  elsif not is_pull and first.turn = 1 and first.body_sha256 <> digest then
    perform private.fail(409, 'idempotency_conflict', 'This idempotency key was used for another submission.');
  end if;

  if cardinality(keys) > 1 then
    update public.receipts
    set event_id = first.event_id,
        body_sha256 = case when not is_pull then receipts.body_sha256 end,
        expires_at = case when is_pull and receipts.key like 'key:%' then 'infinity' else receipts.expires_at end
    where receipts.source = origin and receipts.key = any (keys)
      and (receipts.event_id = claim_receipts.event_id or (is_pull and receipts.event_id = first.event_id))
      and (receipts.event_id, receipts.expires_at) is distinct from (first.event_id, 'infinity'::timestamptz);
  end if;
  return first.event_id;
end;
$$;
comment on function private.claim_receipts is 'Give a submission''s keys to an event; answers the one that has them already, else null.';

create function private.sent_by_page(site public.sites, id text, type text, submission jsonb, digest bytea)
returns uuid
language sql
stable
set search_path = ''
as $$
  select events.id
  from public.receipts
  join public.events on events.id = receipts.event_id
  where receipts.source = 'site:' || site.slug
    and receipts.key in ('page:' || sent_by_page.id, 'page-content:' || encode(digest, 'hex'))
    and receipts.expires_at > now()
    and events.type = sent_by_page.type
    and (events.data @> submission or events.data -> 'form' @> submission)
  order by events.id
  limit 1;
$$;
comment on function private.sent_by_page is 'The event of a page that sent a pulled item under its id, with at least what the item says.';

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
#variable_conflict use_column
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

-- Whoever calls it by name, as functions do, finds the next one.
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
  address text default null,
  submission_id text default null)
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
    site, kind, is_sure, submission, reading, contact, idempotency_key, submission_id, quarantine, is_page, secret_id,
    occurred_at, trace_id);
end;
$$;
comment on function hub.record_submission is
  'Record a submission of whoever showed this secret, if it is their turn; answer its event and contact and whether it was known already.';
grant execute on function hub.record_submission to hub_service;

create function private.recognise_events()
returns integer
language plpgsql
set search_path = ''
as $$
declare
  unknown public.events;
  known public.event_types;
  lead uuid;
  recognised integer := 0;
begin
  for unknown in
    select events.* from public.events
    where events.unrecognised and private.canonical_type(events.type) is not null
      and not exists (select from public.events as named where named.cause_id = events.id and named.source = 'hub')
    order by events.id
    limit 5000
  loop
    select * into known from public.event_types where event_types.name = private.canonical_type(unknown.type);
    lead := case when known.makes_lead and unknown.contact_id is not null and unknown.site_id is not null
      then private.open_lead(unknown.org_id, private.visible_contact(unknown.contact_id), unknown.site_id, unknown.source) end;
    insert into public.events (org_id, site_id, type, contact_id, subject_type, subject_id, source, data, cause_id, trace_id, occurred_at)
    values (
      unknown.org_id, unknown.site_id, known.name, unknown.contact_id, case when lead is not null then 'lead' end, lead,
      'hub', unknown.data, unknown.id, unknown.trace_id, unknown.occurred_at);
    recognised := recognised + 1;
  end loop;
  return recognised;
end;
$$;
comment on function private.recognise_events is 'Say what unknown events were, once their kind has a name: each causes one of that name, the oldest 5000 at once.';

-- security definer: kinds are the hub's, not an organization's; whoever holds the secret key says what they mean.
create function private.name_kind(kind text, means text)
returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
  written text := lower(replace(name_kind.kind, '-', '_'));
  known text := private.canonical_type(name_kind.means);
begin
  if known is null then
    perform private.fail(422, 'unknown_type', 'There is no kind of event ' || coalesce(name_kind.means, 'without a name') || '.');
  end if;
  if written is null or written !~ '^[a-z][a-z0-9._]{0,99}$' then
    perform private.fail(422, 'bad_kind', 'A kind is a word such as quote_request.');
  end if;
  if private.canonical_type(written) is distinct from known then
    update public.event_types set aliases = aliases || written where event_types.name = known;
  end if;
  return private.recognise_events();
end;
$$;
comment on function private.name_kind is 'Let a kind mean a known type of event.';
grant execute on function private.name_kind to service_role;

create function public.name_kind(kind text, means text)
returns integer
language sql
set search_path = ''
as $$
  select private.name_kind(kind, means);
$$;
comment on function public.name_kind is 'Let a kind that sites send mean a known type of event, from now on and for what has come already. Answers how many that are.';
grant execute on function public.name_kind to service_role;
