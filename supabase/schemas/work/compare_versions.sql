-- Comparing versions: decisions of the latest rehearsals that differ between two versions of an agent, and why.

create function public.compare_versions(agent text, a integer, b integer, filter jsonb default '{}', org_id uuid default null)
returns jsonb
language plpgsql stable set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  compared constant public.agents := private.agent_named(compare_versions.agent, compare_versions.org_id, 'agents.read');
  meant constant private.replay_filter := private.read_event_filter(compared.org_id, filter);
begin
  return (
    with pairs as (
      select
        events.id as event_id, events.type, contacts.name as contact,
        before.decision as was, after.decision as would_be, before.score as score, after.score as new_score,
        array(select unnest(before.reasons) except select unnest(after.reasons)) as reasons_gone,
        array(select unnest(after.reasons) except select unnest(before.reasons)) as reasons_new
      from private.rehearsed(compared.id, a) as before
      join private.rehearsed(compared.id, b) as after on after.event_id = before.event_id
      join public.events on events.id = before.event_id
      left join public.contacts on contacts.id = events.contact_id
      where (meant.event_ids is null or events.id = any (meant.event_ids))
        and (meant.types is null or events.type = any (meant.types))
        and (meant.since is null or events.id >= meant.since)
        and (meant.until is null or events.id < meant.until)
        and (meant.site_ids is null or events.site_id = any (meant.site_ids))
        and (meant.contact_ids is null or events.contact_id = any (meant.contact_ids))
    ),
    changed as (
      select * from pairs where (was, score) is distinct from (would_be, new_score) order by event_id desc
    )
    select jsonb_build_object(
      'agent', compare_versions.agent, 'a', a, 'b', b,
      'compared', (select count(*) from pairs),
      'changed', (select count(*) from changed),
      'decisions', (
        select coalesce(jsonb_agg(jsonb_build_object('from', moved.was, 'to', moved.would_be, 'count', moved.count) order by moved.count desc), '[]')
        from (select was, would_be, count(*) from changed where was is distinct from would_be group by was, would_be) as moved),
      'changes', (
        select coalesce(jsonb_agg(to_jsonb(shown)), '[]')
        from (select * from changed limit coalesce(meant.most, 100)) as shown)));
end;
$$;
comment on function public.compare_versions is 'The decisions of the latest rehearsals that differ between two versions of an agent, and why.';
grant execute on function public.compare_versions to authenticated, service_role;

create function private.rehearsed(agent_id uuid, version integer)
returns table (event_id uuid, decision text, score integer, confidence numeric, reasons text[])
language sql stable set search_path = ''
as $$
  select distinct on (deliveries.event_id)
    deliveries.event_id,
    deliveries.result #>> '{effects,action,decision}',
    (deliveries.result #>> '{effects,lead,score}')::integer,
    (deliveries.result #>> '{effects,action,confidence}')::numeric,
    array(select jsonb_array_elements_text(coalesce(deliveries.result #> '{effects,action,reasons}', '[]')))
  from public.agent_versions as versions
  join public.deliveries on deliveries.org_id = versions.org_id and deliveries.version_id = versions.id
  where versions.agent_id = rehearsed.agent_id and versions.version = rehearsed.version
    and deliveries.mode = 'rehearsal' and deliveries.status = 'done'
  order by deliveries.event_id, deliveries.id desc;
$$;
comment on function private.rehearsed is 'The decisions of a version in its latest rehearsal, by event.';
grant execute on function private.rehearsed to authenticated, service_role;
