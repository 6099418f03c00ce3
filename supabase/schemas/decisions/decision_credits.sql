-- Decision credits: a model's decision costs one, in an organization that was granted credits.
--
-- The credit is taken in the transaction that writes the decision. Without credits the rules decide; decisions at the
-- same moment may overdraw by as many. An organization that never was granted any is not limited: tokens and cost stand
-- with its actions.

create table public.credit_accounts (
  org_id     uuid primary key references public.organizations (id),
  balance    bigint not null default 0,
  updated_at timestamptz not null default now()
);
comment on table public.credit_accounts is 'How many decisions by models an organization has left; without an account it is not limited.';

create trigger credit_accounts_touch before update on public.credit_accounts
  for each row execute function private.touch_updated_at();

alter table public.credit_accounts enable row level security, force row level security;
grant select on public.credit_accounts to authenticated, service_role;
create policy "members read their balance" on public.credit_accounts for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')));

create table public.decision_credits (
  id         uuid primary key default private.uuid_v7(),
  org_id     uuid not null references public.organizations (id),
  amount     integer not null,
  reason     text not null,
  action_id  uuid,
  created_at timestamptz not null default now(),

  constraint decision_credits_action foreign key (action_id) references public.agent_actions (id),
  constraint decision_credits_amount check (amount <> 0 and abs(amount) <= 1000000),
  constraint decision_credits_reason_length check (length(reason) between 1 and 300)
);
comment on table public.decision_credits is 'Each grant, and each decision that took one; the sum is the balance.';
create unique index decision_credits_once on public.decision_credits (action_id) where action_id is not null;
create index decision_credits_list_idx on public.decision_credits (org_id, id desc);

-- security definer: writing an action or a grant needs no right to write the account.
create function private.count_credits()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.credit_accounts as account (org_id, balance)
  select fresh.org_id, sum(fresh.amount) from fresh group by fresh.org_id order by fresh.org_id
  on conflict on constraint credit_accounts_pkey do update set balance = account.balance + excluded.balance;
  return null;
end;
$$;
comment on function private.count_credits is 'Trigger: the balance is the sum of credits granted and taken.';

create trigger decision_credits_append_only before update or delete on public.decision_credits
  for each row execute function private.refuse_change();
create trigger decision_credits_count after insert on public.decision_credits
  referencing new table as fresh for each statement execute function private.count_credits();

alter table public.decision_credits enable row level security, force row level security;
grant select on public.decision_credits to authenticated, service_role;
grant insert on public.decision_credits to service_role;
create policy "members read credits" on public.decision_credits for select to authenticated
  using (org_id in (select private.my_orgs('actions.read')));

-- security definer: writing an action needs no right to write credits.
create function private.take_credits()
returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.decision_credits (org_id, amount, reason, action_id)
  select fresh.org_id, -1, 'decision', fresh.id
  from fresh
  join public.credit_accounts on credit_accounts.org_id = fresh.org_id
  where fresh.output ->> 'decided_by' = 'model';
  return null;
end;
$$;
comment on function private.take_credits is 'Trigger: a decision by a model takes one credit.';

create trigger agent_actions_credits after insert on public.agent_actions
  referencing new table as fresh for each statement execute function private.take_credits();

create function private.may_ask_model(org_id uuid)
returns boolean
language sql stable set search_path = ''
as $$
  select not exists (
    select from public.credit_accounts
    where credit_accounts.org_id = may_ask_model.org_id and credit_accounts.balance <= 0);
$$;
comment on function private.may_ask_model is 'Whether an organization has a credit left, or never had any to count.';

-- Only the secret key grants: an organization that granted itself would have no limit.
create function public.grant_credits(org_id uuid, amount integer, reason text)
returns bigint
language plpgsql set search_path = ''
as $$
begin
  if amount is null or amount not between 1 and 1000000 then
    perform private.fail(422, 'bad_amount', 'A grant is between 1 and 1,000,000 credits.');
  end if;
  insert into public.decision_credits (org_id, amount, reason)
  values (grant_credits.org_id, grant_credits.amount, grant_credits.reason);
  return (select credit_accounts.balance from public.credit_accounts where credit_accounts.org_id = grant_credits.org_id);
end;
$$;
comment on function public.grant_credits is 'Grant an organization decisions by models; answers its balance.';
grant execute on function public.grant_credits to service_role;
