-- Publishing a version, or going back to an earlier one.

create function public.publish_version(agent text, version integer, org_id uuid default null)
returns uuid
language sql set search_path = ''
as $$
  select private.publish_version_for_caller(agent, version, org_id);
$$;
comment on function public.publish_version is 'Let a version decide from the next claim on; with an earlier number, roll back.';
grant execute on function public.publish_version to authenticated;

-- security definer: nobody writes versions but these functions, which ask for the permission.
create function private.publish_version_for_caller(agent text, version integer, org_id uuid)
returns uuid
language plpgsql security definer set search_path = ''
as $$
begin
  return private.publish_version(
    (private.agent_named(publish_version_for_caller.agent, publish_version_for_caller.org_id, 'agents.publish')).id, publish_version_for_caller.version);
end;
$$;
comment on function private.publish_version_for_caller is 'Let a version decide from the next claim on; with an earlier number, roll back.';
grant execute on function private.publish_version_for_caller to authenticated;

create function private.publish_version(agent_id uuid, version integer)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  chosen public.agent_versions;
begin
  -- One publishing at a time per agent.
  perform from public.agents where agents.id = publish_version.agent_id for update;
  select * into chosen from public.agent_versions as versions
  where versions.agent_id = publish_version.agent_id and versions.version = publish_version.version;
  if chosen.id is null then
    perform private.fail(404, 'unknown_version', 'This agent has no such version.');
  end if;

  update public.agent_versions set status = 'archived'
  where agent_versions.agent_id = publish_version.agent_id and status = 'published' and id <> chosen.id;
  update public.agent_versions set status = 'published', published_at = coalesce(published_at, now())
  where id = chosen.id;
  insert into public.agent_deployments (org_id, agent_id, version_id, deployed_by)
  values (chosen.org_id, chosen.agent_id, chosen.id, (select auth.uid()));
  return chosen.id;
end;
$$;
comment on function private.publish_version is 'Publish a version, or go back to an earlier one; the history keeps both.';
