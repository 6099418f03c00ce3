-- Status: each part of the hub as ok, degraded or not configured, computed, never typed.
--
-- The function `status` adds what only functions know: which of them answer, and which providers they have keys for.

create type private.component as (kind text, name text, state text, reason text);
comment on type private.component is 'A part of the hub and how it is: ok, degraded or not configured.';

create function public.hub_status()
returns jsonb
language sql set search_path = ''
as $$
  select private.hub_status_for_caller();
$$;
comment on function public.hub_status is 'Sites, agents, jobs, pulls and outgoing webhooks, each ok, degraded or not configured, with the reason.';
grant execute on function public.hub_status to authenticated, service_role;

-- security definer: nobody reads jobs and secrets; the function itself asks who may see their state.
create function private.hub_status_for_caller()
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  organization uuid;
  seen jsonb := '[]';
begin
  for organization in
    select private.caller_orgs('alerts.read')
  loop
    seen := seen || (
      select jsonb_build_object(
        'organization', (select organizations.slug from public.organizations where organizations.id = organization),
        'open_alerts', (select count(*) from public.alerts where alerts.org_id = organization and alerts.closed_at is null),
        'model_fallback', (select found.message from private.check_model_fallback(organization, '{}', now()) as found),
        'components', coalesce(jsonb_agg(to_jsonb(part)), '[]'))
      from (
        select * from private.site_components(organization)
        union all select * from private.agent_components(organization)
        union all select * from private.pull_components(organization)
        union all select * from private.webhook_components(organization)
        union all select * from private.job_components(organization)
      ) as part);
  end loop;
  if organization is null then
    perform private.fail(403, 'not_permitted', 'Your role may not see the hub''s status.');
  end if;
  return seen;
end;
$$;
comment on function private.hub_status_for_caller is 'How the caller''s organizations and the hub''s jobs are.';
grant execute on function private.hub_status_for_caller to authenticated, service_role;
