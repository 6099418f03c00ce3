-- Stand-in for supabase_vault 0.3.1: same schema, signatures and grants, in plain SQL over pgcrypto.
--
-- The key is a file beside the tables that only a superuser's function reads, so neither a dump nor
-- a role of the API ever holds it. Each ciphertext is bound to its row's id: moved to another row, it
-- does not decrypt.

create function vault._passphrase(additional bytea)
returns text
language sql
stable
security definer
set search_path = ''
as $$
  select pg_catalog.pg_read_file('vault.key') || pg_catalog.encode(additional, 'hex');
$$;

create function vault._crypto_aead_det_noncegen()
returns bytea
language sql
volatile
set search_path = ''
as $$ select @extschema:pgcrypto@.gen_random_bytes(16); $$;

create function vault._crypto_aead_det_encrypt(
  message bytea, additional bytea, key_id bigint, context bytea default 'pgsodium', nonce bytea default null
)
returns bytea
language sql
volatile
security definer
set search_path = ''
as $$
  select @extschema:pgcrypto@.pgp_sym_encrypt_bytea(
    message, vault._passphrase(additional), 's2k-mode=1, compress-algo=0, cipher-algo=aes256');
$$;

create function vault._crypto_aead_det_decrypt(
  message bytea, additional bytea, key_id bigint, context bytea default 'pgsodium', nonce bytea default null
)
returns bytea
language sql
stable
security definer
set search_path = ''
as $$ select @extschema:pgcrypto@.pgp_sym_decrypt_bytea(message, vault._passphrase(additional)); $$;

create table vault.secrets (
  id          uuid primary key default gen_random_uuid(),
  name        text,
  description text not null default '',
  secret      text not null,
  key_id      uuid,
  nonce       bytea default vault._crypto_aead_det_noncegen(),
  created_at  timestamptz not null default current_timestamp,
  updated_at  timestamptz not null default current_timestamp
);
comment on table vault.secrets is 'Table with encrypted `secret` column for storing sensitive information on disk.';
create unique index secrets_name_idx on vault.secrets (name) where name is not null;

create view vault.decrypted_secrets as
select
  s.id,
  s.name,
  s.description,
  s.secret,
  convert_from(
    vault._crypto_aead_det_decrypt(
      message := decode(s.secret, 'base64'), additional := convert_to(s.id::text, 'utf8'), key_id := 0, nonce := s.nonce),
    'utf8') as decrypted_secret,
  s.key_id,
  s.nonce,
  s.created_at,
  s.updated_at
from vault.secrets as s;

create function vault.create_secret(
  new_secret text, new_name text default null, new_description text default '', new_key_id uuid default null
)
returns uuid
language plpgsql
security definer
set search_path = ''
as $$
declare
  new_id uuid := pg_catalog.gen_random_uuid();
begin
  insert into vault.secrets (id, secret, name, description, key_id)
  values (
    new_id,
    pg_catalog.encode(
      vault._crypto_aead_det_encrypt(
        pg_catalog.convert_to(new_secret, 'utf8'), pg_catalog.convert_to(new_id::text, 'utf8'), 0),
      'base64'),
    new_name, new_description, new_key_id);
  return new_id;
end;
$$;

create function vault.update_secret(
  secret_id uuid, new_secret text default null, new_name text default null, new_description text default null,
  new_key_id uuid default null
)
returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
  update vault.secrets as s
  set
    secret = case
      when new_secret is null then s.secret
      else pg_catalog.encode(
        vault._crypto_aead_det_encrypt(
          pg_catalog.convert_to(new_secret, 'utf8'), pg_catalog.convert_to(s.id::text, 'utf8'), 0),
        'base64')
    end,
    name = coalesce(new_name, s.name),
    description = coalesce(new_description, s.description),
    key_id = coalesce(new_key_id, s.key_id),
    updated_at = pg_catalog.now()
  where s.id = secret_id;
end;
$$;

revoke all on schema vault from public;
revoke all on all tables in schema vault from public;
revoke all on all functions in schema vault from public;
grant usage on schema vault to postgres with grant option;
grant select, delete on vault.secrets, vault.decrypted_secrets to postgres with grant option;
grant execute on function
  vault.create_secret(text, text, text, uuid),
  vault.update_secret(uuid, text, text, text, uuid),
  vault._crypto_aead_det_decrypt(bytea, bytea, bigint, bytea, bytea)
to postgres with grant option;
