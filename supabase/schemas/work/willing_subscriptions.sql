-- Willing subscriptions: those whose deliveries may be handled now. Nothing about them is paused or closed.

-- Two halves, so that a function's target is still looked up by its index.
create view private.willing_subscriptions as
  select willing.*
  from (
    select subscriptions.* from public.subscriptions where subscriptions.target_kind = 'function'
    union all
    select
      subscriptions.id, subscriptions.org_id, subscriptions.name, subscriptions.event_types, subscriptions.target_kind,
      'webhook-sender/' || subscriptions.id, subscriptions.agent_id, subscriptions.paused, subscriptions.ordered,
      subscriptions.max_attempts, subscriptions.retry_base, subscriptions.created_at, subscriptions.updated_at
    from public.subscriptions where subscriptions.target_kind = 'webhook'
  ) as willing
  join public.organizations on organizations.id = willing.org_id
  left join public.agents on agents.id = willing.agent_id
  where not willing.paused
    and not organizations.paused
    and organizations.closed_at is null
    and (agents.id is null or (agents.status in ('idle', 'running') and agents.autonomy <> 'off'))
    and not exists (select from public.system_controls where system_controls.name = 'global_pause' and system_controls.is_on);
comment on view private.willing_subscriptions is 'Subscriptions whose deliveries may be handled now, by the target that claims them: nothing about them is paused or closed.';
