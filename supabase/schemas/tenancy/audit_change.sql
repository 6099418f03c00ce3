-- The trigger that writes a change to the audit log.

-- security definer: making a change needs no right to write the log.
create function private.audit_change()
returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
  after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
  present jsonb := coalesce(after, before);
begin
  -- agent_actions tells what agents do; the audit log tells what users do and what changes the rules.
  if tg_argv[0] = 'users' and (select auth.uid()) is null then
    return null;
  end if;
  if before - 'updated_at' is not distinct from after - 'updated_at' then
    return null;
  end if;
  perform private.write_audit(
    coalesce(present ->> 'org_id', present ->> 'id')::uuid, lower(tg_op), tg_table_name,
    coalesce(present ->> 'id', present ->> 'user_id'), before, after);
  return null;
end;
$$;
comment on function private.audit_change is 'Trigger: write a change down.';
