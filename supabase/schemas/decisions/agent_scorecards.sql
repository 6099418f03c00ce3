-- Scorecards: how well agents do, and whether their confidence meant something.

create view private.judged_actions with (security_invoker = true) as
  select
    actions.id, actions.org_id, actions.agent_id, actions.agent, actions.version_id, actions.created_at, actions.outcome, actions.confidence,
    actions.outcome = 'self_resolved' and exists (
      select from public.events as later
      where later.org_id = actions.org_id and later.contact_id = any (private.contact_family(actions.contact_id))
        and later.id > private.uuid_v7_floor(actions.created_at)
        and later.id < private.uuid_v7_floor(actions.created_at + period.came_back)
        and private.is_from_outside(later.source)
    ) as came_back,
    case
      when leads.stage = 'won' then coalesce(actions.output ->> 'band' in ('A', 'B'), false)
      when leads.stage = 'lost' then coalesce(actions.output ->> 'band' = 'C', false)
    end as was_right
  from public.agent_actions as actions
  join (
    select organizations.id, make_interval(days => case jsonb_typeof(organizations.settings -> 'came_back_days')
             when 'number' then least(greatest((organizations.settings ->> 'came_back_days')::numeric, 0), 365)::integer else 7 end) as came_back
    from public.organizations
  ) as period on period.id = actions.org_id
  left join public.leads on leads.id = actions.lead_id;
comment on view private.judged_actions is 'Each action with its end: did the contact come back, was the judgement right.';
grant select on private.judged_actions to authenticated, service_role;

create view public.agent_scorecards with (security_invoker = true) as
  select
    org_id, agent_id, agent, (created_at at time zone 'UTC')::date as day,
    count(*) as runs,
    count(*) filter (where outcome = 'self_resolved' and not came_back) as self_resolved,
    count(*) filter (where outcome = 'escalated') as escalated,
    count(*) filter (where outcome = 'failed') as failed,
    count(*) filter (where came_back) as came_back,
    round(avg(confidence), 3) as mean_confidence,
    count(was_right) as judged,
    count(*) filter (where was_right) as was_right
  from private.judged_actions
  where id >= private.uuid_v7_floor(now() - interval '90 days')
  group by org_id, agent_id, agent, (created_at at time zone 'UTC')::date;
comment on view public.agent_scorecards is 'Per agent and day of the last 90: runs and how they ended. Self-resolved only if the contact did not come back within came_back_days.';
grant select on public.agent_scorecards to authenticated, service_role;
-- Without this trigger a write is a 500: Postgres says that a view cannot be written before it asks for the right.
create trigger agent_scorecards_read_only instead of insert or update or delete on public.agent_scorecards
  for each row execute function private.refuse_change();

create function public.agent_scorecard(
  agent text, since timestamptz default now() - interval '30 days', until timestamptz default now(), org_id uuid default null)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  meant constant public.agents := private.agent_named(agent_scorecard.agent, agent_scorecard.org_id, 'agents.read');
  first constant uuid := private.uuid_v7_floor(since);
  after_last constant uuid := private.uuid_v7_floor(until);
begin
  return (
    select jsonb_build_object(
      'agent', agent_scorecard.agent, 'since', since, 'until', until,
      'runs', count(*),
      'self_resolved', count(*) filter (where outcome = 'self_resolved' and not came_back),
      'escalated', count(*) filter (where outcome = 'escalated'),
      'failed', count(*) filter (where outcome = 'failed'),
      'came_back', count(*) filter (where came_back),
      'escalation_rate', round(count(*) filter (where outcome = 'escalated')::numeric / nullif(count(*), 0), 3),
      'mean_confidence', round(avg(confidence), 3),
      'judged', count(was_right),
      'accuracy', round(avg(was_right::integer), 3),
      -- Above zero the agent is surer than it is right.
      'overconfidence', round(avg(confidence) filter (where was_right is not null) - avg(was_right::integer), 3),
      'calibration', coalesce((
        select jsonb_agg(jsonb_build_object('confidence', bin.mean, 'accuracy', bin.accuracy, 'count', bin.count) order by bin.mean)
        from (
          select round(avg(binned.confidence), 3) as mean, round(avg(binned.was_right::integer), 3) as accuracy, count(*) as count
          from private.judged_actions as binned
          where binned.org_id = meant.org_id and binned.agent_id = meant.id and binned.id >= first and binned.id < after_last
            and binned.was_right is not null and binned.confidence is not null
          group by width_bucket(binned.confidence, 0, 1, 5)
        ) as bin), '[]'))
    from private.judged_actions
    where judged_actions.org_id = meant.org_id and judged_actions.agent_id = meant.id
      and judged_actions.id >= first and judged_actions.id < after_last);
end;
$$;
comment on function public.agent_scorecard is 'How an agent did in a time: runs, self-resolved, escalated, failed, confidence and whether it was right.';
grant execute on function public.agent_scorecard to authenticated, service_role;
