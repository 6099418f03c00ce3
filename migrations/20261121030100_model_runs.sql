-- Model runs: what asking a model costs is reserved before it is asked, within the day's limits of the organization.
--
-- A delivery that is handled again, because its function was killed after the answer, finds that answer here and
-- does not pay twice. What was reserved and never ended counts as spent. A day is a day in UTC.

set lock_timeout = '5s';
set statement_timeout = '60s';

create table private.model_spending (
  org_id     uuid not null references public.organizations (id),
  day        date not null,
  tokens     bigint not null default 0,
  cost_cents numeric(14, 4) not null default 0,

  primary key (org_id, day)
);
comment on table private.model_spending is 'What an organization''s agents spend on models in a day, what is reserved included.';

create table private.model_runs (
  delivery_id     uuid primary key references public.deliveries (id) on delete cascade,
  org_id          uuid not null references public.organizations (id),
  day             date not null,
  prompt_digest   text not null,
  attempts        smallint not null default 1,
  reserved_tokens bigint not null,
  reserved_cents  numeric(14, 4) not null,
  tokens          bigint not null default 0,
  cost_cents      numeric(14, 4),
  answer          jsonb,
  updated_at      timestamptz not null default now(),

  constraint model_runs_reserved check (reserved_tokens >= 0 and reserved_cents >= 0)
);
comment on table private.model_runs is 'What a delivery asked a model, what it took and what was answered, until the delivery is history.';
create index model_runs_org_idx on private.model_runs (org_id);
create index model_runs_updated_idx on private.model_runs (updated_at);

create trigger model_runs_touch before update on private.model_runs
  for each row execute function private.touch_updated_at();

-- A limit that is not a number is one that nobody can keep: nothing may be spent.
create function private.day_limit(settings jsonb, name text, versions numeric)
returns numeric
language sql
immutable
set search_path = ''
as $$
  select least(versions, case jsonb_typeof(settings #> array['model', name])
    when 'number' then (settings #>> array['model', name])::numeric
    when 'null' then null
    else case when settings #> array['model', name] is not null then 0 end
  end);
$$;
comment on function private.day_limit is 'The tighter of the organization''s limit and the version''s; null is none.';

create function private.is_lease_held(delivery_id uuid, lease_token uuid)
returns boolean
language sql
stable
set search_path = ''
as $$
  select exists (
    select from public.deliveries
    where deliveries.id = is_lease_held.delivery_id
      and deliveries.lease_token = is_lease_held.lease_token
      and deliveries.status = 'running');
$$;
comment on function private.is_lease_held is 'Whether a delivery is still handled under this lease.';

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
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
  today date := (now() at time zone 'UTC')::date;
  org record;
  run private.model_runs;
  token_limit numeric;
  cent_limit numeric;
begin
  if not private.is_lease_held(begin_model_run.delivery_id, begin_model_run.lease_token) then
    perform private.fail(409, 'lease_lost', 'Somebody else has this delivery now.');
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
  -- A rehearsal leaves the other half of the day to who asks today.
  if org.mode = 'shadow' then
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
comment on function hub.begin_model_run is 'Reserve what a question to a model may take: begun, answered already, or refused with the reason.';
grant execute on function hub.begin_model_run to hub_service;

-- security definer: hub_service may touch no table itself.
create function hub.end_model_run(delivery_id uuid, lease_token uuid, tokens bigint, cost_cents numeric, answer jsonb)
returns void
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
  run private.model_runs;
begin
  if not private.is_lease_held(end_model_run.delivery_id, end_model_run.lease_token) then
    perform private.fail(409, 'lease_lost', 'Somebody else has this delivery now.');
  end if;
  select * into run from private.model_runs where model_runs.delivery_id = end_model_run.delivery_id for update;

  update private.model_spending
  set tokens = model_spending.tokens - run.reserved_tokens + end_model_run.tokens,
      cost_cents = model_spending.cost_cents - run.reserved_cents + coalesce(end_model_run.cost_cents, 0)
  where model_spending.org_id = run.org_id and model_spending.day = run.day;

  update private.model_runs
  set reserved_tokens = 0,
      reserved_cents = 0,
      tokens = model_runs.tokens + end_model_run.tokens,
      cost_cents = coalesce(model_runs.cost_cents + end_model_run.cost_cents, end_model_run.cost_cents, model_runs.cost_cents),
      answer = end_model_run.answer
  where model_runs.delivery_id = end_model_run.delivery_id;
end;
$$;
comment on function hub.end_model_run is 'Put what a question took in the place of what was reserved, and keep the answer until the delivery is settled.';
grant execute on function hub.end_model_run to hub_service;

create function private.prune_model_runs()
returns void
language plpgsql
set search_path = ''
as $$
begin
  delete from private.model_runs using public.deliveries
  where deliveries.id = model_runs.delivery_id
    and deliveries.status in ('done', 'skipped') and model_runs.updated_at < now() - interval '7 days';
  delete from private.model_spending where model_spending.day < current_date - 400;
end;
$$;
comment on function private.prune_model_runs is 'Remove runs of deliveries that are settled, and old sums.';
select cron.schedule('prune_model_runs', '25 * * * *', $$select private.prune_model_runs()$$);
