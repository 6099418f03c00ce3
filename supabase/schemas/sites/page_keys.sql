-- Page keys: the secrets that sign page tokens, made with a site and changed each week.

-- security definer: adding a site needs no right to write secrets.
create function private.make_page_key()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.new_site_secret(new.slug, 'page');
  return null;
end;
$$;
comment on function private.make_page_key is 'Trigger: a site has a key for the tokens of its pages.';

create trigger sites_page_key after insert on public.sites
  for each row execute function private.make_page_key();

create function private.rotate_page_keys()
returns void
language plpgsql set search_path = ''
as $$
begin
  perform private.new_site_secret(sites.slug, 'page', '1 hour') from public.sites;
end;
$$;
comment on function private.rotate_page_keys is 'New keys for page tokens; tokens that were handed out stay valid until they expire.';

create function private.forget_ended_keys()
returns void
language plpgsql set search_path = ''
as $$
begin
  with ended as (
    update private.site_secrets set vault_id = null
    from private.site_secrets as before
    where before.id = site_secrets.id and before.vault_id is not null and before.valid_to < now()
    returning before.vault_id
  )
  delete from vault.secrets using ended where secrets.id = ended.vault_id;
end;
$$;
comment on function private.forget_ended_keys is 'Remove from the vault the keys that sign nothing any more; their rows stay.';
