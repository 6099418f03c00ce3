-- Drafting a version; it decides nothing until it is published.

create function public.create_version(agent text, config jsonb, org_id uuid default null)
returns integer
language sql set search_path = ''
as $$
  select private.create_version_for_caller(agent, config, org_id);
$$;
comment on function public.create_version is 'Draft a version of an agent; it decides nothing until it is published. Answers its number.';
grant execute on function public.create_version to authenticated;

-- security definer: versions are written by nobody but these functions, which ask for the permission themselves.
create function private.create_version_for_caller(agent text, config jsonb, org_id uuid)
returns integer
language plpgsql security definer set search_path = ''
as $$
declare
  made integer;
  owner public.agents := private.agent_named(create_version_for_caller.agent, create_version_for_caller.org_id, 'agents.publish');
begin
  -- Two drafts never get one number.
  perform from public.agents where agents.id = owner.id for update;
  if jsonb_typeof(create_version_for_caller.config) is distinct from 'object' or length(create_version_for_caller.config::text) > 200000 then
    perform private.fail(422, 'bad_config', 'A version is an object of at most 200,000 characters.');
  end if;
  insert into public.agent_versions (org_id, agent_id, version, config)
  select owner.org_id, owner.id, coalesce(max(versions.version), 0) + 1, create_version_for_caller.config
  from public.agent_versions as versions
  where versions.agent_id = owner.id
  returning version into made;
  return made;
end;
$$;
comment on function private.create_version_for_caller is 'Draft a version of an agent; it decides nothing until it is published. Answers its number.';
grant execute on function private.create_version_for_caller to authenticated;

-- security definer: agents of several organizations may have this name; only those of the caller's are looked at.
create function private.agent_named(agent text, org_id uuid, permission text)
returns public.agents
language plpgsql stable security definer set search_path = ''
as $$
declare
  meant public.agents[];
begin
  meant := array(
    select agents from public.agents
    where agents.name = agent_named.agent and (agent_named.org_id is null or agents.org_id = agent_named.org_id)
      and agents.org_id in (select private.caller_orgs(agent_named.permission))
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
comment on function private.agent_named is 'The agent of this name for which the caller has the permission.';
grant execute on function private.agent_named to authenticated, service_role;
