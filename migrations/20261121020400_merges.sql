-- Merging two contacts that are one person, and taking it back.
--
-- The loser stays and names the contact under which it is seen. What is the person's state moves (identifiers, leads)
-- and remembers whose it is; what an event said or caused stays with the contact by whose identifier it came, and is
-- read through private.contact_family. So unmerging is not a guess: what came by the loser's own identifiers, before or
-- since, is the loser's. private.contact_references says of every table which of the two it is.
--
-- A merge never waits for a row while it holds another: it takes all it needs at once or lets go and tries again.

-- A person decides about these rows: there are few.
-- squawk-ignore-file require-concurrent-index-creation
set lock_timeout = '5s';
set statement_timeout = '60s';

insert into public.role_permissions (role, permission) values ('admin', 'contacts.merge'), ('operator', 'contacts.merge');

insert into public.event_types (name, description, schema, sample) values
  ('contact.merged', 'A contact was merged into this one.', '{"type": "object", "required": ["merge_id", "loser_id"]}',
   '{"merge_id": "…", "loser_id": "…", "reason": "Same person, two addresses."}'),
  ('contact.unmerged', 'A merge was undone: this contact stands by itself again.', '{"type": "object", "required": ["merge_id", "winner_id"]}',
   '{"merge_id": "…", "winner_id": "…"}');

create type private.merge_behaviour as enum ('moves', 'stays');
create table private.contact_references (
  table_name  text not null,
  column_name text not null,
  on_merge    private.merge_behaviour not null,

  primary key (table_name, column_name)
);
comment on table private.contact_references is
  'Every column that holds a contact. What moves has contact_id and home_id, and moves by these rows alone; what stays is read through contact_family.';
insert into private.contact_references (table_name, column_name, on_merge) values
  ('contact_identifiers', 'contact_id', 'moves'),
  ('contact_identifiers', 'home_id', 'stays'),
  ('leads', 'contact_id', 'moves'),
  ('leads', 'home_id', 'stays'),
  ('events', 'contact_id', 'stays'),
  ('contact_facts', 'contact_id', 'stays'),
  ('agent_actions', 'contact_id', 'stays'),
  ('agent_memory', 'subject_id', 'stays'),
  ('merge_candidates', 'contact_id', 'stays'),
  ('merge_candidates', 'other_id', 'stays'),
  ('contact_merges', 'winner_id', 'stays'),
  ('contact_merges', 'loser_id', 'stays'),
  ('contacts', 'merged_into', 'stays');

create table public.contact_merges (
  id           uuid primary key default private.uuid_v7(),
  org_id       uuid not null,
  winner_id    uuid not null,
  loser_id     uuid not null,
  reason       text not null,
  candidate_id uuid references public.merge_candidates (id) on delete set null,
  moved        jsonb not null default '{}',
  merged_by    uuid,
  merged_at    timestamptz not null default clock_timestamp(),
  undone_by    uuid,
  undone_at    timestamptz,

  constraint contact_merges_winner foreign key (org_id, winner_id) references public.contacts (org_id, id),
  constraint contact_merges_loser foreign key (org_id, loser_id) references public.contacts (org_id, id),
  constraint contact_merges_two check (winner_id <> loser_id),
  constraint contact_merges_reason_length check (length(reason) between 1 and 1000)
);
comment on table public.contact_merges is 'Who was merged into whom, why, what moved, and whether it was undone.';
comment on column public.contact_merges.moved is 'The rows that went from the loser to the winner, by table.';
create unique index contact_merges_one_winner on public.contact_merges (org_id, loser_id) where undone_at is null;
create index contact_merges_loser_idx on public.contact_merges (org_id, loser_id, id desc);
create index contact_merges_winner_idx on public.contact_merges (org_id, winner_id, id desc);
create index contact_merges_candidate_idx on public.contact_merges (candidate_id) where candidate_id is not null;

alter table public.contact_merges enable row level security;
alter table public.contact_merges force row level security;
grant select on public.contact_merges to authenticated, service_role;
create policy "members read merges" on public.contact_merges for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')));

create trigger contact_merges_audit after insert or update or delete on public.contact_merges
  for each row execute function private.audit_change('all');
create trigger merge_candidates_audit after update or delete on public.merge_candidates
  for each row execute function private.audit_change('people');

create function private.are_kept_apart(one uuid, other uuid, except_candidate uuid default null)
returns boolean
language plpgsql
stable
set search_path = ''
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
comment on function private.are_kept_apart is 'Whether a person decided that these two, or any merged into them, are not one.';
grant execute on function private.are_kept_apart to authenticated, service_role;

create function private.take_people(contacts uuid[])
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  org uuid := (select contacts.org_id from public.contacts where contacts.id = any (take_people.contacts) limit 1);
  people uuid[];
  family uuid[];
  keys text[];
begin
  select array_agg(distinct private.visible_contact(id)) into people from unnest(take_people.contacts) as id;
  family := array(select unnest(private.contact_family(person)) from unnest(people) as person order by 1);
  keys := array(
    select identifiers.match_key from public.contact_identifiers as identifiers
    where identifiers.org_id = org and identifiers.contact_id = any (people)
    order by identifiers.id);

  -- Waits its turn among the submissions of these people, then keeps the others out.
  perform private.lock_identifiers(org, keys);
  perform from public.contacts where contacts.id = any (family) order by contacts.id for update nowait;
  perform from public.leads where leads.org_id = org and leads.contact_id = any (people) order by leads.id for update nowait;

  if keys is distinct from array(
      select identifiers.match_key from public.contact_identifiers as identifiers
      where identifiers.org_id = org and identifiers.contact_id = any (people)
      order by identifiers.id for update nowait)
    or family is distinct from array(select unnest(private.contact_family(person)) from unnest(people) as person order by 1)
  then
    raise exception 'these contacts changed meanwhile' using errcode = 'lock_not_available';
  end if;
end;
$$;
comment on function private.take_people is 'Lock some people whole (identifiers, contacts, leads), or fail at once.';

create function private.hold_people(contacts uuid[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  give_up timestamptz := clock_timestamp() + interval '5 seconds';
begin
  loop
    begin
      perform private.take_people(contacts);
      return;
    exception when lock_not_available or deadlock_detected then
      -- What was taken is let go with the block: whoever is ahead finishes, then we come again.
      if clock_timestamp() > give_up then
        perform private.fail(503, 'contacts_busy', 'Something else is being done with these contacts. Try again.');
      end if;
      perform pg_sleep(0.002 + random() * 0.02);
    end;
  end loop;
end;
$$;
comment on function private.hold_people is 'Lock some people whole until the end of the transaction.';

-- Of several open leads of one person at one site, the furthest along stands for the others.
create function private.fold_leads(org_id uuid, contacts uuid[])
returns jsonb
language sql
set search_path = ''
as $$
  with ranked as (
    select leads.id, first_value(leads.id) over best as stands
    from public.leads
    where leads.org_id = fold_leads.org_id and leads.contact_id = any (contacts)
      and leads.stage not in ('won', 'lost') and leads.folded_into is null
    window best as (partition by leads.site_id order by leads.stage desc, leads.score desc nulls last, leads.id)
  ), folded as (
    update public.leads set folded_into = ranked.stands
    from ranked
    where leads.id = ranked.id and ranked.stands <> ranked.id
    returning leads.id
  )
  select coalesce(jsonb_agg(folded.id), '[]') from folded;
$$;
comment on function private.fold_leads is 'Let one open lead per site stand for those of several contacts; answers which were folded.';

-- A lead whose stand-in went to somebody else stands for itself again, beside what its contact has by now.
create function private.unfold_leads(org_id uuid, contacts uuid[])
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  freed public.leads;
  rival public.leads;
begin
  for freed in
    select leads.*
    from public.leads
    join public.leads as stands on stands.org_id = leads.org_id and stands.id = leads.folded_into
    where leads.org_id = unfold_leads.org_id and leads.contact_id = any (contacts) and stands.contact_id <> leads.contact_id
    order by leads.id
  loop
    select leads.* into rival
    from public.leads
    where leads.org_id = freed.org_id and leads.contact_id = freed.contact_id and leads.site_id = freed.site_id
      and leads.stage not in ('won', 'lost') and leads.folded_into is null and freed.stage not in ('won', 'lost');
    if rival.id is null then
      update public.leads set folded_into = null where leads.id = freed.id;
    elsif (rival.stage, coalesce(rival.score, -1), freed.id) > (freed.stage, coalesce(freed.score, -1), rival.id) then
      update public.leads set folded_into = rival.id where leads.id = freed.id;
    else
      update public.leads set folded_into = freed.id where leads.id = rival.id;
      update public.leads set folded_into = null where leads.id = freed.id;
    end if;
  end loop;
end;
$$;
comment on function private.unfold_leads is 'Undo the folding of leads whose stand-in is another contact''s.';

-- While two were one, a form of the one may have found the other's lead open. Each who asked keeps a lead.
create function private.reopen_leads(org_id uuid, contacts uuid[], since timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
begin
  perform private.open_lead(asked.org_id, asked.contact_id, asked.site_id, asked.source)
  from (
    select distinct on (private.visible_contact(events.contact_id), events.site_id)
           events.org_id, events.contact_id, events.site_id, events.source
    from public.events
    join public.leads on leads.org_id = events.org_id and leads.id = events.subject_id
    where events.org_id = reopen_leads.org_id and events.contact_id = any (contacts)
      -- An event has its id before it waits for its turn.
      and events.id >= private.uuid_v7_floor(since - interval '1 minute')
      and events.subject_type = 'lead' and events.cause_id is null and events.site_id is not null
      and leads.contact_id <> private.visible_contact(events.contact_id)
      and not exists (
        select from public.leads as theirs
        where theirs.org_id = events.org_id and theirs.contact_id = private.visible_contact(events.contact_id)
          and theirs.site_id = events.site_id and theirs.created_at >= events.recorded_at)
    order by private.visible_contact(events.contact_id), events.site_id, events.id
  ) as asked;
end;
$$;
comment on function private.reopen_leads is 'Open a lead for who asked while merged and whose lead was the other''s.';

create function private.move_rows(org_id uuid, from_contact uuid, to_contact uuid, homes uuid[] default null)
returns jsonb
language plpgsql
set search_path = ''
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
         update public.%I as t set contact_id = $1, home_id = nullif(coalesce(t.home_id, t.contact_id), $1)
         where t.org_id = $2 and t.contact_id = $3 and ($4 is null or t.home_id = any ($4)) returning t.id
       ) select coalesce(jsonb_agg(moved.id), ''[]'') from moved', reference.table_name)
      into ids using to_contact, org_id, from_contact, homes;
    moved := moved || jsonb_build_object(reference.table_name, ids);
  end loop;
  return moved;
end;
$$;
comment on function private.move_rows is 'Bring what moves from one contact to another: all, or what is of certain homes.';

create function private.merge_people(winner_id uuid, loser_id uuid, reason text, candidate_id uuid default null)
returns uuid
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  winner public.contacts;
  loser public.contacts;
  merge_id uuid := private.uuid_v7();
  folded jsonb;
begin
  if winner_id = loser_id then
    perform private.fail(422, 'same_contact', 'A contact cannot be merged into itself.');
  end if;
  perform private.hold_people(array[winner_id, loser_id]);
  select contacts.* into winner from public.contacts where contacts.id = winner_id;
  select contacts.* into loser from public.contacts where contacts.id = loser_id;
  if winner.id is null or loser.id is null or winner.org_id <> loser.org_id then
    perform private.fail(404, 'unknown_contact', 'There is no such contact.');
  elsif winner.merged_into is not null or loser.merged_into is not null then
    perform private.fail(409, 'already_merged', 'One of the two is merged into another contact; merge that one, or undo it.');
  elsif private.are_kept_apart(winner_id, loser_id, candidate_id) then
    perform private.fail(409, 'kept_apart', 'A person decided that these two are not one; decide that candidate anew.');
  end if;

  insert into public.contact_merges (id, org_id, winner_id, loser_id, reason, candidate_id, merged_by)
  values (merge_id, winner.org_id, winner.id, loser.id, merge_people.reason, merge_people.candidate_id, (select auth.uid()));
  update public.contacts set merged_into = winner.id
  where contacts.id = loser.id or (contacts.org_id = loser.org_id and contacts.merged_into = loser.id);
  folded := private.fold_leads(winner.org_id, array[winner.id, loser.id]);
  update public.contact_merges
  set moved = private.move_rows(winner.org_id, loser.id, winner.id) || jsonb_build_object('folded_leads', folded)
  where contact_merges.id = merge_id;

  insert into public.events (org_id, type, contact_id, subject_type, subject_id, source, data)
  values (winner.org_id, 'contact.merged', winner.id, 'contact', loser.id, private.doer(),
          jsonb_build_object('merge_id', merge_id, 'loser_id', loser.id, 'reason', merge_people.reason));
  return merge_id;
end;
$$;
comment on function private.merge_people is 'Make one contact of two, so that it can be undone.';

create function private.unmerge_people(merge_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
  merge public.contact_merges;
  person uuid;
  returning_ids uuid[];
begin
  select contact_merges.* into merge from public.contact_merges where contact_merges.id = merge_id;
  perform private.hold_people(array[merge.loser_id]);
  -- Asked again: somebody else may have undone it while we waited.
  select contact_merges.* into merge from public.contact_merges where contact_merges.id = merge_id;
  if merge.undone_at is not null then
    perform private.fail(409, 'already_undone', 'This merge is undone already.');
  end if;
  person := private.visible_contact(merge.loser_id);

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
  perform private.move_rows(merge.org_id, person, merge.loser_id, returning_ids);
  perform private.unfold_leads(merge.org_id, array[person, merge.loser_id]);
  perform private.reopen_leads(
    merge.org_id, private.contact_family(person) || private.contact_family(merge.loser_id), merge.merged_at);
  -- Who takes back what the queue proposed has decided it.
  update public.merge_candidates set decision = 'keep_apart', decided_at = now(), decided_by = (select auth.uid())
  where merge_candidates.id = merge.candidate_id;

  insert into public.events (org_id, type, contact_id, subject_type, subject_id, source, data)
  values (merge.org_id, 'contact.unmerged', merge.loser_id, 'contact', person, private.doer(),
          jsonb_build_object('merge_id', merge.id, 'winner_id', merge.winner_id));
end;
$$;
comment on function private.unmerge_people is 'Undo a merge: what is the loser''s by itself, before or since, returns to it.';

-- The doors of people. security definer: who may is asked here, by the caller's own permission.

create function private.permit(org_id uuid, permission text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if (select auth.role()) = 'service_role' and permit.org_id is not null then
    return;
  elsif permit.org_id is null or permit.org_id not in (select private.my_orgs('organizations.read')) then
    perform private.fail(404, 'not_found', 'There is no such row here.');
  elsif permit.org_id not in (select private.my_orgs(permit.permission)) then
    perform private.fail(403, 'not_permitted', 'Your role may not do this.');
  end if;
end;
$$;
comment on function private.permit is 'Fail unless the caller has a permission in this organization.';

create function private.merge_my_contacts(winner uuid, loser uuid, reason text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform private.permit((select contacts.org_id from public.contacts where contacts.id = winner), 'contacts.merge');
  perform private.permit((select contacts.org_id from public.contacts where contacts.id = loser), 'contacts.merge');
  return jsonb_build_object('merge_id', private.merge_people(winner, loser, reason));
end;
$$;
comment on function private.merge_my_contacts is 'Merge within the caller''s organizations.';
grant execute on function private.merge_my_contacts to authenticated, service_role;

create function private.unmerge_my_contacts(merge_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform private.permit(
    (select contact_merges.org_id from public.contact_merges where contact_merges.id = unmerge_my_contacts.merge_id), 'contacts.merge');
  perform private.unmerge_people(merge_id);
  return jsonb_build_object('merge_id', merge_id, 'undone', true);
end;
$$;
comment on function private.unmerge_my_contacts is 'Undo a merge within the caller''s organizations.';
grant execute on function private.unmerge_my_contacts to authenticated, service_role;

create function private.decide_my_merge(candidate uuid, decision public.merge_decision, winner uuid, reason text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
  pair public.merge_candidates;
  one uuid;
  other uuid;
  merge_id uuid;
begin
  perform private.permit(
    (select merge_candidates.org_id from public.merge_candidates where merge_candidates.id = candidate), 'contacts.merge');
  select merge_candidates.* into pair from public.merge_candidates where merge_candidates.id = candidate;
  perform private.hold_people(array[pair.contact_id, pair.other_id]);
  one := private.visible_contact(pair.contact_id);
  other := private.visible_contact(pair.other_id);

  if decide_my_merge.decision = 'keep_apart' and one = other then
    perform private.fail(409, 'already_merged', 'These two are merged; undo that merge.');
  elsif decide_my_merge.decision = 'merge' and one <> other then
    winner := case when winner is null then one else private.visible_contact(winner) end;
    if winner is null or winner not in (one, other) then
      perform private.fail(422, 'not_of_the_pair', 'The winner is one of the two.');
    end if;
    merge_id := private.merge_people(
      winner, case winner when one then other else one end, coalesce(decide_my_merge.reason, pair.reason), pair.id);
  end if;

  update public.merge_candidates
  set decision = decide_my_merge.decision, decided_at = now(), decided_by = (select auth.uid())
  where merge_candidates.id = pair.id and merge_candidates.decision is distinct from decide_my_merge.decision;
  return jsonb_build_object('candidate_id', pair.id, 'decision', decide_my_merge.decision, 'merge_id', merge_id);
end;
$$;
comment on function private.decide_my_merge is 'Decide about a candidate within the caller''s organizations.';
grant execute on function private.decide_my_merge to authenticated, service_role;

create function public.merge_contacts(winner uuid, loser uuid, reason text)
returns jsonb
language sql
set search_path = ''
as $$
  select private.merge_my_contacts(winner, loser, reason);
$$;
comment on function public.merge_contacts is 'Merge a contact into another: everything of the loser is seen under the winner. Answers the merge_id that undoes it.';
grant execute on function public.merge_contacts to authenticated, service_role;

create function public.unmerge_contacts(merge_id uuid)
returns jsonb
language sql
set search_path = ''
as $$
  select private.unmerge_my_contacts(merge_id);
$$;
comment on function public.unmerge_contacts is 'Undo a merge: the loser gets back what is its own, also what came by its identifiers since.';
grant execute on function public.unmerge_contacts to authenticated, service_role;

create function public.decide_merge(
  candidate uuid, decision public.merge_decision, winner uuid default null, reason text default null)
returns jsonb
language sql
set search_path = ''
as $$
  select private.decide_my_merge(candidate, decision, winner, reason);
$$;
comment on function public.decide_merge is 'Decide whether two contacts of the merge queue are one (merge) or not (keep_apart). The older is the winner unless told otherwise.';
grant execute on function public.decide_merge to authenticated, service_role;

create view public.merge_queue with (security_invoker = true) as
select
  pair.id, pair.org_id, pair.reason, pair.created_at,
  one.id as contact_id, other.id as other_id,
  one.name, other.name as other_name,
  held.emails, held.other_emails, held.phones, held.other_phones,
  shared.identifiers as shared,
  array_remove(array[
    case when one.name is not null and other.name is not null and private.names_agree(one.name, other.name) then 'name' end,
    case when held.phones && held.other_phones then 'phone' end,
    case when shared.has_email then 'email' end], null) as agrees,
  array_remove(array[
    case when one.name is not null and other.name is not null and not private.names_agree(one.name, other.name) then 'name' end,
    case when not held.phones && held.other_phones and held.phones <> '{}' and held.other_phones <> '{}' then 'phone' end,
    case when not shared.has_email and held.emails <> '{}' and held.other_emails <> '{}' then 'email' end], null) as differs
from public.merge_candidates as pair
join public.contacts as said_one on said_one.org_id = pair.org_id and said_one.id = pair.contact_id
join public.contacts as said_other on said_other.org_id = pair.org_id and said_other.id = pair.other_id
join public.contacts as one on one.org_id = pair.org_id and one.id = coalesce(said_one.merged_into, said_one.id)
join public.contacts as other on other.org_id = pair.org_id and other.id = coalesce(said_other.merged_into, said_other.id)
cross join lateral (
  select
    coalesce(array_agg(value order by identifiers.id) filter (where contact_id = one.id and kind = 'email'), '{}') as emails,
    coalesce(array_agg(value order by identifiers.id) filter (where contact_id = other.id and kind = 'email'), '{}') as other_emails,
    coalesce(array_agg(value order by identifiers.id) filter (where contact_id = one.id and kind = 'phone'), '{}') as phones,
    coalesce(array_agg(value order by identifiers.id) filter (where contact_id = other.id and kind = 'phone'), '{}') as other_phones
  from public.contact_identifiers as identifiers
  where identifiers.org_id = pair.org_id and identifiers.contact_id in (one.id, other.id)
) as held
cross join lateral (
  select
    coalesce(jsonb_agg(jsonb_build_object(
      'kind', ours.kind, 'value', ours.value, 'other_value', theirs.value,
      'event_id', ours.event_id, 'other_event_id', theirs.event_id)), '[]') as identifiers,
    coalesce(bool_or(ours.kind = 'email'), false) as has_email
  from public.contact_identifiers as ours
  join public.contact_identifiers as theirs
    on theirs.org_id = ours.org_id and theirs.contact_id = other.id and theirs.kind = ours.kind and theirs.match_key = ours.match_key
  where ours.org_id = pair.org_id and ours.contact_id = one.id
) as shared
where pair.decided_at is null
  and one.id <> other.id
  and not private.are_kept_apart(one.id, other.id);
comment on view public.merge_queue is
  'Contacts that may be one person, with what agrees and what differs side by side, and the events that gave what they share. decide_merge(id, …) decides.';
grant select on public.merge_queue to authenticated, service_role;
-- Else a write is a 500: Postgres says what a view cannot do before it asks who may.
create trigger merge_queue_read_only instead of insert or update or delete on public.merge_queue
  for each row execute function private.refuse_change();
grant execute on function private.names_agree to authenticated, service_role;
grant execute on function private.name_words to authenticated, service_role;
create index merge_candidates_open_idx on public.merge_candidates (org_id, id desc) where decided_at is null;
