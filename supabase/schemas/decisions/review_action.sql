-- Reviews: a user lets an agent's proposal take effect, or not.

create function public.review_action(action_id uuid, approve boolean)
returns text
language sql set search_path = ''
as $$
  select private.review_action_for_caller(action_id, approve);
$$;
comment on function public.review_action is 'Let an agent''s proposal take effect, or not.';
grant execute on function public.review_action to authenticated;

-- security definer: a review applies effects, which no user may write themselves.
create function private.review_action_for_caller(action_id uuid, approve boolean)
returns text
language plpgsql security definer set search_path = ''
as $$
declare
  action public.agent_actions;
begin
  select * into action from public.agent_actions
  where agent_actions.id = review_action_for_caller.action_id
    and agent_actions.org_id in (select private.my_orgs('actions.review'))
  for update;
  if not found then
    perform private.fail(404, 'unknown_action', 'There is no such action to review.');
  end if;
  if approve is null then
    perform private.fail(422, 'no_decision', 'Say whether it is approved: true or false.');
  end if;
  -- The first of two reviews at the same moment stands.
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
comment on function private.review_action_for_caller is 'Let an agent''s proposal take effect, or not.';
grant execute on function private.review_action_for_caller to authenticated;
