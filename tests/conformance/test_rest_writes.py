"""REST writes: what a POST, PATCH, PUT or DELETE leaves behind, and what it answers."""

from typing import Any

import httpx
import pytest
from conformance.callers import Rows
from postgrest import SyncPostgrestClient
from postgrest.exceptions import APIError

SHOW = {"Prefer": "return=representation"}


def names(things: Rows) -> list[str]:
    return [name for (name,) in things("select name from things order by id")]


def test_an_insert_answers_201_and_nothing_else(user: httpx.Client, things: Rows) -> None:
    response = user.post("/things", json={"name": "sofa"})

    assert (response.status_code, response.text) == (201, "")
    assert response.headers["content-range"] == "*/*"
    assert names(things)[-1] == "sofa"


def test_an_insert_shows_its_row_on_request(user: httpx.Client, things: Rows) -> None:
    response = user.post("/things?select=id,name,kind", json={"name": "sofa"}, headers=SHOW)

    assert response.status_code == 201
    assert response.json() == [{"id": 4, "name": "sofa", "kind": "plain"}]
    assert response.headers["preference-applied"] == "return=representation"


def test_headers_only_gives_the_new_rows_address(user: httpx.Client, things: Rows) -> None:
    one = user.post("/pairs", json={"a": 1, "b": 2}, headers={"Prefer": "return=headers-only"})
    two = user.post(
        "/pairs", json=[{"a": 2, "b": 2}, {"a": 3, "b": 2}], headers={"Prefer": "return=headers-only"}
    )

    assert (one.status_code, one.headers["location"], one.text) == (201, "/pairs?a=eq.1&b=eq.2", "")
    assert "location" not in two.headers


def test_an_insert_can_embed_what_it_points_to(user: httpx.Client, things: Rows) -> None:
    part = {"id": 9, "thing_id": 2, "name": "leg"}
    response = user.post("/parts?select=name,things(name)", json=part, headers=SHOW)

    assert response.json() == [{"name": "leg", "things": {"name": "chair"}}]


@pytest.mark.parametrize(
    ("query", "prefer", "body", "kinds"),
    [
        ("", "", [{"name": "a", "kind": "x"}, {"name": "b", "kind": "y"}], ["x", "y"]),
        ("?columns=name", "", [{"name": "a", "kind": "x"}], ["plain"]),
        ('?columns="name","kind"', "", [{"name": "a", "kind": "x"}, {"name": "b"}], ["x", None]),
        (
            "?columns=name,kind",
            "missing=default",
            [{"name": "a", "kind": "x"}, {"name": "b"}],
            ["x", "plain"],
        ),
        ("?columns=name,kind", "missing=default", {"name": "a"}, ["plain"]),
        ("", "", [], []),
    ],
)
def test_several_rows_go_in_at_once(
    user: httpx.Client, things: Rows, query: str, prefer: str, body: Any, kinds: list[str | None]
) -> None:
    response = user.post(f"/things{query}", json=body, headers={"Prefer": f"return=representation,{prefer}"})

    assert response.status_code == 201, response.text
    assert [row["kind"] for row in response.json()] == kinds


def test_an_empty_object_inserts_the_defaults(user: httpx.Client, things: Rows) -> None:
    refused = user.post("/things", json={})
    taken = user.post("/pairs", json={}, headers=SHOW)

    assert (refused.status_code, refused.json()["code"]) == (400, "23502")
    assert (taken.status_code, taken.json()["code"]) == (400, "23502")


def test_csv_rows_are_inserted(user: httpx.Client, things: Rows) -> None:
    text = 'name,kind,score\nsofa,"a, ""b""",7\nrug,NULL,8\n'
    headers = SHOW | {"Content-Type": "text/csv"}
    response = user.post("/things?select=name,kind,score", content=text, headers=headers)

    assert response.json() == [
        {"name": "sofa", "kind": 'a, "b"', "score": 7},
        {"name": "rug", "kind": None, "score": 8},
    ]


def test_a_form_is_one_row(user: httpx.Client, things: Rows) -> None:
    response = user.post("/things?select=name,score", data={"name": "söfa & co", "score": "5"}, headers=SHOW)

    assert response.json() == [{"name": "söfa & co", "score": 5}]


def test_json_enums_and_nulls_keep_their_types(user: httpx.Client, things: Rows) -> None:
    thing = {"name": "x", "extra": {"a": [1, None, "é"]}, "mood": "wild", "kind": None}
    response = user.post("/things?select=name,extra,mood,kind", json=thing, headers=SHOW)

    assert response.json() == [thing]


def test_merging_upsert_updates_what_is_there(user: httpx.Client, things: Rows) -> None:
    prefer = {"Prefer": "resolution=merge-duplicates,return=representation"}
    by_key = user.post(
        "/pairs", json=[{"a": 1, "b": 1, "value": "new"}, {"a": 1, "b": 2, "value": "two"}], headers=prefer
    )
    only_merged = user.post("/pairs", json={"a": 1, "b": 1, "value": "again"}, headers=prefer)
    by_name = user.post(
        "/things?on_conflict=name&select=id,score", json={"name": "lamp", "score": 9}, headers=prefer
    )

    assert (by_key.status_code, only_merged.status_code, by_name.status_code) == (201, 200, 200)
    assert by_key.headers["preference-applied"] == "resolution=merge-duplicates, return=representation"
    assert by_name.json() == [{"id": 1, "score": 9}]
    assert things("select value from pairs order by b") == [("again",), ("two",)]


def test_ignoring_upsert_leaves_what_is_there(user: httpx.Client, things: Rows) -> None:
    prefer = {"Prefer": "resolution=ignore-duplicates,return=representation"}
    response = user.post(
        "/pairs", json=[{"a": 1, "b": 1, "value": "new"}, {"a": 7, "b": 7, "value": "x"}], headers=prefer
    )

    assert response.status_code == 201
    assert response.json() == [{"a": 7, "b": 7, "value": "x"}]
    assert things("select value from pairs order by a") == [("one",), ("x",)]


def test_an_update_changes_the_rows_it_names(user: httpx.Client, things: Rows) -> None:
    silent = user.patch("/things?id=eq.1", json={"score": 10})
    shown = user.patch("/things?score=gt.1&select=id,kind&order=id.desc", json={"kind": "big"}, headers=SHOW)
    none = user.patch("/things?id=eq.99", json={"score": 10}, headers={"Prefer": "count=exact"})

    assert (silent.status_code, silent.text) == (204, "")
    assert silent.headers["content-range"] == "0-0/*"
    assert shown.json() == [{"id": 3, "kind": "big"}, {"id": 2, "kind": "big"}, {"id": 1, "kind": "big"}]
    assert (none.status_code, none.headers["content-range"]) == (204, "*/0")


def test_an_update_with_nothing_to_set_changes_nothing(user: httpx.Client, things: Rows) -> None:
    response = user.patch("/things?id=eq.1", json={}, headers=SHOW)

    assert (response.status_code, response.json()) == (200, [])


def test_an_update_may_set_missing_columns_to_their_default(user: httpx.Client, things: Rows) -> None:
    things("update things set kind = 'odd'")
    prefer = {"Prefer": "missing=default"}

    assert user.patch("/things?id=eq.1&columns=kind", json={}, headers=prefer).status_code == 204
    assert things("select kind from things where id = 1") == [("plain",)]


def test_a_delete_removes_the_rows_it_names(user: httpx.Client, things: Rows) -> None:
    silent = user.delete("/things?id=eq.2", headers={"Prefer": "count=exact"})
    shown = user.delete("/things?or=(name.eq.table,id.eq.99)&select=name", headers=SHOW)

    assert (silent.status_code, silent.headers["content-range"]) == (204, "*/1")
    assert (shown.status_code, shown.json()) == (200, [{"name": "table"}])
    assert names(things) == ["lamp"]


def test_put_creates_or_replaces_the_row_of_its_url(user: httpx.Client, things: Rows) -> None:
    created = user.put("/pairs?a=eq.5&b=eq.5", json={"a": 5, "b": 5, "value": "five"}, headers=SHOW)
    replaced = user.put("/pairs?a=eq.5&b=eq.5", json=[{"a": 5, "b": 5, "value": "V"}], headers=SHOW)
    silent = user.put("/pairs?a=eq.5&b=eq.5", json={"a": 5, "b": 5, "value": "v"})

    assert (created.status_code, created.json()) == (201, [{"a": 5, "b": 5, "value": "five"}])
    assert (replaced.status_code, replaced.json()) == (200, [{"a": 5, "b": 5, "value": "V"}])
    assert silent.status_code == 204
    assert things("select value from pairs where a = 5") == [("v",)]


@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("a=eq.5", {"a": 5, "b": 5}, 405, "PGRST105"),
        ("a=eq.5&b=gt.5", {"a": 5, "b": 5}, 405, "PGRST105"),
        ("a=eq.5&b=eq.5&limit=1", {"a": 5, "b": 5}, 400, "PGRST114"),
        ("a=eq.5&b=eq.5", {"a": 5, "b": 6}, 400, "PGRST115"),
        ("a=eq.5&b=eq.5", {"value": "x"}, 400, "PGRST115"),
    ],
)
def test_put_takes_exactly_the_primary_key(
    user: httpx.Client, things: Rows, query: str, body: dict[str, Any], status: int, code: str
) -> None:
    response = user.put(f"/pairs?{query}", json=body)

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert things("select count(*) from pairs") == [(1,)]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/things", {"name": "lamp"}, 409, "23505"),
        ("POST", "/parts", {"id": 9, "thing_id": 99}, 409, "23503"),
        ("DELETE", "/things?id=eq.1", None, 409, "23503"),
        ("POST", "/things", {"name": None}, 400, "23502"),
        ("POST", "/things", {"name": "x", "score": 0}, 400, "23514"),
        ("POST", "/things", {"name": "x", "score": "many"}, 400, "22P02"),
        ("POST", "/things", {"name": "x", "mood": "sad"}, 400, "22P02"),
        ("POST", "/parts", {"id": 9, "name": "far too long a name"}, 400, "22001"),
        ("POST", "/things", {"nope": 1}, 400, "PGRST204"),
        ("POST", "/things?columns=nope", {"name": "x"}, 400, "PGRST204"),
        ("PATCH", "/things?id=eq.1", {"nope": 1}, 400, "PGRST204"),
        ("POST", "/things", [{"name": "x"}, {"name": "y", "score": 1}], 400, "PGRST102"),
        ("POST", "/things", [{"name": "x"}, 1], 400, "PGRST102"),
        ("PATCH", "/things", {"score": 1}, 400, "21000"),
        ("DELETE", "/things", None, 400, "21000"),
        ("PATCH", "/things?id=eq.1&limit=1", {"score": 1}, 501, "PGRST127"),
        ("DELETE", "/things?id=eq.1&limit=1", None, 501, "PGRST127"),
        ("POST", "/things?on_conflict=score", {"name": "x"}, 201, None),
        ("POST", "/nowhere", {"name": "x"}, 404, "PGRST205"),
        ("TRACE", "/things", None, 405, "PGRST117"),
    ],
)
def test_a_wrong_write_says_what_is_wrong(
    user: httpx.Client, things: Rows, method: str, path: str, body: Any, status: int, code: str | None
) -> None:
    before = names(things)
    response = user.request(method, path, json=body)

    assert (response.status_code, response.json()["code"] if response.text else None) == (status, code)
    if status != 201:
        assert names(things) == before


@pytest.mark.parametrize(
    ("content_type", "content", "message"),
    [
        ("application/json", b"", "Empty or invalid json"),
        ("application/json", b"{", "Empty or invalid json"),
        ("application/json", b'{"name": NaN}', "Empty or invalid json"),
        ("application/json", b"[" * 200000, "Empty or invalid json"),
        ("text/csv", b"name,kind\nx\n", "All lines must have same number of fields"),
        ("application/xml", b"<a/>", "Content-Type not acceptable: application/xml"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    user: httpx.Client, content_type: str, content: bytes, message: str
) -> None:
    response = user.post("/things", content=content, headers={"Content-Type": content_type})

    assert (response.status_code, response.json()["code"], response.json()["message"]) == (
        400,
        "PGRST102",
        message,
    )


def test_a_singular_answer_that_is_not_one_row_is_rolled_back(user: httpx.Client, things: Rows) -> None:
    headers = SHOW | {"Accept": "application/vnd.pgrst.object+json"}
    several = user.patch("/things?id=gt.0", json={"kind": "changed"}, headers=headers)
    none = user.delete("/things?id=eq.99", headers=headers)
    one = user.post("/things?select=name", json={"name": "solo"}, headers=headers)

    assert (several.status_code, several.json()["code"]) == (406, "PGRST116")
    assert (none.status_code, none.json()["details"]) == (406, "The result contains 0 rows")
    assert (one.status_code, one.json()) == (201, {"name": "solo"})
    assert things("select count(*) from things where kind = 'changed'") == [(0,)]


def test_max_affected_holds_a_write_back(user: httpx.Client, things: Rows) -> None:
    strict = {"Prefer": "handling=strict, max-affected=2"}
    lenient = {"Prefer": "max-affected=2"}
    refused = user.patch("/things?id=gt.0", json={"kind": "x"}, headers=strict)
    allowed = user.patch("/things?id=gt.1", json={"kind": "x"}, headers=strict)

    assert (refused.status_code, refused.json()["code"]) == (400, "PGRST124")
    assert refused.json()["details"] == "The query affects 3 rows"
    assert allowed.headers["preference-applied"] == "handling=strict, max-affected=2"
    assert user.patch("/things?id=gt.0", json={"kind": "y"}, headers=lenient).status_code == 204


def test_unknown_preferences_are_an_error_only_when_strict(user: httpx.Client, things: Rows) -> None:
    strict = user.get("/things", headers={"Prefer": "handling=strict, sparkle=yes, timezone=Mars/Base"})
    lenient = user.get("/things", headers={"Prefer": "handling=lenient, sparkle=yes"})

    assert (strict.status_code, strict.json()["code"]) == (400, "PGRST122")
    assert strict.json()["details"] == "Invalid preferences: sparkle=yes, timezone=Mars/Base"
    assert (lenient.status_code, lenient.headers["preference-applied"]) == (200, "handling=lenient")


def test_a_transaction_can_be_rolled_back_on_request(user: httpx.Client, things: Rows) -> None:
    prefer = {"Prefer": "tx=rollback, return=representation"}
    response = user.post("/things?select=name", json={"name": "ghost"}, headers=prefer)

    assert (response.status_code, response.json()) == (201, [{"name": "ghost"}])
    assert response.headers["preference-applied"] == "return=representation, tx=rollback"
    assert "ghost" not in names(things)


def test_the_first_of_two_equal_preferences_counts(user: httpx.Client, things: Rows) -> None:
    headers = [("Prefer", "return=minimal"), ("Prefer", "return=representation")]

    assert user.post("/things", json={"name": "x"}, headers=headers).text == ""


def test_times_come_in_the_preferred_zone(user: httpx.Client, things: Rows) -> None:
    response = user.get("/things?select=made_at&limit=1", headers={"Prefer": "timezone=Australia/Sydney"})

    assert response.json() == [{"made_at": "2026-01-01T11:00:00+11:00"}]
    assert response.headers["preference-applied"] == "timezone=Australia/Sydney"


def test_an_updatable_view_is_written_through(service: httpx.Client, things: Rows) -> None:
    response = service.patch("/calm_things?id=eq.1", json={"name": "lantern"}, headers=SHOW)

    assert response.json() == [{"id": 1, "name": "lantern"}]
    assert names(things)[0] == "lantern"


def test_the_client_inserts_upserts_updates_and_deletes(postgrest: SyncPostgrestClient, things: Rows) -> None:
    table = postgrest.from_("things")
    both: list[dict[str, object]] = [{"name": "a", "score": 1}, {"name": "b"}]
    made = table.insert(both, default_to_null=False).execute()
    merged = postgrest.from_("things").upsert({"name": "a", "score": 5}, on_conflict="name").execute()
    changed = postgrest.from_("things").update({"kind": "new"}).in_("name", ["a", "b"]).execute()
    gone = postgrest.from_("things").delete().eq("name", "b").execute()

    assert column("score", made.data) == [1, None]
    assert column("score", merged.data) == [5]
    assert column("kind", changed.data) == ["new", "new"]
    assert column("name", gone.data) == ["b"]
    with pytest.raises(APIError) as refused:
        postgrest.from_("things").insert({"name": "a"}).execute()
    assert refused.value.code == "23505"


def column(name: str, rows: Any) -> list[Any]:
    return [row[name] for row in rows]


def test_an_answer_is_only_sent_once_the_write_is_committed(user: httpx.Client, things: Rows) -> None:
    things("alter table parts alter constraint parts_thing_id_fkey deferrable initially deferred")
    response = user.post("/parts", json={"id": 9, "thing_id": 99})

    assert (response.status_code, response.json()["code"]) == (409, "23503")
    assert things("select count(*) from parts where id = 9") == [(0,)]
    things("alter table parts alter constraint parts_thing_id_fkey not deferrable")
