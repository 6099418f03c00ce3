-- Reserving the tokens and cost of a question to a model, before it is asked.

-- security definer: hub_service may touch no table itself.
create function hub.begin_model_run(
  delivery_id uuid,
  lease_token uuid,
  prompt_digest text,
  tokens bigint,
  cost_cents numeric,
  day_tokens bigint,
  day_cents numeric,
  tries integer)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  today date := (now() at time zone 'UTC')::date;
  org record;
  run private.model_runs;
  token_limit numeric;
  cent_limit numeric;
begin
  if not private.is_lease_held(begin_model_run.delivery_id, begin_model_run.lease_token) then
    perform private.fail(409, 'lease_lost', 'The lease of this delivery is no longer held.');
  end if;
  select * into run from private.model_runs where model_runs.delivery_id = begin_model_run.delivery_id for update;
  if run.answer is not null and run.prompt_digest = begin_model_run.prompt_digest then
    return jsonb_build_object('state', 'answered', 'answer', run.answer, 'tokens', run.tokens, 'cost_cents', run.cost_cents);
  end if;
  if run.attempts >= begin_model_run.tries then
    return jsonb_build_object('state', 'refused', 'reason', 'tries');
  end if;

  select organizations.id, organizations.settings, deliveries.mode into org
  from public.deliveries
  join public.organizations on organizations.id = deliveries.org_id
  where deliveries.id = begin_model_run.delivery_id;
  if not private.may_ask_model(org.id) then
    return jsonb_build_object('state', 'refused', 'reason', 'credits');
  end if;
  token_limit := private.day_limit(org.settings, 'day_tokens', begin_model_run.day_tokens);
  cent_limit := private.day_limit(org.settings, 'day_cents', begin_model_run.day_cents);
  -- A rehearsal leaves the other half of the day's limit to live deliveries.
  if org.mode = 'rehearsal' then
    token_limit := token_limit / 2;
    cent_limit := cent_limit / 2;
  end if;
  if cent_limit is not null and begin_model_run.cost_cents is null then
    return jsonb_build_object('state', 'refused', 'reason', 'price_unknown');
  end if;

  insert into private.model_spending (org_id, day) values (org.id, today) on conflict do nothing;
  -- One statement looks and takes: two runs at once cannot both take the last of it.
  update private.model_spending
  set tokens = model_spending.tokens + begin_model_run.tokens,
      cost_cents = model_spending.cost_cents + coalesce(begin_model_run.cost_cents, 0)
  where model_spending.org_id = org.id and model_spending.day = today
    and model_spending.tokens + begin_model_run.tokens <= coalesce(token_limit, 'infinity')
    and model_spending.cost_cents + coalesce(begin_model_run.cost_cents, 0) <= coalesce(cent_limit, 'infinity');
  if not found then
    return jsonb_build_object('state', 'refused', 'reason', 'day');
  end if;

  insert into private.model_runs (delivery_id, org_id, day, prompt_digest, reserved_tokens, reserved_cents)
  values (
    begin_model_run.delivery_id, org.id, today, begin_model_run.prompt_digest, begin_model_run.tokens,
    coalesce(begin_model_run.cost_cents, 0))
  on conflict on constraint model_runs_pkey do update
    set day = excluded.day, prompt_digest = excluded.prompt_digest, attempts = model_runs.attempts + 1, answer = null,
        reserved_tokens = excluded.reserved_tokens, reserved_cents = excluded.reserved_cents;
  return jsonb_build_object('state', 'begun');
end;
$$;
comment on function hub.begin_model_run is 'Reserve the tokens and cost of a question to a model: begun, answered already, or refused with the reason.';
grant execute on function hub.begin_model_run to hub_service;

create function private.is_lease_held(delivery_id uuid, lease_token uuid)
returns boolean
language sql stable set search_path = ''
as $$
  select exists (
    select from public.deliveries
    where deliveries.id = is_lease_held.delivery_id
      and deliveries.lease_token = is_lease_held.lease_token
      and deliveries.status = 'running');
$$;
comment on function private.is_lease_held is 'Whether a delivery is still handled under this lease.';

-- A limit that is not a number cannot be kept: nothing may be spent.
create function private.day_limit(settings jsonb, name text, versions numeric)
returns numeric
language sql immutable set search_path = ''
as $$
  select least(versions, case jsonb_typeof(settings #> array['model', name])
    when 'number' then (settings #>> array['model', name])::numeric
    when 'null' then null
    else case when settings #> array['model', name] is not null then 0 end
  end);
$$;
comment on function private.day_limit is 'The tighter of the organization''s limit and the version''s; null is none.';
