-- Recording a submission: its secret must be valid and its turn come; then it is recorded once.
--
-- A kind that the catalogue does not know is stored and opens no lead. A browser is believed less: it may send kinds
-- that open a lead, its keys are its own, and any other kind it sends is quarantined.

create type private.submission as (
  kind            text,
  is_sure         boolean,
  form            jsonb,
  reading         jsonb,
  contact         jsonb,
  idempotency_key text,
  submission_id   text,
  quarantine      text,
  occurred_at     timestamptz,
  trace_id        text,
  secret_id       uuid,
  from_page       boolean,
  pulled_by       text
);
comment on type private.submission is
  'A site''s submission: the form as it came, its reading in our words, its contact, and its keys.';

-- security definer: hub_service may touch no table itself.
create function hub.record_submission(secret_id uuid, submission jsonb, address text default null)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  shown record;
  site public.sites;
  said private.submission := jsonb_populate_record(null::private.submission, submission);
begin
  select site_secrets.kind, sites as site into shown
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
  said.secret_id := record_submission.secret_id;
  said.from_page := shown.kind = 'page';
  said.pulled_by := null;

  -- The address comes first: one that sends too much must not use up the turns of others.
  if said.from_page then
    perform private.take_address_turn(site.id, 'page', coalesce(address, 'unknown'), site.max_per_minute_per_address);
    perform private.take_site_turn(site.id, 'page', site.max_per_second_from_pages);
  else
    perform private.take_site_turn(site.id, 'sender', site.max_per_second);
  end if;
  return private.record_once(site, said);
end;
$$;
comment on function hub.record_submission is
  'Record a submission of the site that proved itself with this secret, if it is its turn; answer its event and contact and whether it was known already.';
grant execute on function hub.record_submission to hub_service;
