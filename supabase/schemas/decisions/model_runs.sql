-- Model runs: a delivery's question to a model, its tokens and cost, and the answer, until the delivery is history.
--
-- The cost of a question is reserved before it is asked, within the day's limits of the organization. A delivery that is
-- handled again, because its function was killed after the answer, finds that answer here and does not pay twice. A
-- reservation that never ended counts as spent. A day is a day in UTC.

create table private.model_spending (
  org_id     uuid not null references public.organizations (id),
  day        date not null,
  tokens     bigint not null default 0,
  cost_cents numeric(14, 4) not null default 0,

  primary key (org_id, day)
);
comment on table private.model_spending is 'Tokens and cost that an organization''s agents spend on models in a day, those reserved included.';

create table private.model_runs (
  delivery_id     uuid primary key references public.deliveries (id) on delete cascade,
  org_id          uuid not null references public.organizations (id),
  day             date not null,
  prompt_digest   text not null,
  attempts        smallint not null default 1,
  reserved_tokens bigint not null,
  reserved_cents  numeric(14, 4) not null,
  tokens          bigint not null default 0,
  cost_cents      numeric(14, 4),
  answer          jsonb,
  updated_at      timestamptz not null default now(),

  constraint model_runs_reserved check (reserved_tokens >= 0 and reserved_cents >= 0)
);
comment on table private.model_runs is 'A delivery''s question to a model, its tokens and cost, and the answer, until the delivery is history.';
create index model_runs_org_idx on private.model_runs (org_id);
create index model_runs_updated_idx on private.model_runs (updated_at);

create trigger model_runs_touch before update on private.model_runs
  for each row execute function private.touch_updated_at();

create function private.prune_model_runs()
returns void
language plpgsql set search_path = ''
as $$
begin
  delete from private.model_runs using public.deliveries
  where deliveries.id = model_runs.delivery_id
    and deliveries.status in ('done', 'skipped') and model_runs.updated_at < now() - interval '7 days';
  delete from private.model_spending where model_spending.day < current_date - 400;
end;
$$;
comment on function private.prune_model_runs is 'Remove runs of deliveries that are settled, and old sums.';
