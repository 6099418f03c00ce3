-- Keys: a submission is one, pushed or pulled. It may have several keys, and each of them leads to its event.
--
-- A push is known by its signed message id or its Idempotency-Key, and by its submission_id, or by its content. A pulled
-- item is known by its id, and by its content where a push without any key brought it first. A pull's body is not
-- compared, since a list may tell more of a submission than its form did, and its receipt stays for good, since a cursor
-- may be set back. A page's form has keys of its own: it is the pulled item only if it says all that the item says.

create function private.claim_submission(site public.sites, said private.submission, type text, event_id uuid, digest bytea)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  is_pull constant boolean := said.pulled_by is not null;
  -- A browser's keys are its own: nobody can take a key that a server will use.
  mark constant text := case when said.from_page then 'page-' else '' end;
  keys text[];
  first uuid;
begin
  keys := array_remove(array[
    mark || 'key:' || said.idempotency_key,
    mark || 'key:' || nullif(said.submission_id, said.idempotency_key),
    case when is_pull or coalesce(said.idempotency_key, said.submission_id) is null
      then mark || 'content:' || encode(digest, 'hex') end], null);
  if is_pull then
    first := private.sent_by_page(site, said.idempotency_key, type, said.form, digest);
  end if;
  return coalesce(
    private.claim_receipts(site, keys, coalesce(first, event_id), digest, type, is_pull, said.secret_id), first);
end;
$$;
comment on function private.claim_submission is 'Give a submission''s keys to an event; answers the event that has them already, else null.';

create function private.claim_receipts(
  site public.sites, keys text[], event_id uuid, digest bytea, type text, is_pull boolean, secret_id uuid)
returns uuid
language plpgsql set search_path = ''
as $$
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

  -- A second statement, because only a fresh snapshot sees the receipt that a concurrent sender has just committed.
  select receipts.event_id, receipts.body_sha256, events.type, given.turn into first
  from unnest(keys) with ordinality as given (key, turn)
  join public.receipts on receipts.source = origin and receipts.key = given.key
  -- An event may have been archived by now.
  left join public.events on events.id = receipts.event_id
  where receipts.event_id <> claim_receipts.event_id
    and (given.turn = 1
      -- A second key decides only when the body agrees; a content that one pulled item has taken is not another's.
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
comment on function private.claim_receipts is 'Give a submission''s keys to an event; answers the event that has them already, else null.';

create function private.sent_by_page(site public.sites, id text, type text, form jsonb, digest bytea)
returns uuid
language sql stable set search_path = ''
as $$
  select events.id
  from public.receipts
  join public.events on events.id = receipts.event_id
  where receipts.source = 'site:' || site.slug
    and receipts.key in ('page-key:' || sent_by_page.id, 'page-content:' || encode(digest, 'hex'))
    and receipts.expires_at > now()
    and events.type = sent_by_page.type
    and events.data -> 'form' @> sent_by_page.form
  order by events.id
  limit 1;
$$;
comment on function private.sent_by_page is 'The event of a page that sent a pulled item under its id, with at least what the item says.';
