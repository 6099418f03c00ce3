-- Triggers of many tables: they keep updated_at true and refuse to rewrite history.

create function private.touch_updated_at()
returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;
comment on function private.touch_updated_at is 'Trigger: keep updated_at true.';

create function private.refuse_change()
returns trigger
language plpgsql set search_path = ''
as $$
begin
  raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
    using errcode = 'PT409', detail = 'append_only';
end;
$$;
comment on function private.refuse_change is 'Trigger: history is not rewritten, by any role.';
