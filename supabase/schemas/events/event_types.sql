-- Event types: the catalogue of happenings, one name for each kind, whatever a sender calls it.

create table public.event_types (
  name        text primary key,
  description text not null,
  aliases     text[] not null default '{}',
  from_sites  boolean not null default false,
  makes_lead  boolean not null default false,
  schema      jsonb not null default '{}',
  sample      jsonb not null default '{}',

  constraint event_types_form check (name ~ '^[a-z_]+\.[a-z_]+$')
);
comment on table public.event_types is 'The catalogue of happenings: their names, aliases and schemas.';
comment on column public.event_types.from_sites is 'A site may say that it happened; else only the hub does.';
comment on column public.event_types.makes_lead is 'An event of this type opens a lead, and needs an address or a number for the answer.';

alter table public.event_types enable row level security, force row level security;
grant select on public.event_types to authenticated, service_role;
create policy "everybody signed in may read the catalogue" on public.event_types for select to authenticated
  using ((select auth.uid()) is not null);

-- security definer: writing a type needs no right to change subscriptions.
create function private.learn_event_type()
returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  taken text;
begin
  select other.name into taken from public.event_types as other
  where other.name <> new.name and (other.aliases || other.name) && (new.aliases || new.name);
  if taken is not null then
    perform private.fail(409, 'event_name_taken', new.name || ' or an alias of it is a name of ' || taken || '.');
  end if;
  update public.subscriptions set event_types = subscriptions.event_types where subscriptions.event_types && new.aliases;
  return null;
end;
$$;
comment on function private.learn_event_type is 'Trigger: a name means one thing; subscriptions that used an alias learn its name.';

create trigger event_types_learn after insert or update on public.event_types
  for each row execute function private.learn_event_type();

create function private.canonical_type(type text)
returns text
language plpgsql stable set search_path = ''
as $$
declare
  written text := lower(replace(canonical_type.type, '-', '_'));
begin
  return (select event_types.name from public.event_types
          where event_types.name = written or written = any (event_types.aliases));
end;
$$;
comment on function private.canonical_type is 'The name of a kind of event that may be called by an alias; null for an unknown one.';
grant execute on function private.canonical_type to authenticated, service_role;

create function private.canonical_types(types text[])
returns text[]
language sql stable set search_path = ''
as $$
  select coalesce(array_agg(coalesce(private.canonical_type(written.type), written.type) order by written.place), '{}')
  from unnest(types) with ordinality as written (type, place);
$$;
comment on function private.canonical_types is 'Names for names, aliases and patterns, in their order; an unknown one stays as it is.';
grant execute on function private.canonical_types to authenticated, service_role;
