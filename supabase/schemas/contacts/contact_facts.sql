-- Facts: each thing that is known of a contact, with the event that said it and the time.
--
-- The later event wins, in whatever order they are written: a replayed or late one never overwrites. A correction by
-- a user stays until a user corrects it again. A fact stays with the contact by whose identifier its event came;
-- merges change how facts are read, not whose they are.

create table public.contact_facts (
  org_id     uuid not null,
  contact_id uuid not null,
  key        text not null,
  value      jsonb not null,
  event_id   uuid,
  said_by    uuid,
  said_at    timestamptz not null,

  primary key (org_id, contact_id, key),
  constraint contact_facts_contact foreign key (org_id, contact_id) references public.contacts (org_id, id) on delete cascade,
  constraint contact_facts_key_length check (length(key) between 1 and 100),
  constraint contact_facts_said check (event_id is null or said_by is null)
);
comment on table public.contact_facts is 'The facts about a contact: which event or user said each, and when.';
comment on column public.contact_facts.event_id is 'The event that said it. No foreign key: partitions of events are archived one by one.';
comment on column public.contact_facts.said_by is 'The user who corrected it: events do not overwrite it any more.';

alter table public.contact_facts enable row level security, force row level security;
grant select on public.contact_facts to authenticated, service_role;
create policy "who reads a contact reads its facts" on public.contact_facts for select to authenticated
  using (org_id in (select private.my_orgs('contacts.read')) or contact_id in (select private.my_assigned_contacts()));

create function private.learn_facts(org_id uuid, contact_id uuid, facts jsonb, event_id uuid, said_at timestamptz)
returns void
language plpgsql set search_path = ''
as $$
begin
  insert into public.contact_facts as known (org_id, contact_id, key, value, event_id, said_at)
  select learn_facts.org_id, learn_facts.contact_id, said.key, said.value, learn_facts.event_id, learn_facts.said_at
  from jsonb_each(facts) as said (key, value)
  where said.value not in ('null', '""')
  on conflict on constraint contact_facts_pkey do update
    set value = excluded.value, event_id = excluded.event_id, said_at = excluded.said_at
    where known.said_by is null
      and (known.said_at, known.event_id) < (excluded.said_at, excluded.event_id)
      -- "Jo" after "Jo Smith" says less, not something else.
      and (known.key <> 'name' or known.value = excluded.value
           or not private.says_less(excluded.value #>> '{}', known.value #>> '{}'));

  if facts ? 'name'
    and (select contacts.name from public.contacts where contacts.id = learn_facts.contact_id) is distinct from facts ->> 'name'
  then
    update public.contacts set name = known.value #>> '{}'
    from public.contact_facts as known
    where known.org_id = learn_facts.org_id and known.contact_id = learn_facts.contact_id and known.key = 'name'
      and contacts.id = learn_facts.contact_id and contacts.name is distinct from known.value #>> '{}';
  end if;
end;
$$;
comment on function private.learn_facts is 'Keep the facts that an event said of a contact, unless a later event or a user has said otherwise.';

-- security definer: changing a contact needs no right to write facts.
create function private.learn_correction()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.contact_facts (org_id, contact_id, key, value, said_by, said_at)
  select new.org_id, new.id, said.key, to_jsonb(said.value), (select auth.uid()), now()
  from (values ('name', old.name, new.name), ('language', old.language, new.language)) as said (key, before, value)
  where said.value is distinct from said.before and said.value is not null
  on conflict on constraint contact_facts_pkey do update
    set value = excluded.value, said_by = excluded.said_by, said_at = excluded.said_at, event_id = null;
  return null;
end;
$$;
comment on function private.learn_correction is 'Trigger: a correction by a user is a fact that events do not overwrite.';

create trigger contacts_corrected after update of name, language on public.contacts
  for each row
  when (auth.uid() is not null and (old.name is distinct from new.name or old.language is distinct from new.language))
  execute function private.learn_correction();
