-- Explain: why a row is as it is, from the happening outside down to the row, in plain words with the rows.
--
-- Every consequence points back: an action to its delivery, a delivery to its event, an event to the event that caused
-- it. explain() follows these as the caller, so it shows nobody more than they may read.

create type private.step as (kind text, id uuid, at timestamptz, says text, data jsonb);
comment on type private.step is 'One link of an explanation.';

create function public.explain(id uuid)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  found_it record;
  before private.step[];
  origin jsonb;
begin
  select it.subject, it.steps, it.event_id into found_it from private.steps_to_subject(explain.id) as it;
  if found_it.subject is null then
    perform private.fail(404, 'nothing_to_explain', 'There is no event, action, delivery, lead or alert with this id.');
  end if;
  if found_it.event_id is null then
    origin := private.own_watch();
  else
    select traced.steps, traced.origin into before, origin from private.steps_to_event(found_it.event_id) as traced;
  end if;
  return (
    select jsonb_build_object(
      'subject', jsonb_build_object('kind', found_it.subject, 'id', explain.id),
      'origin', origin,
      'story', concat_ws(' ', origin ->> 'says', string_agg(link.says, ' ' order by link.place)),
      'chain', coalesce(jsonb_agg(jsonb_build_object(
        'kind', link.kind, 'id', link.id, 'at', link.at, 'says', link.says, 'row', link.data) order by link.place), '[]'))
    from unnest(before || found_it.steps) with ordinality as link (kind, id, at, says, data, place));
end;
$$;
comment on function public.explain is 'Why an event, action, delivery, lead''s score or alert is there: the chain from outside, in plain words, with the rows.';
grant execute on function public.explain to authenticated, service_role;
