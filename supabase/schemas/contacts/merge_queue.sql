-- The merge queue: candidates that wait, with agreeing and differing facts side by side.

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
  'Contacts that may be one person, with agreeing and differing facts side by side, and the events that gave the shared ones. decide_merge(id, …) decides.';
grant select on public.merge_queue to authenticated, service_role;
-- Without this trigger a write is a 500: Postgres says that a view cannot be written before it asks for the right.
create trigger merge_queue_read_only instead of insert or update or delete on public.merge_queue
  for each row execute function private.refuse_change();
