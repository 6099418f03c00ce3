-- Merging two contacts that are one person.

create function public.merge_contacts(winner uuid, loser uuid, reason text)
returns jsonb
language sql set search_path = ''
as $$
  select private.merge_contacts_for_caller(winner, loser, reason);
$$;
comment on function public.merge_contacts is 'Merge a contact into another: everything of the loser is seen under the winner. Answers the merge_id that undoes it.';
grant execute on function public.merge_contacts to authenticated, service_role;

-- security definer: the function itself asks for the caller's permission.
create function private.merge_contacts_for_caller(winner uuid, loser uuid, reason text)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.permit((select contacts.org_id from public.contacts where contacts.id = winner), 'contacts.merge');
  perform private.permit((select contacts.org_id from public.contacts where contacts.id = loser), 'contacts.merge');
  return jsonb_build_object('merge_id', private.merge_contacts(winner, loser, reason));
end;
$$;
comment on function private.merge_contacts_for_caller is 'Merge within the caller''s organizations.';
grant execute on function private.merge_contacts_for_caller to authenticated, service_role;

create function private.merge_contacts(winner_id uuid, loser_id uuid, reason text, candidate_id uuid default null)
returns uuid
language plpgsql set search_path = ''
as $$
declare
  winner public.contacts;
  loser public.contacts;
  merge_id uuid := private.uuid_v7();
  folded jsonb;
begin
  if winner_id = loser_id then
    perform private.fail(422, 'same_contact', 'A contact cannot be merged into itself.');
  end if;
  perform private.hold_contacts(array[winner_id, loser_id]);
  select contacts.* into winner from public.contacts where contacts.id = winner_id;
  select contacts.* into loser from public.contacts where contacts.id = loser_id;
  if winner.id is null or loser.id is null or winner.org_id <> loser.org_id then
    perform private.fail(404, 'unknown_contact', 'There is no such contact.');
  elsif winner.merged_into is not null or loser.merged_into is not null then
    perform private.fail(409, 'already_merged', 'One of the two is merged into another contact; merge that one, or undo it.');
  elsif private.are_kept_apart(winner_id, loser_id, candidate_id) then
    perform private.fail(409, 'kept_apart', 'A user decided that these two are not one; decide that candidate anew.');
  end if;

  update public.contacts set merged_into = winner.id
  where contacts.id = loser.id or (contacts.org_id = loser.org_id and contacts.merged_into = loser.id);
  folded := private.fold_leads(winner.org_id, array[winner.id, loser.id]);
  insert into public.contact_merges (id, org_id, winner_id, loser_id, reason, candidate_id, merged_by, moved)
  values (
    merge_id, winner.org_id, winner.id, loser.id, merge_contacts.reason, merge_contacts.candidate_id, (select auth.uid()),
    private.move_rows(winner.org_id, loser.id, winner.id) || jsonb_build_object('folded_leads', folded));

  perform private.write_event(
    winner.org_id, 'contact.merged',
    jsonb_build_object('merge_id', merge_id, 'loser_id', loser.id, 'reason', merge_contacts.reason),
    source => private.doer(), contact_id => winner.id, subject_type => 'contact', subject_id => loser.id);
  return merge_id;
end;
$$;
comment on function private.merge_contacts is 'Make one contact of two, so that it can be undone.';

create function private.are_kept_apart(one uuid, other uuid, except_candidate uuid default null)
returns boolean
language plpgsql stable set search_path = ''
as $$
declare
  family uuid[] := private.contact_family(one);
  other_family uuid[] := private.contact_family(other);
begin
  return exists (
    select from public.merge_candidates as decided
    where decided.org_id = (select contacts.org_id from public.contacts where contacts.id = one)
      and decided.decision = 'keep_apart'
      and decided.id is distinct from except_candidate
      and ((decided.contact_id = any (family) and decided.other_id = any (other_family))
        or (decided.contact_id = any (other_family) and decided.other_id = any (family))));
end;
$$;
comment on function private.are_kept_apart is 'Whether a user decided that these two, or any merged into them, are not one.';
grant execute on function private.are_kept_apart to authenticated, service_role;

create function private.move_rows(org_id uuid, from_contact uuid, to_contact uuid, homes uuid[] default null)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  reference record;
  ids jsonb;
  moved jsonb := '{}';
begin
  for reference in
    select contact_references.table_name from private.contact_references
    where contact_references.on_merge = 'moves' and contact_references.column_name = 'contact_id'
    order by 1
  loop
    execute format(
      'with moved as (
         update public.%I as t set contact_id = $1
         where t.org_id = $2 and t.contact_id = $3 and ($4 is null or t.home_id = any ($4)) returning t.id
       ) select coalesce(jsonb_agg(moved.id), ''[]'') from moved', reference.table_name)
      into ids using to_contact, org_id, from_contact, homes;
    moved := moved || jsonb_build_object(reference.table_name, ids);
  end loop;
  return moved;
end;
$$;
comment on function private.move_rows is 'Move the rows of a contact to another: all, or those of certain homes.';
