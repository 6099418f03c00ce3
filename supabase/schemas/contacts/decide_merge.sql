-- Deciding about a candidate of the merge queue.

create function public.decide_merge(
  candidate uuid, decision public.merge_decision, winner uuid default null, reason text default null)
returns jsonb
language sql set search_path = ''
as $$
  select private.decide_merge_for_caller(candidate, decision, winner, reason);
$$;
comment on function public.decide_merge is 'Decide whether two contacts of the merge queue are one (merge) or not (keep_apart). The older is the winner unless told otherwise.';
grant execute on function public.decide_merge to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.decide_merge_for_caller(candidate uuid, decision public.merge_decision, winner uuid, reason text)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  pair public.merge_candidates;
  one uuid;
  other uuid;
  merge_id uuid;
begin
  perform private.permit(
    (select merge_candidates.org_id from public.merge_candidates where merge_candidates.id = candidate), 'contacts.merge');
  select merge_candidates.* into pair from public.merge_candidates where merge_candidates.id = candidate;
  perform private.hold_contacts(array[pair.contact_id, pair.other_id]);
  one := private.visible_contact(pair.contact_id);
  other := private.visible_contact(pair.other_id);

  if decide_merge_for_caller.decision = 'keep_apart' and one = other then
    perform private.fail(409, 'already_merged', 'These two are merged; undo that merge.');
  elsif decide_merge_for_caller.decision = 'merge' and one <> other then
    winner := case when winner is null then one else private.visible_contact(winner) end;
    if winner is null or winner not in (one, other) then
      perform private.fail(422, 'not_of_the_pair', 'The winner is one of the two.');
    end if;
    merge_id := private.merge_contacts(
      winner, case winner when one then other else one end, coalesce(decide_merge_for_caller.reason, pair.reason), pair.id);
  end if;

  update public.merge_candidates
  set decision = decide_merge_for_caller.decision, decided_at = now(), decided_by = (select auth.uid())
  where merge_candidates.id = pair.id and merge_candidates.decision is distinct from decide_merge_for_caller.decision;
  return jsonb_build_object('candidate_id', pair.id, 'decision', decide_merge_for_caller.decision, 'merge_id', merge_id);
end;
$$;
comment on function private.decide_merge_for_caller is 'Decide about a candidate within the caller''s organizations.';
grant execute on function private.decide_merge_for_caller to authenticated, service_role;
