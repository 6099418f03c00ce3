-- Agents in people's hands: review what they propose, publish and roll back versions, see how well they do.

set lock_timeout = '5s';
set statement_timeout = '60s';

insert into public.role_permissions (role, permission) values
  ('admin', 'actions.review'), ('operator', 'actions.review'), ('admin', 'agents.publish');

-- A delivery that dies is a failed run of its agent; when it is replayed, the run that succeeds stands beside it.
-- squawk-ignore ban-drop-constraint
alter table public.agent_actions drop constraint agent_actions_once;
create unique index agent_actions_once on public.agent_actions (delivery_id) where outcome <> 'failed';
create index agent_actions_delivery_idx on public.agent_actions (delivery_id);

create or replace function private.bury_delivery(delivery_id uuid, error text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  buried record;
begin
  update public.deliveries
  set status = 'dead', last_error = bury_delivery.error, lease_token = null, leased_until = null
  where deliveries.id = bury_delivery.delivery_id;

  select
    deliveries.mode, events.id as event_id, events.org_id, events.site_id, events.contact_id, events.type, events.trace_id,
    case when events.subject_type = 'lead' then events.subject_id end as lead_id,
    subscriptions.name, agents.id as agent_id, agents.name as agent, versions.id as version_id
  into buried
  from public.deliveries
  join public.events on events.id = deliveries.event_id
  join public.subscriptions on subscriptions.id = deliveries.subscription_id
  left join public.agents on agents.id = subscriptions.agent_id
  left join public.agent_versions as versions on versions.agent_id = agents.id and versions.status = 'published'
  where deliveries.id = bury_delivery.delivery_id;

  -- Nobody was promised anything by a rehearsal.
  if buried.mode = 'shadow' then
    return;
  end if;

  if buried.version_id is not null then
    begin
      insert into public.agent_actions (
        org_id, agent_id, agent, version_id, delivery_id, event_id, contact_id, lead_id, decision, reasons, outcome, trace_id)
      values (
        buried.org_id, buried.agent_id, buried.agent, buried.version_id, bury_delivery.delivery_id, buried.event_id, buried.contact_id,
        buried.lead_id, 'gave_up', array[bury_delivery.error], 'failed', buried.trace_id);
    exception when others then
      -- What cannot be written may be why it died; it must be buried all the same.
      raise warning 'the failed run of delivery % could not be written: %', bury_delivery.delivery_id, sqlstate;
    end;
  end if;

  -- When a subscriber is down, all its deliveries die of one reason: that is told once.
  perform private.open_alert(
    buried.org_id, 'delivery_dead', bury_delivery.delivery_id::text, 'critical',
    format('%s gave up on a %s event: %s', buried.name, buried.type, bury_delivery.error),
    jsonb_build_object('event_id', buried.event_id, 'subscription', buried.name, 'trace_id', buried.trace_id),
    topic => buried.name, event_id => buried.event_id, site_id => buried.site_id);

  -- Else a subscriber that fails on every event would bury without end.
  if buried.type <> 'delivery.dead' then
    insert into public.events (org_id, site_id, type, contact_id, subject_type, subject_id, source, data, trace_id, cause_id)
    values (
      buried.org_id, buried.site_id, 'delivery.dead', buried.contact_id, 'delivery', bury_delivery.delivery_id, 'hub',
      jsonb_build_object('delivery_id', bury_delivery.delivery_id, 'subscription', buried.name, 'error', bury_delivery.error),
      buried.trace_id, buried.event_id);
  end if;
end;
$$;

create trigger agent_actions_audit after update on public.agent_actions
  for each row execute function private.audit_change('people');

-- security definer: a review applies effects, which no person may write themselves.
create function private.review_my_action(action_id uuid, approve boolean)
returns text
language plpgsql
security definer
set search_path = ''
as $$
declare
  action public.agent_actions;
begin
  select * into action from public.agent_actions
  where agent_actions.id = review_my_action.action_id
    and agent_actions.org_id in (select private.my_orgs('actions.review'))
  for update;
  if not found then
    perform private.fail(404, 'unknown_action', 'There is no such action to review.');
  end if;
  if approve is null then
    perform private.fail(422, 'no_decision', 'Say whether it is approved: true or false.');
  end if;
  -- The first decision stands, whoever else pressed at the same moment.
  if action.review is distinct from 'pending' then
    perform private.fail(409, 'already_reviewed', 'This action does not wait for a review.');
  end if;
  if approve and exists (
    select from public.events
    join public.leads as named on named.org_id = events.org_id and named.id = events.subject_id
    join public.leads on leads.org_id = named.org_id and leads.id = coalesce(named.folded_into, named.id)
    where events.id = action.event_id and leads.scored_by > events.id)
  then
    perform private.fail(409, 'overtaken', 'A later enquiry of this lead was judged meanwhile.');
  end if;
  update public.agent_actions
  set review = case when approve then 'approved' else 'rejected' end::public.review_state,
      reviewed_by = (select auth.uid()),
      reviewed_at = now()
  where agent_actions.id = action.id;
  if approve then
    perform private.apply_effects(array[row(
      deliveries.id, deliveries.org_id, deliveries.subscription_id, null, null, null, null,
      'done', null, null, null, null, action.proposal,
      events.id, events.occurred_at, events.site_id, events.contact_id, events.subject_type, events.subject_id, events.trace_id,
      action.agent_id, action.agent, action.version_id)::private.settling])
    from public.deliveries
    join public.events on events.id = deliveries.event_id
    where deliveries.id = action.delivery_id;
  end if;
  return case when approve then 'approved' else 'rejected' end;
end;
$$;
comment on function private.review_my_action is 'Let an agent''s proposal take effect, or not.';
grant execute on function private.review_my_action to authenticated;

create function public.review_action(action_id uuid, approve boolean)
returns text
language sql
set search_path = ''
as $$
  select private.review_my_action(action_id, approve);
$$;
comment on function public.review_action is 'Let an agent''s proposal take effect, or not.';
grant execute on function public.review_action to authenticated;

-- security definer: a name may be that of several organizations' agents; only those are looked at where the caller may.
create function private.agent_named(agent text, org_id uuid, permission text)
returns public.agents
language plpgsql
stable
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
  meant public.agents[];
begin
  meant := array(
    select agents from public.agents
    where agents.name = agent_named.agent and (agent_named.org_id is null or agents.org_id = agent_named.org_id)
      and ((select auth.role()) = 'service_role' or agents.org_id in (select private.my_orgs(agent_named.permission)))
    limit 2);
  if cardinality(meant) = 0 then
    if exists (
      select from public.agents
      where agents.name = agent_named.agent and (agent_named.org_id is null or agents.org_id = agent_named.org_id)
        and agents.org_id in (select private.my_orgs('agents.read')))
    then
      perform private.fail(403, 'not_permitted', format('Your role may see this agent; this needs the permission %s.', permission));
    end if;
    perform private.fail(404, 'unknown_agent', 'There is no such agent of yours.');
  elsif cardinality(meant) > 1 then
    perform private.fail(422, 'which_organization', 'Several of your organizations have this agent: say which, as org_id.');
  end if;
  return meant[1];
end;
$$;
comment on function private.agent_named is 'The agent that the caller means and may deal with so.';
grant execute on function private.agent_named to authenticated, service_role;

-- security definer: versions are written by nobody but these functions, which ask for the permission themselves.
create function private.create_my_version(agent text, config jsonb, org_id uuid)
returns integer
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
  made integer;
  owner public.agents := private.agent_named(create_my_version.agent, create_my_version.org_id, 'agents.publish');
begin
  -- One number at a time.
  perform from public.agents where agents.id = owner.id for update;
  if jsonb_typeof(create_my_version.config) is distinct from 'object' or length(create_my_version.config::text) > 200000 then
    perform private.fail(422, 'bad_config', 'A version is an object of at most 200,000 characters.');
  end if;
  insert into public.agent_versions (org_id, agent_id, version, config)
  select owner.org_id, owner.id, coalesce(max(versions.version), 0) + 1, create_my_version.config
  from public.agent_versions as versions
  where versions.agent_id = owner.id
  returning version into made;
  return made;
end;
$$;
comment on function private.create_my_version is 'Draft a version of an agent; it decides nothing until it is published. Answers its number.';
grant execute on function private.create_my_version to authenticated;

create function public.create_version(agent text, config jsonb, org_id uuid default null)
returns integer
language sql
set search_path = ''
as $$
  select private.create_my_version(agent, config, org_id);
$$;
comment on function public.create_version is 'Draft a version of an agent; it decides nothing until it is published. Answers its number.';
grant execute on function public.create_version to authenticated;

create function private.publish_my_version(agent text, version integer, org_id uuid)
returns uuid
language plpgsql
security definer
set search_path = ''
as $$
begin
  return private.publish_version(
    (private.agent_named(publish_my_version.agent, publish_my_version.org_id, 'agents.publish')).id, publish_my_version.version);
end;
$$;
comment on function private.publish_my_version is 'Let a version decide from the next claim on; with an earlier number, roll back.';
grant execute on function private.publish_my_version to authenticated;

create function public.publish_version(agent text, version integer, org_id uuid default null)
returns uuid
language sql
set search_path = ''
as $$
  select private.publish_my_version(agent, version, org_id);
$$;
comment on function public.publish_version is 'Let a version decide from the next claim on; with an earlier number, roll back.';
grant execute on function public.publish_version to authenticated;

-- How well agents do

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
comment on view private.judged_actions is 'Each action with what came of it: did the person come back, was the judgement right.';
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
comment on view public.agent_scorecards is 'Per agent and day of the last 90: runs and how they ended. Self-resolved only if the person did not come back within came_back_days.';
grant select on public.agent_scorecards to authenticated, service_role;

create function public.agent_scorecard(
  agent text, since timestamptz default now() - interval '30 days', until timestamptz default now(), org_id uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
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
      -- Above zero it is surer than it is right.
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
