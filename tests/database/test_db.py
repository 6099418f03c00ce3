"""db.call: what SQL says becomes our error, what can be repeated is, and a broken connection is never used again."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.hubs import Hub

from shared import db
from shared.errors import HubError, Unavailable, Unprocessable

type Define = Callable[..., None]


@pytest.fixture
def database(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("DATABASE_URL", hub.env["DATABASE_URL"])
    return hub


@pytest.fixture
def function(database: Hub) -> Iterator[Define]:
    """A door of the test's own: hub.probe(said text), with the body that is asked for."""

    def define(body: str, declarations: str = "") -> None:
        database.sql(
            "create or replace function hub.probe(said text) returns jsonb language plpgsql security definer as $$"
            f" declare {declarations} begin {body} end $$; grant execute on function hub.probe to hub_service"
        )

    yield define
    database.sql("drop function if exists hub.probe(text)")


def probe(said: str = "hello") -> Any:
    async def call() -> Any:
        try:
            return await db.call("probe", said=said)
        finally:
            await db.close()

    return asyncio.run(call())


def test_a_named_argument_goes_in_and_json_comes_out(function: Define) -> None:
    function("return jsonb_build_object('said', said, 'twice', repeat(said, 2));")

    assert probe("kia ora") == {"said": "kia ora", "twice": "kia orakia ora"}


@pytest.mark.parametrize("name", ["probe; drop table x", 'pr"obe', "Probe", ""])
def test_only_plain_names_become_sql(name: str) -> None:
    with pytest.raises(ValueError, match="not an SQL name"):
        asyncio.run(db.call(name))


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        ("raise sqlstate 'PT409' using message = 'Not twice.', detail = 'already_done'", 409, "already_done"),
        ("raise sqlstate 'PT401' using message = 'no', detail = 'unknown_secret'", 401, "unauthorized"),
        ("raise sqlstate '57P01'", 503, "database_unavailable"),
        ("raise sqlstate '53100' using message = 'disk full'", 503, "database_unavailable"),
        ("raise exception 'a secret of ours'", 500, "internal_error"),
    ],
)
def test_what_sql_raises_becomes_a_named_error(function: Define, raised: str, status: int, code: str) -> None:
    function(f"{raised};")

    with pytest.raises(HubError) as error:
        probe()

    assert (error.value.status, error.value.code) == (status, code)
    assert "secret of ours" not in str(error.value.body())


def test_a_broken_constraint_is_named(function: Define) -> None:
    function(
        "raise unique_violation using constraint = 'leads_once', message = 'Key (email)=(ann@example.com)';"
    )

    with pytest.raises(Unprocessable) as error:
        probe()

    assert error.value.details == [{"constraint": "leads_once"}]


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_conflict_is_tried_five_times_and_no_more(database: Hub, function: Define, state: str) -> None:
    database.sql("create sequence if not exists private.probes; select setval('private.probes', 1, false)")
    tries = "nextval('private.probes')"
    function(
        f"if {tries} < 5 then raise sqlstate '{state}'; end if; return to_jsonb(currval('private.probes'));"
    )

    assert probe() == 5
    function(f"perform {tries}; raise sqlstate '{state}';")
    with pytest.raises(Unavailable):
        probe()
    assert database.rows("select last_value from private.probes") == [(10,)]


def test_no_answer_meets_another_question_while_backends_are_killed(database: Hub, function: Define) -> None:
    function("perform pg_sleep(0.002); return to_jsonb(said);")

    async def ask(answers: Counter[str], until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            said = str(random.random())
            try:
                # Some callers leave before their answer comes.
                async with asyncio.timeout(random.choice((0.001, 2))):
                    answers["own" if await db.call("probe", said=said) == said else "foreign"] += 1
            except Unavailable:
                answers["unavailable"] += 1
            except TimeoutError:
                answers["left"] += 1

    async def asked() -> Counter[str]:
        answers: Counter[str] = Counter()
        until = asyncio.get_running_loop().time() + 3
        askers = [asyncio.create_task(ask(answers, until)) for _ in range(16)]
        kill = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'hub_service'"
        for _ in range(8):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(database.as_superuser, kill)
        await asyncio.gather(*askers)
        await db.close()
        return answers

    answers = asyncio.run(asked())

    assert answers["foreign"] == 0
    assert answers["own"] > 100
    assert answers["left"] > 10


def test_a_transaction_pooler_gets_no_named_statement(
    database: Hub, function: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    function("return to_jsonb((select count(*) from pg_prepared_statements));")
    assert probe() == 1

    monkeypatch.setattr(
        db, "_TRANSACTION_POOLER_PORT", int(database.env["DATABASE_URL"].rsplit(":", 1)[1].split("/")[0])
    )

    assert probe() == 0


def test_an_unreachable_database_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    with pytest.raises(Unavailable):
        probe()
