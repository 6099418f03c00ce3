-- The check of models: a model that is asked and never decides.
--
-- An action for which a model was asked in vain names the reason as `fallback` in its output. A day's limit that is used
-- up is no finding, unless not even one question fits into it.

create function private.fallbacks(org_id uuid, at_least integer default 3)
returns table (agent_id uuid, message text)
language sql stable set search_path = ''
as $$
  select
    agents.id,
    format('The model decided none of the last %s runs of %s: %s.', streak.runs, agents.name,
           regexp_replace(streak.reason, '^decided by the rules: ', ''))
  from public.agents
  cross join lateral (
    -- While a model rests, the reason is why it does.
    select count(*) as runs, (array_agg(run.reason order by run.fallback = 'resting', run.id desc))[1] as reason
    from (
      select latest.*, bool_or(latest.fallback is null) over (order by latest.id desc) as is_before
      from (
        select agent_actions.id, agent_actions.created_at, agent_actions.output ->> 'fallback' as fallback,
               agent_actions.reasons[cardinality(agent_actions.reasons)] as reason
        from public.agent_actions
        where agent_actions.org_id = agents.org_id and agent_actions.agent_id = agents.id and agent_actions.outcome <> 'failed'
        order by agent_actions.id desc
        limit 100
      ) as latest
      where latest.fallback is distinct from 'limit_day'
        or not exists (
          select from private.model_spending
          where model_spending.org_id = agents.org_id and model_spending.day = (latest.created_at at time zone 'UTC')::date
            and model_spending.tokens > 0)
    ) as run
    where not run.is_before
  ) as streak
  where agents.org_id = fallbacks.org_id and streak.runs >= at_least;
$$;
comment on function private.fallbacks is 'Agents for which the rules stepped in at least so many times since their model last decided, and why.';

create function private.check_model_fallback(org_id uuid, config jsonb, at timestamptz)
returns setof private.finding
language sql stable set search_path = ''
as $$
  select
    'llm', 'warning'::public.alert_severity, string_agg(fallen.message, ' ' order by fallen.message),
    jsonb_build_object('agents', jsonb_agg(fallen.agent_id)), null::uuid
  from private.fallbacks(check_model_fallback.org_id, coalesce((config ->> 'model_fallbacks_min')::integer, 3)) as fallen
  having count(*) > 0;
$$;
comment on function private.check_model_fallback is 'The model, when it decides nothing that it is asked.';
