-- Putting the tokens and cost that a question took in the place of those reserved.

-- security definer: hub_service may touch no table itself.
create function hub.end_model_run(delivery_id uuid, lease_token uuid, tokens bigint, cost_cents numeric, answer jsonb)
returns void
language plpgsql security definer set search_path = ''
as $$
declare
  run private.model_runs;
begin
  if not private.is_lease_held(end_model_run.delivery_id, end_model_run.lease_token) then
    perform private.fail(409, 'lease_lost', 'The lease of this delivery is no longer held.');
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
comment on function hub.end_model_run is 'Put the tokens and cost that a question took in the place of those reserved, and keep the answer until the delivery is settled.';
grant execute on function hub.end_model_run to hub_service;
