-- Names: whether two may be one person's, and whether one says less than another.

-- "Jo Smith" agrees with "Smith, Jo" and with "Jo"; no name agrees with no name only.
create function private.names_agree(one text, other text)
returns boolean
language plpgsql immutable set search_path = ''
as $$
declare
  words text[] := private.name_words(one);
  other_words text[] := private.name_words(other);
begin
  if cardinality(words) = 0 or cardinality(other_words) = 0 then
    return cardinality(words) = cardinality(other_words);
  end if;
  return words <@ other_words or other_words <@ words;
end;
$$;
comment on function private.names_agree is 'Whether two names may be one person''s.';
grant execute on function private.names_agree to authenticated, service_role;

create function private.says_less(name text, known text)
returns boolean
language plpgsql immutable set search_path = ''
as $$
declare
  words text[] := private.name_words(name);
  known_words text[] := private.name_words(known);
begin
  return words <@ known_words and not known_words <@ words;
end;
$$;
comment on function private.says_less is 'Whether a name is only a part of the one that is known.';

create function private.name_words(name text)
returns text[]
language plpgsql immutable set search_path = ''
as $$
begin
  return array_remove(regexp_split_to_array(lower(coalesce(name, '')), '[^[:alnum:]]+'), '');
end;
$$;
comment on function private.name_words is 'The words of a name, in lower case.';
grant execute on function private.name_words to authenticated, service_role;
