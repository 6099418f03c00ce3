-- The progress of a replay.

create function public.replay_progress(replay_id uuid)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  replay public.replays;
begin
  select * into replay from public.replays where replays.id = replay_progress.replay_id;
  if not found then
    perform private.fail(404, 'unknown_replay', 'There is no such replay.');
  end if;
  return (
    with its as (
      select deliveries.* from public.deliveries
      where deliveries.org_id = replay.org_id and deliveries.replay_id = replay.id
    )
    select jsonb_build_object(
      'replay_id', replay.id, 'mode', replay.mode, 'matched', replay.matched,
      'done', count(*) filter (where its.status in ('done', 'skipped')),
      'waiting', count(*) filter (where its.status in ('pending', 'running', 'failed')),
      'dead', count(*) filter (where its.status = 'dead'),
      'is_over', count(*) filter (where its.status in ('pending', 'running', 'failed')) = 0,
      'failed', coalesce((
        select jsonb_agg(jsonb_build_object(
          'delivery_id', worst.id, 'event_id', worst.event_id, 'status', worst.status, 'attempts', worst.attempts, 'error', worst.last_error))
        from (select * from its where its.status in ('failed', 'dead') order by its.id limit 100) as worst), '[]'))
    from its);
end;
$$;
comment on function public.replay_progress is 'The progress of a replay, and the first hundred deliveries that failed.';
grant execute on function public.replay_progress to authenticated, service_role;
