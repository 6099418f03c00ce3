"""REST and bad intentions: no text of a request becomes SQL, and none of it becomes a 500."""

from urllib.parse import quote

import httpx
import pytest
from conformance.callers import Rows, token
from hypothesis import given, settings
from hypothesis import strategies as st

ATTACKS = [
    'id"; drop table films; --',
    "id'; drop table films; --",
    "id) from films; drop table films; --",
    'id" from secrets --',
    "(select secret_part from secrets)",
    "pg_sleep(9)",
    "$1",
    "%s",
    "%25s%(x)s",
    "{}",
    "\\",
    "''",
    '""',
    'a"b',
    "1;select pg_sleep(9)",
    "/**/or/**/1=1",
    "::text",
    "é\u0301\U0001f600",
    "\u202e",
    "x" * 3000,
]
PLACES = [
    "/films?select={}",
    '/films?select="{}"',
    "/films?select=a:{}",
    "/films?select={}:id",
    "/films?select=facts->{}",
    '/films?select=facts->>"{}"',
    "/films?select=id::{}",
    "/films?select={}(id)",
    "/films?select=directors!{}(id)",
    '/films?select="{}":directors(id)',
    "/films?select=...directors(x:{})",
    "/films?{}=eq.1",
    '/films?"{}"=eq.1',
    "/films?id={}.1",
    "/films?id=eq({}).1",
    "/films?title=eq.{}",
    "/films?title=in.({})",
    '/films?title=in.("{}")',
    "/films?title=like(any).{}",
    "/films?tags=cs.{}",
    "/films?title=fts({}).x",
    "/films?title=fts.{}",
    "/films?id=is.{}",
    "/films?facts->>{}=eq.x",
    "/films?or=({}.eq.1)",
    "/films?or=(title.eq.{})",
    "/films?and=(or({}))",
    "/films?{}.or=(id.eq.1)",
    "/films?order={}",
    '/films?order="{}".desc',
    "/films?order=id.{}",
    "/films?order=directors({})",
    "/films?limit={}",
    "/films?offset={}",
    "/{}",
    "/rpc/{}",
    "/rpc/add?{}=1",
    "/rpc/add?a={}",
    "/rpc/films_before?year=1990&{}=eq.1",
]


def in_quotes(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def stayed_text(response: httpx.Response) -> bool:
    """Postgres never met a piece of it as SQL, and nothing secret came out."""
    signs = ("syntax error at or near", "unterminated", "hidden", "PGRSTX00")
    return not any(sign in response.text for sign in signs)


@pytest.mark.parametrize("place", PLACES)
def test_text_in_any_place_of_a_url_stays_text(anon: httpx.Client, rows: Rows, place: str) -> None:
    before, _, after = place.partition("{}")
    for attack in ATTACKS:
        text = in_quotes(attack) if before.endswith('"') else attack
        response = anon.get(f"{before}{quote(text)}{after}")

        assert response.status_code in (200, 300, 400, 404, 406, 416), (attack, response.text)
        assert stayed_text(response), (attack, response.text)
    assert rows("select count(*) from films") == [(4,)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_in_any_place_of_a_write_stays_text(user: httpx.Client, things: Rows, attack: str) -> None:
    quoted = f'"{in_quotes(attack)}"'
    responses = [
        user.post("/things", json={"name": "x", attack: 1}),
        user.post("/things", params={"columns": quoted}, json={"name": "x"}),
        user.post(
            "/things",
            params={"on_conflict": quoted},
            json={"name": "x"},
            headers={"Prefer": "resolution=merge-duplicates"},
        ),
        user.patch("/things", params={quoted: "eq.1"}, json={"score": 1}),
        user.delete("/things", params={quoted: "eq.1"}),
        user.delete("/things", params={"id": f"eq.{attack}"}),
        user.put("/pairs", params={quoted: "eq.1", "b": "eq.1"}, json={"a": 1, "b": 1}),
        user.post("/rpc/add", json={attack: 1}),
        user.post("/things", content=f"{attack},name\n1,2\n", headers={"Content-Type": "text/csv"}),
        user.get(
            "/things",
            headers={
                b"Prefer": f"timezone={attack}".encode(),
                b"Range": attack.encode(),
                b"Accept": attack.encode(),
            },
        ),
    ]
    stored = user.post(
        "/things?select=name", json={"name": attack}, headers={"Prefer": "return=representation"}
    )

    assert {response.status_code for response in responses} <= {400, 404, 405, 406}, [
        each.text for each in responses
    ]
    assert all(map(stayed_text, responses))
    assert stored.json() == [{"name": attack}]
    assert things("select count(*) from things") == [(4,)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_role_is_never_sql(rest_url: str, attack: str) -> None:
    with httpx.Client(base_url=rest_url) as http:
        response = http.get("/films", headers={"Authorization": f"Bearer {token(attack)}"})

    assert response.status_code in (400, 401, 403)


@pytest.mark.parametrize(
    "raw",
    [
        b"/films?title=eq.%00",
        b"/films?%00=eq.1",
        b"/films?select=facts->>%00",
        b"/rpc/length_of?%00=1",
        b"/films?title=eq.%ff",
        b"/films?%c3%28=eq.1",
        b"/films?title=eq.%ed%a0%80",
        b"/films?title=in.(%00)",
    ],
)
def test_nul_and_broken_utf8_in_a_url_are_a_400(anon: httpx.Client, raw: bytes) -> None:
    url = anon.base_url.copy_with(raw_path=raw)
    response = anon.get(url)

    assert (response.status_code, response.json()["code"]) == (400, "22021")


@pytest.mark.parametrize(
    "raw",
    [b"/%00", b"/%ff", b"/films%00", b"/rpc/%00", b"//", b"/%2e%2e/films", b"/films?%", b"/films?%zz=eq.1"],
)
def test_odd_paths_are_an_ordinary_refusal(anon: httpx.Client, raw: bytes) -> None:
    response = anon.get(anon.base_url.copy_with(raw_path=raw))

    assert response.status_code in (400, 404), response.text


@pytest.mark.parametrize(
    "content",
    [
        b'{"name": "a\\u0000b"}',
        b'{"name": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"\\u0000": 1}',
        b'{"name": "\xff"}',
        b'{"name": "a\x00b"}',
        b"\xff\xfe",
        b'{"name": "x", "extra": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"name": "x", "score": 1e999}',
        b'{"name": "x", "score": 99999999999999999999}',
    ],
)
@pytest.mark.parametrize("query", ["", "?columns=name,extra"])
def test_broken_text_in_a_body_is_a_400(user: httpx.Client, things: Rows, content: bytes, query: str) -> None:
    response = user.post(f"/things{query}", content=content, headers={"Content-Type": "application/json"})
    called = user.post(f"/rpc/touch{query}", content=content, headers={"Content-Type": "application/json"})

    assert response.status_code in (400, 201), response.text
    assert called.status_code in (400, 404), called.text


@pytest.mark.parametrize(
    "path",
    [
        "/films?or=" + "(or" * 3000 + "(id.eq.1)" + ")" * 3000,
        "/directors?select=" + "films(directors(" * 300 + "id" + "))" * 300,
        "/films?select=" + ",".join(f"a{n}:directors(id)" for n in range(500)),
        "/films?select=facts" + "->a" * 3000,
    ],
)
def test_deep_and_wide_requests_are_refused_or_answered(anon: httpx.Client, path: str) -> None:
    assert anon.get(path).status_code in (200, 400)


def test_a_long_list_is_one_value(anon: httpx.Client) -> None:
    numbers = ",".join(map(str, range(8000)))

    assert len(anon.get(f"/films?id=in.({numbers})").json()) == 4


def test_a_body_over_the_limit_is_413(user: httpx.Client) -> None:
    response = user.post("/things", content=b" " * (10 * 1024 * 1024 + 1))

    assert response.status_code == 413


NAMES = st.sampled_from(
    ["id", "title", "facts", "directors", "roles", "select", "or", "and", "order", "limit", "not"]
)
PUNCTUATION = st.sampled_from(
    [*'.,():!*"\\{}%-> $&', "->", "->>", "::", "...", "eq.", "in.(", "not.", "is.null", "\u00e9"]
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(NAMES | PUNCTUATION, max_size=12), st.lists(NAMES | PUNCTUATION, max_size=12))
def test_no_query_is_a_server_error(anon: httpx.Client, key: list[str], content: list[str]) -> None:
    response = anon.get("/films", params={"".join(key): "".join(content), "select": "id," + "".join(content)})

    assert response.status_code < 500, response.text
