"""REST reads: what a GET finds, in PostgREST's words."""

from typing import Any

import httpx
import pytest
from postgrest import CountMethod, SyncPostgrestClient
from postgrest.exceptions import APIError


def titles(response: httpx.Response) -> list[str]:
    assert response.status_code in (200, 206), response.text
    return [film["title"] for film in response.json()]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("id=eq.1", ["Cléo"]),
        ("id=neq.1", ["Ikiru", "Ran", "Untitled"]),
        ("id=gt.3", ["Untitled"]),
        ("id=gte.3", ["Ran", "Untitled"]),
        ("id=lt.2", ["Cléo"]),
        ("id=lte.1", ["Cléo"]),
        ("title=like.*i*", ["Ikiru", "Untitled"]),
        ("title=ilike.IK%25", ["Ikiru"]),
        ("title=match.^R", ["Ran"]),
        ("title=imatch.^r", ["Ran"]),
        ("title=like(any).{C*,R*}", ["Cléo", "Ran"]),
        ("title=ilike(all).{*R*,*U}", ["Ikiru"]),
        ("id=eq(any).{1,2}", ["Cléo", "Ikiru"]),
        ("id=in.(1,3)", ["Cléo", "Ran"]),
        ("id=in.()", []),
        ("id=not.in.(1,3)", ["Ikiru", "Untitled"]),
        ('title=in.("Ran","a \\"b\\", c")', ["Ran"]),
        ("year=is.null", ["Untitled"]),
        ("year=not.is.null", ["Cléo", "Ikiru", "Ran"]),
        ("year=is.not_null", ["Cléo", "Ikiru", "Ran"]),
        ("year=isdistinct.1962", ["Ikiru", "Ran", "Untitled"]),
        ("tags=cs.{paris}", ["Cléo"]),
        ('tags=cs.{"a,b"}', ["Ran"]),
        ('tags=cd.{war,"a,b",x}', ["Ran", "Untitled"]),
        ("tags=ov.{war,tokyo}", ["Ikiru", "Ran"]),
        ('facts=cs.{"place":{"city":"Paris"}}', ["Cléo"]),
        ("shown=sl.[1960-01-01,1961-01-01)", ["Ikiru"]),
        ("shown=sr.[1960-01-01,1961-01-01)", ["Cléo"]),
        ("shown=nxr.[1950-01-01,1953-01-01)", ["Ikiru"]),
        ("shown=nxl.[1960-01-01,1961-01-01)", ["Cléo"]),
        ("shown=adj.[1962-05-11,1963-01-01)", ["Cléo"]),
        ("title=fts.ran", ["Ran"]),
        ("title=plfts(english).untitled", ["Untitled"]),
        ("title=wfts.ikiru or ran", ["Ikiru", "Ran"]),
        ("title=not.phfts(simple).ran", ["Cléo", "Ikiru", "Untitled"]),
        ("facts->place->>city=eq.Tokyo", ["Ikiru"]),
        ("facts->runtime=gt.150", ["Ran"]),
        ("facts->cuts->>1=eq.b", ["Cléo"]),
        ("facts->cuts->>-1=eq.b", ["Cléo"]),
        ("tags->>0=eq.tokyo", ["Ikiru"]),
        ("shout=eq.RAN!", ["Ran"]),
        ("or=(id.eq.1,title.eq.Ran)", ["Cléo", "Ran"]),
        ("or=(id.eq.1,and(year.gt.1950,year.lt.1955))", ["Cléo", "Ikiru"]),
        ("not.or=(id.eq.1,id.eq.2)", ["Ran", "Untitled"]),
        ("and=(id.gt.1,not.and(id.gt.2,id.lt.4))", ["Ikiru", "Untitled"]),
        ("or=(title.not.like.*n*,year.is.null)", ["Cléo", "Ikiru", "Untitled"]),
        ('or=(title.eq."Ran",title.in.("Cléo"))', ["Cléo", "Ran"]),
        ('or=(tags.cs.{war,"a,b"},facts->>runtime.eq.90)', ["Cléo", "Ran"]),
        ("or=(title.fts(english).ran,id.eq.4)", ["Ran", "Untitled"]),
        ("id=gt.1&id=lt.3", ["Ikiru"]),
    ],
)
def test_a_filter_finds_its_rows(anon: httpx.Client, query: str, expected: list[str]) -> None:
    assert titles(anon.get(f"/films?select=title&order=id&{query}")) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("id.desc", [4, 3, 2, 1]),
        ("year", [2, 1, 3, 4]),
        ("year.desc", [4, 3, 1, 2]),
        ("year.desc.nullslast", [3, 1, 2, 4]),
        ("year.nullsfirst", [4, 2, 1, 3]),
        ("facts->runtime.desc.nullslast,id.desc", [3, 2, 1, 4]),
        ("directors(name).desc.nullslast,id", [2, 3, 1, 4]),
    ],
)
def test_rows_come_in_the_order_asked(anon: httpx.Client, order: str, expected: list[int]) -> None:
    films = anon.get(f"/films?select=id,directors(name)&order={order}").json()

    assert [film["id"] for film in films] == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/films?id=eq.1&select=name:title,year::text", {"name": "Cléo", "year": "1962"}),
        ("/films?id=eq.1&select=facts->place->>city", {"city": "Paris"}),
        ("/films?id=eq.1&select=first:facts->cuts->0", {"first": "a"}),
        ("/films?id=eq.1&select=facts->cuts->>1", {"cuts": "b"}),
        ("/films?id=eq.1&select=y:year::double precision", {"y": 1962.0}),
        ("/films?id=eq.1&select=title,shout", {"title": "Cléo", "shout": "CLÉO!"}),
        ("/directors?id=eq.3", {"id": 3, "name": "Nobody", "born": None}),
        (
            "/directors?id=eq.3&select=*,label:name",
            {"id": 3, "name": "Nobody", "born": None, "label": "Nobody"},
        ),
        (
            '/odd, "table"?"a b"=eq.1&select="select","c\\"d",x:"%25s $1"',
            {"select": "x", 'c"d': "y", "x": "z"},
        ),
        ("/Kebab-Case?select=first-name", {"first-name": "Ann"}),
        (
            "/films?id=eq.1&select=title,directors(name)",
            {"title": "Cléo", "directors": {"name": "Agnès Varda"}},
        ),
        ("/films?id=eq.4&select=title,directors(name)", {"title": "Untitled", "directors": None}),
        ("/films?id=eq.1&select=by:directors(who:name)", {"by": {"who": "Agnès Varda"}}),
        ("/films?id=eq.1&select=director_id(name)", {"director_id": {"name": "Agnès Varda"}}),
        ("/films?id=eq.1&select=directors!films_director_id_fkey(id)", {"directors": {"id": 1}}),
        ("/films?id=eq.1&select=film_details(budget)", {"film_details": {"budget": 100}}),
        (
            "/films?id=eq.3&select=actors(name)&actors.order=name",
            {"actors": [{"name": "Takashi"}, {"name": "Tatsuya"}]},
        ),
        (
            "/films?id=eq.3&select=roles(part,actors(name))&roles.order=part&roles.limit=1",
            {"roles": [{"part": "Fool", "actors": {"name": "Takashi"}}]},
        ),
        ("/films?id=eq.1&select=id,...directors(director:name)", {"id": 1, "director": "Agnès Varda"}),
        (
            "/directors?id=eq.2&select=name,...films(titles:title)&films.order=id",
            {"name": "Akira Kurosawa", "titles": ["Ikiru", "Ran"]},
        ),
        ("/directors?id=eq.3&select=...films(titles:title)", {"titles": []}),
        (
            "/films?id=eq.2&select=reviews(body,author:people!reviews_author(name),editor:people!editor_id(name))",
            {"reviews": [{"body": "Great", "author": {"name": "Bob"}, "editor": {"name": "Cyd"}}]},
        ),
        (
            "/people?id=eq.1&select=name,people(name)&people.order=id",
            {"name": "Ada", "people": [{"name": "Bob"}, {"name": "Cyd"}]},
        ),
        ("/people?id=eq.2&select=name,boss:boss_id(name)", {"name": "Bob", "boss": {"name": "Ada"}}),
        (
            "/film_titles?id=eq.1&select=title,directors(name)",
            {"title": "Cléo", "directors": {"name": "Agnès Varda"}},
        ),
        ("/directors?id=eq.1&select=film_titles(title)", {"film_titles": [{"title": "Cléo"}]}),
        (
            "/directors?id=eq.2&select=latest_film(title,film_details(budget))",
            {"latest_film": {"title": "Ran", "film_details": None}},
        ),
        ("/films?id=eq.1&select=id,directors()", {"id": 1}),
        ("/directors?id=eq.1&select=name,films(*)&films.select=x&films.id=eq.2", None),
    ],
)
def test_select_shapes_the_answer(anon: httpx.Client, path: str, expected: dict[str, Any] | None) -> None:
    response = anon.get(path)

    if expected is None:
        assert response.status_code == 400
    else:
        assert response.json() == [expected]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select=name,films!inner(title)&films.year=gt.1980", ["Akira Kurosawa"]),
        ("select=name,films(title)&films=is.null", ["Nobody"]),
        ("select=name,films()&films=not.is.null&films.year=lt.1960", ["Akira Kurosawa"]),
        ("select=name,films(title)&or=(films.is.null,name.like.Agn*)", ["Agnès Varda", "Nobody"]),
        (
            "select=name,films!inner(roles!inner(actors!inner(name)))&films.roles.actors.name=eq.Tatsuya",
            ["Akira Kurosawa"],
        ),
        (
            "select=name,films!inner()&films.or=(title.eq.Ran,title.eq.Cléo)",
            ["Agnès Varda", "Akira Kurosawa"],
        ),
        ("select=name,f:films!inner(title)&f.title=eq.Ran", ["Akira Kurosawa"]),
    ],
)
def test_an_embed_can_choose_the_rows_above_it(anon: httpx.Client, query: str, expected: list[str]) -> None:
    response = anon.get(f"/directors?order=id&{query}", headers={"Prefer": "count=exact"})

    assert [director["name"] for director in response.json()] == expected
    assert response.headers["content-range"] == f"0-{len(expected) - 1}/{len(expected)}"


@pytest.mark.parametrize(
    ("query", "headers", "status", "content_range"),
    [
        ("", {}, 200, "0-3/*"),
        ("limit=2", {}, 200, "0-1/*"),
        ("limit=2&offset=3", {}, 200, "3-3/*"),
        ("limit=0", {}, 200, "*/*"),
        ("offset=9", {}, 200, "*/*"),
        ("", {"Prefer": "count=exact"}, 200, "0-3/4"),
        ("limit=2", {"Prefer": "count=exact"}, 206, "0-1/4"),
        ("id=eq.99", {"Prefer": "count=exact"}, 200, "*/0"),
        ("offset=9", {"Prefer": "count=exact"}, 416, None),
        ("", {"Range-Unit": "items", "Range": "1-2"}, 200, "1-2/*"),
        ("", {"Range": "2-", "Prefer": "count=exact"}, 206, "2-3/4"),
        ("limit=1", {"Range": "1-2"}, 200, "*/*"),
        ("", {"Range": "2-1"}, 416, None),
        ("limit=-1", {}, 416, None),
        ("limit=2", {"Prefer": "count=estimated"}, 206, "0-1/4"),
    ],
)
def test_pages_say_which_rows_they_hold(
    anon: httpx.Client, query: str, headers: dict[str, str], status: int, content_range: str | None
) -> None:
    response = anon.get(f"/films?select=id&order=id&{query}", headers=headers)

    assert (response.status_code, response.headers.get("content-range")) == (status, content_range)
    if status == 416:
        assert response.json()["code"] == "PGRST103"


def test_a_planned_count_comes_from_the_planner(anon: httpx.Client) -> None:
    response = anon.get("/films?select=id&limit=1", headers={"Prefer": "count=planned"})

    assert int(response.headers["content-range"].split("/")[1]) > 0
    assert response.headers["preference-applied"] == "count=planned"


def test_one_object_is_exactly_one_row(anon: httpx.Client) -> None:
    accept = {"Accept": "application/vnd.pgrst.object+json"}
    one = anon.get("/films?select=id&id=eq.1", headers=accept)
    several = anon.get("/films?select=id", headers=accept)

    assert one.json() == {"id": 1}
    assert one.headers["content-type"] == "application/vnd.pgrst.object+json; charset=utf-8"
    assert several.status_code == 406
    assert several.json() == {
        "code": "PGRST116",
        "message": "Cannot coerce the result to a single JSON object",
        "details": "The result contains 4 rows",
        "hint": None,
    }


def test_nulls_are_stripped_on_request(anon: httpx.Client) -> None:
    path = "/directors?id=eq.3"
    listed = anon.get(path, headers={"Accept": "application/vnd.pgrst.array+json;nulls=stripped"})
    single = anon.get(path, headers={"Accept": "application/vnd.pgrst.object+json;nulls=stripped"})

    assert listed.json() == [{"id": 3, "name": "Nobody"}]
    assert single.json() == {"id": 3, "name": "Nobody"}


def test_csv_has_a_header_and_quotes_what_needs_it(anon: httpx.Client) -> None:
    response = anon.get("/films?select=id,tags,year&order=id&id=gt.2", headers={"Accept": "text/csv"})

    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.text == 'id,tags,year\n3,"{war,""a,b""}",1985\n4,{},'


def test_a_plan_is_shown_for_what_was_asked(anon: httpx.Client) -> None:
    accept = 'application/vnd.pgrst.plan+json; for="application/json"; options=verbose'
    response = anon.get("/films", headers={"Accept": accept})

    assert response.json()[0]["Plan"]["Node Type"] == "Aggregate"
    assert response.headers["content-type"].startswith(
        'application/vnd.pgrst.plan+json; for="application/json"'
    )


def test_head_is_a_get_without_its_body(anon: httpx.Client) -> None:
    response = anon.head("/films?limit=2", headers={"Prefer": "count=exact"})

    assert (response.status_code, response.text) == (206, "")
    assert response.headers["content-range"] == "0-1/4"


def test_options_names_the_methods(anon: httpx.Client) -> None:
    assert anon.options("/things").headers["allow"] == "OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE"
    assert anon.options("/rpc/touch").headers["allow"] == "OPTIONS,POST"
    assert anon.options("/rpc/add").headers["allow"] == "OPTIONS,GET,HEAD,POST"


def test_reads_carry_their_location_and_vary(anon: httpx.Client) -> None:
    response = anon.get("/films?select=id&id=eq.1")

    assert response.headers["content-location"] == "/films?id=eq.1&select=id"
    assert response.headers["vary"] == "Accept, Prefer, Range"
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/filmz", 404, "PGRST205"),
        ("/hidden", 404, "PGRST205"),
        ("/films/1", 404, "PGRST125"),
        ("/films?select=nope", 400, "42703"),
        ("/films?nope=eq.1", 400, "42703"),
        ("/films?id=eq.one", 400, "22P02"),
        ("/films?id=what.1", 400, "PGRST100"),
        ("/films?id=1", 400, "PGRST100"),
        ("/films?id=is.maybe", 400, "PGRST100"),
        ("/films?id=in.1,2", 400, "PGRST100"),
        ("/films?or=(id.eq.1", 400, "PGRST100"),
        ("/films?or=()", 400, "PGRST100"),
        ("/films?select=id,", 400, "PGRST100"),
        ("/films?select=directors(id", 400, "PGRST100"),
        ("/films?order=id.up", 400, "PGRST100"),
        ("/films?select=id::nope", 400, "42704"),
        ("/films?select=year.sum()", 400, "PGRST123"),
        ("/films?select=count()", 400, "PGRST123"),
        ("/films?select=secrets(id)", 400, "PGRST200"),
        ("/reviews?select=people(name)", 300, "PGRST201"),
        ("/films?directors.name=eq.x", 400, "PGRST108"),
        ("/directors?select=films(id)&order=films(id)", 400, "PGRST118"),
        ("/films?order=directors(id)", 400, "PGRST108"),
        ("/films?select=directors(id)&directors=eq.1", 400, "PGRST120"),
    ],
)
def test_a_wrong_read_says_what_is_wrong(anon: httpx.Client, path: str, status: int, code: str) -> None:
    response = anon.get(path)

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json().keys() == {"code", "message", "details", "hint"}
    assert response.headers["proxy-status"] == f"PostgREST; error={code}"


def test_a_misspelt_table_gets_a_hint(anon: httpx.Client) -> None:
    assert anon.get("/filmz").json()["hint"] == "Perhaps you meant the table 'public.films'"


def test_an_ambiguous_embed_lists_its_choices(anon: httpx.Client) -> None:
    error = anon.get("/reviews?select=people(name)").json()

    assert {each["relationship"] for each in error["details"]} == {
        "reviews_author using reviews(author_id) and people(id)",
        "reviews_editor using reviews(editor_id) and people(id)",
    }
    assert "'people!reviews_author'" in error["hint"]


@pytest.mark.parametrize("accept", ["application/pdf", "application/vnd.pgrst.plan+yaml"])
def test_an_unknown_media_type_is_not_acceptable(anon: httpx.Client, accept: str) -> None:
    response = anon.get("/films", headers={"Accept": accept})

    assert (response.status_code, response.json()["code"]) == (406, "PGRST107")


def test_a_known_but_missing_media_type_is_named(anon: httpx.Client) -> None:
    response = anon.get("/films", headers={"Accept": "application/geo+json"})

    assert (response.status_code, response.json()["details"]) == (501, "media type application/geo+json")


def test_the_client_reads_counts_and_single_rows(postgrest: SyncPostgrestClient) -> None:
    counted = postgrest.from_("films").select("id", count=CountMethod.exact).limit(1).execute()
    missing = postgrest.from_("films").select("id").eq("id", 99).maybe_single().execute()

    assert (counted.count, counted.data) == (4, [{"id": 1}])
    assert missing is None
    with pytest.raises(APIError) as refused:
        postgrest.from_("films").select("id").single().execute()
    assert refused.value.code == "PGRST116"
