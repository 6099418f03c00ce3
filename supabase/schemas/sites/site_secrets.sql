-- Site secrets: a site proves itself with a secret of a kind.
--
-- static is the secret itself in a header: accepted, and weak, for anybody who sees one request has it. standard
-- (Standard Webhooks) and hmac sign timestamp and body. page signs the short-lived tokens that browsers post with. A site
-- may have secrets of several kinds at once, so that it can change from one to another without losing a form. Keys that
-- sign are kept in the vault, for a digest cannot check a signature.

create type public.secret_kind as enum ('static', 'standard', 'hmac', 'page');

create table private.site_secrets (
  id         uuid primary key default private.uuid_v7(),
  site_id    uuid not null references public.sites (id) on delete cascade,
  kind       public.secret_kind not null,
  sha256     bytea not null,
  vault_id   uuid,
  valid_from timestamptz not null default now(),
  valid_to   timestamptz,
  created_at timestamptz not null default now(),

  constraint site_secrets_digest check (length(sha256) = 32),
  constraint site_secrets_unique unique (sha256)
);
comment on table private.site_secrets is 'The secrets by which sites prove themselves; two are valid at once while one replaces the other.';
comment on column private.site_secrets.sha256 is 'The digest of the secret as it is written; of a static one nothing else is kept.';
comment on column private.site_secrets.vault_id is 'The key in the vault, while it may sign.';
create index site_secrets_site_idx on private.site_secrets (site_id);

-- security definer: who changes a secret needs no right to write the audit log.
create function private.audit_secret()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.write_audit(
    (select sites.org_id from public.sites where sites.id = new.site_id), lower(tg_op), 'site_secrets', new.id::text, null,
    to_jsonb(new) - 'sha256');
  return null;
end;
$$;
comment on function private.audit_secret is 'Trigger: a site''s secret was set or ended; the digest stays out of the log.';

create trigger site_secrets_audit after insert or update on private.site_secrets
  for each row execute function private.audit_secret();
