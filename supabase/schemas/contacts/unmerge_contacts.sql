-- Taking a merge back.

create function public.unmerge_contacts(merge_id uuid)
returns jsonb
language sql set search_path = ''
as $$
  select private.unmerge_contacts_for_caller(merge_id);
$$;
comment on function public.unmerge_contacts is 'Undo a merge: the loser gets back its own rows, also those that came by its identifiers since.';
grant execute on function public.unmerge_contacts to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.unmerge_contacts_for_caller(merge_id uuid)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.permit(
    (select contact_merges.org_id from public.contact_merges where contact_merges.id = unmerge_contacts_for_caller.merge_id), 'contacts.merge');
  perform private.unmerge_contacts(merge_id);
  return jsonb_build_object('merge_id', merge_id, 'undone', true);
end;
$$;
comment on function private.unmerge_contacts_for_caller is 'Undo a merge within the caller''s organizations.';
grant execute on function private.unmerge_contacts_for_caller to authenticated, service_role;

create function private.unmerge_contacts(merge_id uuid)
returns void
language plpgsql set search_path = ''
as $$
declare
  merge public.contact_merges;
  visible uuid;
  returning_ids uuid[];
begin
  select contact_merges.* into merge from public.contact_merges where contact_merges.id = merge_id;
  perform private.hold_contacts(array[merge.loser_id]);
  -- Asked again: somebody else may have undone it while we waited.
  select contact_merges.* into merge from public.contact_merges where contact_merges.id = merge_id;
  if merge.undone_at is not null then
    perform private.fail(409, 'already_undone', 'This merge is undone already.');
  end if;
  visible := private.visible_contact(merge.loser_id);

  with recursive returning_tree (id) as (
    select merge.loser_id
    union
    select deeper.loser_id
    from returning_tree
    join public.contact_merges as deeper
      on deeper.org_id = merge.org_id and deeper.winner_id = returning_tree.id and deeper.undone_at is null
  )
  select array_agg(returning_tree.id) into returning_ids from returning_tree;

  update public.contact_merges set undone_at = clock_timestamp(), undone_by = (select auth.uid()) where contact_merges.id = merge.id;
  update public.contacts set merged_into = nullif(merge.loser_id, contacts.id) where contacts.id = any (returning_ids);
  perform private.move_rows(merge.org_id, visible, merge.loser_id, returning_ids);
  perform private.unfold_leads(merge.org_id, array[visible, merge.loser_id]);
  perform private.reopen_leads(
    merge.org_id, private.contact_family(visible) || private.contact_family(merge.loser_id), merge.merged_at);
  -- Undoing a merge that the queue proposed decides its candidate.
  update public.merge_candidates set decision = 'keep_apart', decided_at = now(), decided_by = (select auth.uid())
  where merge_candidates.id = merge.candidate_id;

  perform private.write_event(
    merge.org_id, 'contact.unmerged', jsonb_build_object('merge_id', merge.id, 'winner_id', merge.winner_id),
    source => private.doer(), contact_id => merge.loser_id, subject_type => 'contact', subject_id => visible);
end;
$$;
comment on function private.unmerge_contacts is 'Undo a merge: the loser''s own rows, from before or since, return to it.';
