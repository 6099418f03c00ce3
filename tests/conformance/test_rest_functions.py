"""REST functions: how /rpc calls one, and what its result looks like."""

import json
from typing import Any

import httpx
import pytest
from conformance.callers import Rows
from postgrest import SyncPostgrestClient

ONE = {"Accept": "application/vnd.pgrst.object+json"}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/rpc/add", {"a": 1, "b": 2}, 3),
        ("/rpc/add", {"a": "1"}, 11),
        ("/rpc/numbers", {"up_to": 3}, [1, 2, 3]),
        ("/rpc/numbers", {"up_to": 0}, []),
        ("/rpc/listed?limit=1", {}, [{"title": "Cléo", "year": 1962}]),
        ("/rpc/listed?select=title&year=gt.1980", {}, [{"title": "Ran"}]),
        ("/rpc/listed?order=year.desc.nullslast&select=y:year&limit=1&offset=1", None, [{"y": 1962}]),
        ("/rpc/film?select=id,title", {"id": 1}, {"id": 1, "title": "Cléo"}),
        (
            "/rpc/film?select=title,directors(name)",
            {"id": 1},
            {"title": "Cléo", "directors": {"name": "Agnès Varda"}},
        ),
        ("/rpc/counted", {}, {"total": 4, "newest": 1985}),
        (
            "/rpc/films_before?select=title,roles(part)&title=like.I*",
            {"year": 1990},
            [{"title": "Ikiru", "roles": [{"part": "Watanabe"}]}],
        ),
        ("/rpc/join_all", {"parts": ["a", "b"]}, "a-b"),
        ("/rpc/keys", {"one": 1, "two": 2}, 2),
        ("/rpc/over", {"a": 1}, "a"),
        ("/rpc/over", {"b": "x"}, "b"),
        ("/rpc/add?columns=a", {"a": 1, "b": 2}, 11),
    ],
)
def test_a_call_by_post_answers_its_result(anon: httpx.Client, path: str, body: Any, expected: Any) -> None:
    response = anon.post(path, json=body) if body is not None else anon.post(path)

    assert (response.status_code, response.json()) == (200, expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/rpc/add?a=1&b=2", 3),
        ("/rpc/add?a=1", 11),
        ("/rpc/numbers?up_to=2", [1, 2]),
        ("/rpc/films_before?year=1960&select=title", [{"title": "Ikiru"}]),
        ("/rpc/films_before?year=1990&id=gt.1&select=title&order=id.desc&limit=1", [{"title": "Ran"}]),
        ("/rpc/join_all?parts=a&parts=b,c", "a-b,c"),
        ("/rpc/over?b=eq.1", "b"),
    ],
)
def test_a_call_by_get_takes_its_arguments_from_the_query(
    anon: httpx.Client, path: str, expected: Any
) -> None:
    response = anon.get(path)

    assert (response.status_code, response.json()) == (200, expected)


def test_a_void_function_answers_204(anon: httpx.Client) -> None:
    response = anon.post("/rpc/nothing", json={})

    assert (response.status_code, response.text) == (204, "")


def test_bodies_that_are_no_json_go_to_one_unnamed_argument(anon: httpx.Client) -> None:
    text = anon.post("/rpc/length_of", content="hällo", headers={"Content-Type": "text/plain"})
    octets = anon.post(
        "/rpc/bytes_of", content=b"\x00\xff", headers={"Content-Type": "application/octet-stream"}
    )
    form = anon.post("/rpc/add", data={"a": "1", "b": "4"})

    assert (text.json(), octets.json(), form.json()) == (5, 2, 5)


def test_a_set_can_be_counted_paged_and_looked_up_by_head(anon: httpx.Client) -> None:
    exact = {"Prefer": "count=exact"}
    page = anon.get("/rpc/numbers?up_to=5&limit=2&offset=1", headers=exact)
    head = anon.head("/rpc/numbers?up_to=5", headers=exact)

    assert (page.status_code, page.json(), page.headers["content-range"]) == (206, [2, 3], "1-2/5")
    assert (head.text, head.headers["content-range"]) == ("", "0-4/5")


def test_a_single_object_is_exactly_one_row(anon: httpx.Client) -> None:
    one = anon.post("/rpc/films_before?select=id&id=eq.2", json={"year": 1990}, headers=ONE)
    many = anon.post("/rpc/listed", json={}, headers=ONE)

    assert one.json() == {"id": 2}
    assert (many.status_code, many.json()["code"]) == (406, "PGRST116")


def test_a_set_comes_as_csv(anon: httpx.Client) -> None:
    response = anon.get("/rpc/listed?limit=1", headers={"Accept": "text/csv"})

    assert response.text == "title,year\nCléo,1962"


def test_reading_calls_cannot_write(user: httpx.Client, things: Rows) -> None:
    by_get = user.get("/rpc/touch?name=x")
    stable = user.post("/rpc/sneaky", json={"name": "x"})
    view = user.get("/touched")
    allowed = user.post("/rpc/touch", json={"name": "x"})

    assert (by_get.status_code, by_get.json()["code"]) == (405, "25006")
    assert (stable.status_code, stable.json()["code"]) == (405, "25006")
    assert (view.status_code, view.json()["code"]) == (405, "25006")
    assert (allowed.status_code, allowed.json()) == (200, 4)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/rpc/nope", {}, 404, "PGRST202"),
        ("/rpc/add", {}, 404, "PGRST202"),
        ("/rpc/add", {"a": 1, "c": 2}, 404, "PGRST202"),
        ("/rpc/twice", {"n": 1}, 300, "PGRST203"),
        ("/rpc/add", {"a": "one"}, 400, "22P02"),
        ("/rpc/listed?select=nope", {}, 400, "42703"),
        ("/rpc", {}, 404, "PGRST125"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    anon: httpx.Client, path: str, body: Any, status: int, code: str
) -> None:
    response = anon.post(path, json=body)

    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_missing_function_is_described(anon: httpx.Client) -> None:
    error = anon.post("/rpc/add", json={"x": 1, "a": 2}).json()

    assert error["message"] == "Could not find the function public.add(a, x) in the schema cache"
    assert error["details"].startswith("Searched for the function public.add with parameters a, x or with")
    assert error["hint"] == "Perhaps you meant to call the function public.add(a, b)"


def test_other_methods_are_refused(anon: httpx.Client) -> None:
    response = anon.patch("/rpc/add", json={})

    assert (response.status_code, response.json()["code"]) == (405, "PGRST101")


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("P0001", 400),
        ("P0002", 500),
        ("PT402", 402),
        ("PT999", 500),
        ("PTABC", 500),
        ("22023", 400),
        ("23505", 409),
        ("23514", 400),
        ("25006", 405),
        ("28000", 403),
        ("40001", 500),
        ("42501", 401),
        ("42883", 404),
        ("42P01", 404),
        ("42P17", 500),
        ("53400", 500),
        ("53300", 503),
        ("55P03", 500),
        ("57014", 500),
        ("XX000", 500),
        ("21000", 500),
        ("ABCDE", 400),
    ],
)
def test_an_sqlstate_has_its_status(anon: httpx.Client, state: str, status: int) -> None:
    response = anon.post("/rpc/fail", json={"state": state, "said": "why", "detail": "d", "hint": "h"})

    assert response.status_code == status
    assert response.json() == {"code": state, "message": "why", "details": "d", "hint": "h"}


def test_a_function_can_write_the_whole_error(anon: httpx.Client) -> None:
    said = {"code": "tea", "message": "I am a teapot", "hint": "coffee?"}
    detail = {"status": 418, "headers": {"X-Kettle": "on"}}
    response = anon.post(
        "/rpc/fail", json={"state": "PGRST", "said": json.dumps(said), "detail": json.dumps(detail)}
    )

    assert (response.status_code, response.headers["x-kettle"]) == (418, "on")
    assert response.json() == said | {"details": None}


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ("no json", "{}"),
        ('{"code": "1"}', "{}"),
        ('{"code": "1", "message": "m"}', ""),
        ('{"code": "1", "message": "m"}', '{"status": 42, "headers": {}}'),
        ('{"code": "1", "message": "m"}', '{"status": 400, "headers": {"X-A": "1\\r\\nX-B: 2"}}'),
        ('{"code": "1", "message": "m"}', '{"status": 400, "headers": {"bad name": "1"}}'),
    ],
)
def test_a_badly_written_error_is_a_500(anon: httpx.Client, said: str, detail: str) -> None:
    response = anon.post("/rpc/fail", json={"state": "PGRST", "said": said, "detail": detail})

    assert (response.status_code, response.json()["code"]) == (500, "PGRST121")


def test_a_function_can_set_status_and_headers(anon: httpx.Client) -> None:
    headers = '[{"X-A": "1"}, {"X-B": "2"}, {"Content-Type": "text/tea"}]'
    response = anon.post("/rpc/teapot", json={"headers": headers, "status": "418"})

    assert (response.status_code, response.headers["x-a"], response.headers["x-b"]) == (418, "1", "2")
    assert response.headers["content-type"] == "text/tea"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ("nonsense", "200", "PGRST111"),
        ('{"X-A": "1"}', "200", "PGRST111"),
        ('[{"X-A": "1\\r\\nX-B: 2"}]', "200", "PGRST111"),
        ('[{"X-A": 1}]', "200", "PGRST111"),
        ("[]", "teapot", "PGRST112"),
        ("[]", "99", "PGRST112"),
    ],
)
def test_impossible_status_or_headers_are_a_500(
    anon: httpx.Client, headers: str, status: str, code: str
) -> None:
    response = anon.post("/rpc/teapot", json={"headers": headers, "status": status})

    assert (response.status_code, response.json()["code"]) == (500, code)


def test_a_functions_own_timeout_holds(anon: httpx.Client) -> None:
    response = anon.post("/rpc/slow", json={})

    assert (response.status_code, response.json()["code"]) == (500, "57014")


def test_the_client_calls_functions(postgrest: SyncPostgrestClient) -> None:
    # Its annotations know texts alone, and one way to write a count.
    rpc: Any = postgrest.rpc
    posted = rpc("films_before", {"year": 1990}).select("id").gt("id", 1).order("id").limit(1).execute()
    got = rpc("size_of", {"list": ["a", "b,c"]}, get=True).execute()
    counted = rpc("numbers", {"up_to": 3}, head=True, count="exact").execute()

    assert posted.data == [{"id": 2}]
    assert got.data == 2
    assert counted.count == 3
