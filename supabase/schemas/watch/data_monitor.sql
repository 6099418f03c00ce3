-- The agent data-monitor of an organization: made, and when it last looked.

create function private.add_data_monitor(org_slug text)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  agent public.agents;
begin
  insert into public.agents (org_id, kind, name)
  select organizations.id, 'data_monitor', 'data-monitor' from public.organizations where organizations.slug = org_slug
  on conflict on constraint agents_name_unique do nothing
  returning * into agent;
  if agent.id is null then
    return null;
  end if;
  insert into public.agent_versions (org_id, agent_id, version, config) values (agent.org_id, agent.id, 1, '{
    "stuck_after_minutes": 15,
    "failure_rate": 0.2,
    "failure_min": 10,
    "stale_after_intervals": 3,
    "gaps_min": 5,
    "refused_rate": 0.05,
    "refused_min": 20,
    "refused_in_a_row": 5,
    "duplicates_rate": 0.5,
    "duplicates_min": 20
  }');
  perform private.publish_version(agent.id, 1);
  insert into public.subscriptions (org_id, name, event_types, target, agent_id)
  values (agent.org_id, 'data-monitor', '{monitor.due}', 'data-monitor', agent.id);
  return agent.id;
end;
$$;
comment on function private.add_data_monitor is 'Give an organization its data monitor: agent, thresholds, subscription.';

create function private.last_monitored(org_id uuid default null)
returns timestamptz
language sql stable set search_path = ''
as $$
  select max(greatest(latest.created_at, willing.updated_at, agents.updated_at, pg_postmaster_start_time()))
  from private.willing_subscriptions as willing
  join public.agents on agents.id = willing.agent_id and agents.kind = 'data_monitor'
  left join lateral (
    select agent_actions.created_at
    from public.agent_actions
    where agent_actions.org_id = agents.org_id and agent_actions.agent_id = agents.id
    order by agent_actions.id desc
    limit 1
  ) as latest on true
  where last_monitored.org_id is null or willing.org_id = last_monitored.org_id;
$$;
comment on function private.last_monitored is 'When a data monitor last looked, counted from when it could; null when none is willing.';
