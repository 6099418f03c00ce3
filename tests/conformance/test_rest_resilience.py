"""REST over time: the schema changes, connections break, the database goes away and comes back."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from conformance.callers import Rows, Serve, authenticate, client, wait_for
from emulator.rest import create_app
from psycopg.conninfo import conninfo_to_dict


@pytest.fixture
def fresh(rest_database: str, serve: Serve) -> Iterator[httpx.Client]:
    """A client of an app of its own, which nothing else has used."""
    with client(serve(create_app(rest_database, authenticate))) as http:
        yield http


def test_a_new_table_and_function_are_found_without_a_word(fresh: httpx.Client, rows: Rows) -> None:
    assert fresh.get("/films?limit=1").status_code == 200
    rows("create table novelty (id int); grant select on novelty to anon")
    rows("create function novel() returns int language sql as 'select 7'")
    try:
        wait_for(lambda: fresh.get("/novelty").status_code == 200)
        wait_for(lambda: fresh.post("/rpc/novel").text == "7")
    finally:
        rows("drop table novelty; drop function novel()")


def test_a_notification_reloads_the_schema(fresh: httpx.Client, rows: Rows) -> None:
    """A dropped foreign key is noticed only this way: nothing is missed, the embed would go on."""
    embed = "/films?select=directors(id)&limit=1"
    assert fresh.get(embed).status_code == 200
    rows("alter table films drop constraint films_director_id_fkey")
    try:
        rows("notify pgrst, 'reload schema'")
        wait_for(lambda: fresh.get(embed).status_code == 400)
    finally:
        key = "constraint films_director_id_fkey foreign key (director_id) references directors"
        rows(f"alter table films add {key}")
        rows("notify pgrst, 'reload schema'")
    wait_for(lambda: fresh.get(embed).status_code == 200)


def test_broken_connections_are_replaced_unnoticed(fresh: httpx.Client, rows: Rows) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: fresh.get("/films"), range(16)))
    for _ in range(2):
        rows("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'rest'")

        assert [fresh.get("/films").status_code for _ in range(10)] == [200] * 10


def test_a_database_that_is_away_is_a_503_until_it_is_back(
    fresh: httpx.Client, rest_database: str, rows: Rows
) -> None:
    assert fresh.get("/films").status_code == 200
    parts = conninfo_to_dict(rest_database)
    with psycopg.connect(rest_database, dbname="postgres", autocommit=True) as admin:
        admin.execute(f"alter database {parts['dbname']} allow_connections false")
        admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'rest'"
        )
        started = time.monotonic()
        away = fresh.get("/films")
        took = time.monotonic() - started
        admin.execute(f"alter database {parts['dbname']} allow_connections true")
    back = fresh.get("/films")

    assert (away.status_code, away.json()["code"]) == (503, "PGRST000")
    assert "retry-after" in away.headers
    assert took < 5
    assert back.status_code == 200


def test_no_database_at_all_is_a_503(serve: Serve, rest_database: str) -> None:
    nowhere = psycopg.conninfo.make_conninfo(rest_database, host="127.0.0.1", port=1)
    with client(serve(create_app(nowhere, authenticate))) as http:
        response = http.get("/films")

    assert (response.status_code, response.json()["code"]) == (503, "PGRST000")


def test_a_statement_cut_off_is_a_503_and_harms_no_other(fresh: httpx.Client, rows: Rows) -> None:
    rows("create function nap() returns text volatile language sql as $$ select pg_sleep(20)::text $$")
    try:
        wait_for(lambda: fresh.options("/rpc/nap").status_code == 200)
        answers: list[httpx.Response] = []
        napping = threading.Thread(target=lambda: answers.append(fresh.post("/rpc/nap", json={})))
        napping.start()
        asleep = (
            "select pid from pg_stat_activity where position('nap' in query) > 0 and wait_event = 'PgSleep'"
        )
        wait_for(lambda: bool(rows(asleep)))
        rows(f"select pg_terminate_backend(pid) from ({asleep}) each")
        napping.join(10)

        assert (answers[0].status_code, answers[0].json()["code"]) == (503, "57P01")
        assert fresh.get("/films").status_code == 200
    finally:
        rows("drop function nap()")


def test_many_callers_at_once_get_their_own_answers(fresh: httpx.Client) -> None:
    with ThreadPoolExecutor(24) as threads:
        answers = threads.map(lambda n: fresh.get(f"/rpc/add?a={n}&b=0").json(), range(300))

    assert list(answers) == list(range(300))
