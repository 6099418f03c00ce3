-- Recording a submission: who it is and whether it is their turn, then once, whatever it is.
--
-- A kind that the catalogue does not know is stored and opens no lead. What a browser says is believed less: it may send
-- what opens a lead, its keys are its own, and all else it says is quarantined.

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
