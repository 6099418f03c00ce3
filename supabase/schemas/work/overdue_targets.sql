-- Overdue targets: functions with work waiting that the database should have kicked.
--
-- Both the trigger on events and the sweep kick through pg_net. When pg_net sends nothing, or pg_cron runs nothing, a
-- clock outside of the database asks here, and kicks the targets itself.

-- security definer: hub_service may touch no table itself.
create function hub.overdue_targets()
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  -- The sweep takes back leases that ran out; its own job may stand still.
  perform private.sweep_deliveries();
  return (
    select coalesce(jsonb_agg(overdue.target), '[]')
    from (
      select due.target from private.due_targets(for_at_least => '10 seconds') as due (target)
      union
      select 'pull-site' where exists (select from private.due_pulls() as due where due.next_at <= now() - interval '1 minute')
      limit 100
    ) as overdue);
end;
$$;
comment on function hub.overdue_targets is 'Take back leases that ran out; answer the targets whose work has been due for ten seconds, pulls for a minute.';
grant execute on function hub.overdue_targets to hub_service;
