"""REST and roles: the database decides, as the caller's own role."""

import json

import httpx
import pytest
from conformance.callers import USER, Rows, Serve, authenticate, client, token
from emulator.rest import create_app


def test_row_level_security_holds_in_reads_and_writes(user: httpx.Client, rows: Rows) -> None:
    seen = user.get("/drafts?select=id,text")
    theirs = user.patch(
        "/drafts?id=eq.2", json={"text": "stolen"}, headers={"Prefer": "return=representation"}
    )
    forged = user.post(
        "/drafts", json={"id": 3, "owner": "00000000-0000-4000-8000-000000000002", "text": "x"}
    )

    assert seen.json() == [{"id": 1, "text": "mine"}]
    assert (theirs.status_code, theirs.json()) == (200, [])
    assert (forged.status_code, forged.json()["code"]) == (403, "42501")
    assert rows("select text from drafts order by id") == [("mine",), ("theirs",)]


def test_a_missing_right_is_401_for_anon_and_403_for_people(anon: httpx.Client, user: httpx.Client) -> None:
    nobody = anon.get("/drafts")
    somebody = user.get("/secrets")

    assert (nobody.status_code, nobody.json()["code"]) == (401, "42501")
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert (somebody.status_code, somebody.json()["code"]) == (403, "42501")


def test_column_grants_are_respected(user: httpx.Client, service: httpx.Client) -> None:
    assert user.get("/secrets?select=id,public_part").json() == [{"id": 1, "public_part": "seen"}]
    assert user.get("/secrets?select=id&secret_part=eq.hidden").status_code == 403
    assert service.get("/secrets").json() == [{"id": 1, "public_part": "seen", "secret_part": "hidden"}]


def test_a_function_needs_its_grant(anon: httpx.Client) -> None:
    assert anon.post("/rpc/touch", json={"name": "x"}).status_code == 401


def test_a_recursive_policy_is_a_server_error(user: httpx.Client) -> None:
    response = user.get("/looping")

    assert (response.status_code, response.json()["code"]) == (500, "42P17")


@pytest.mark.parametrize(
    ("bearer", "status", "code"),
    [
        ("expired", 401, "PGRST303"),
        (token("ghost"), 401, "22023"),
        (token("pg_write_server_files"), 403, "42501"),
        (json.dumps({"role": ["anon"]}), 401, "PGRST303"),
    ],
)
def test_a_role_that_may_not_act_is_refused(rest_url: str, bearer: str, status: int, code: str) -> None:
    with client(rest_url, bearer) as http:
        response = http.get("/films")

    assert (response.status_code, response.json()["code"]) == (status, code)


def test_functions_see_the_request(rest_url: str) -> None:
    with client(rest_url, token("authenticated", sub=USER, extra={"a": "é"})) as http:
        seen = http.get("/rpc/seen", headers={"User-Agent": "tester", "Cookie": "c=1"}).json()

    assert seen["role"] == "authenticated"
    assert seen["claims"] == {"role": "authenticated", "sub": USER, "extra": {"a": "é"}}
    assert (seen["method"], seen["path"], seen["agent"]) == ("GET", "/rpc/seen", "tester")
    assert (seen["cookie"], seen["cookies"]) == (None, {"c": "1"})
    assert seen["search_path"] == '"public", "extensions"'


def test_nothing_of_one_request_is_left_for_the_next(rest_url: str, anon: httpx.Client) -> None:
    with client(rest_url, token("service_role", sub=USER)) as http:
        assert (
            http.get("/rpc/seen", headers={"Prefer": "timezone=Asia/Tokyo"}).json()["timezone"]
            == "Asia/Tokyo"
        )
    seen = anon.get("/rpc/seen").json()

    assert (seen["role"], seen["claims"]) == ("anon", {"role": "anon"})
    assert seen["timezone"] != "Asia/Tokyo"


def test_a_role_brings_its_own_settings(rest_url: str, rows: Rows, rest_database: str, serve: Serve) -> None:
    database = rows("select current_database()")[0][0]
    rows(f"alter role authenticated in database {database} set statement_timeout = '1234ms'")
    app = create_app(rest_database, authenticate)
    with client(serve(app), token("authenticated")) as http:
        assert http.get("/rpc/seen").json()["timeout"] == "1234ms"
    rows(f"alter role authenticated in database {database} reset statement_timeout")


def test_a_profile_chooses_the_schema(service: httpx.Client) -> None:
    read = service.get("/notes", headers={"Accept-Profile": "personal"})
    written = service.post(
        "/notes?select=text",
        json={"id": 2, "text": "x"},
        headers={"Content-Profile": "personal", "Prefer": "return=representation,tx=rollback"},
    )
    default = service.get("/notes")

    assert (read.json(), read.headers["content-profile"]) == ([{"id": 1, "text": "dear diary"}], "personal")
    assert (written.status_code, written.json()) == (201, [{"text": "x"}])
    assert default.status_code == 404


@pytest.mark.parametrize("schema", ["private", "pg_catalog", "nowhere", 'public"; drop table films; --'])
def test_only_exposed_schemas_can_be_named(anon: httpx.Client, schema: str) -> None:
    response = anon.get("/hidden", headers={"Accept-Profile": schema})

    assert (response.status_code, response.json()["code"]) == (406, "PGRST106")
    assert response.json()["hint"] == "Only the following schemas are exposed: public, personal"


def test_max_rows_caps_every_list(rest_database: str, serve: Serve) -> None:
    app = create_app(rest_database, authenticate, max_rows=2)
    with client(serve(app)) as http:
        table = http.get("/films?limit=4", headers={"Prefer": "count=exact"})
        function = http.get("/rpc/numbers?up_to=9")
        embedded = http.get("/directors?id=eq.2&select=films(id)&limit=1")
        estimated = http.get("/films?select=id", headers={"Prefer": "count=estimated"})

    assert (table.status_code, len(table.json()), table.headers["content-range"]) == (206, 2, "0-1/4")
    assert function.json() == [1, 2]
    assert len(embedded.json()[0]["films"]) == 2
    assert int(estimated.headers["content-range"].split("/")[1]) > 2


def test_plans_and_rollbacks_are_off_unless_enabled(rest_database: str, serve: Serve, things: Rows) -> None:
    app = create_app(rest_database, authenticate)
    with client(serve(app), token("authenticated")) as http:
        plan = http.get("/films", headers={"Accept": "application/vnd.pgrst.plan+json"})
        kept = http.post("/things", json={"name": "kept"}, headers={"Prefer": "tx=rollback"})

    assert (plan.status_code, plan.json()["code"]) == (406, "PGRST107")
    assert "preference-applied" not in kept.headers
    assert things("select count(*) from things where name = 'kept'") == [(1,)]
