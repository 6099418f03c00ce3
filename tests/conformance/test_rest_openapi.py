"""REST's root: the OpenAPI description of what the asking role may use, as PostgREST writes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from conformance.callers import Rows, Serve, authenticate, client, token, wait_for
from emulator.rest import create_app

SCHEMA = Path(__file__).with_name("openapi.sql")
READ_PARAMETERS = ["select", "order", "range", "rangeUnit", "offset", "limit", "preferCount"]


@pytest.fixture(scope="module")
def url(rest_database: str, serve: Serve) -> str:
    with psycopg.connect(rest_database) as connection:
        connection.execute(SCHEMA.read_text())
    return serve(
        create_app(
            rest_database, authenticate, schemas=("shelf", "annex"), public_url="https://hub.test/rest/v1"
        )
    )


@pytest.fixture(scope="module")
def librarian(url: str) -> Iterator[httpx.Client]:
    with client(url, token("service_role")) as http:
        yield http


@pytest.fixture(scope="module")
def reader(url: str) -> Iterator[httpx.Client]:
    with client(url, token("authenticated")) as http:
        yield http


@pytest.fixture(scope="module")
def described(librarian: httpx.Client) -> dict[str, Any]:
    return dict(librarian.get("/").json())


def column(described: dict[str, Any], table: str, name: str) -> dict[str, Any]:
    return dict(described["definitions"][table]["properties"][name])


def references(parameters: list[dict[str, str]]) -> list[str]:
    return [each["$ref"].removeprefix("#/parameters/") for each in parameters]


def test_the_root_is_a_swagger_document(described: dict[str, Any]) -> None:
    formats = [
        "application/json",
        "application/vnd.pgrst.object+json;nulls=stripped",
        "application/vnd.pgrst.object+json",
        "text/csv",
    ]

    assert described["swagger"] == "2.0"
    assert described["info"] == {
        "title": "The shelf",
        "description": "Books, and who\nwrote them",
        "version": "16.5",
    }
    assert described["host"] == "hub.test:443"
    assert (described["basePath"], described["schemes"]) == ("/rest/v1", ["https"])
    assert (described["consumes"], described["produces"]) == (formats, formats)
    assert described["externalDocs"] == {
        "description": "PostgREST Documentation",
        "url": "https://postgrest.org/en/v16/references/api.html",
    }
    assert "security" not in described
    assert "securityDefinitions" not in described


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/openapi+json", 200),
        ("application/json", 200),
        ("APPLICATION/JSON; charset=utf-8", 200),
        ("*/*", 200),
        ("text/html, */*;q=0.1", 200),
        ("application/vnd.pgrst.array+json", 200),
        ("text/csv", 406),
        ("application/vnd.pgrst.object+json", 406),
        ("application/vnd.pgrst.array+json;nulls=stripped", 406),
        ("application/geo+json", 406),
    ],
)
def test_the_document_has_one_form(librarian: httpx.Client, accept: str, status: int) -> None:
    response = librarian.get("/", headers={"Accept": accept})

    assert response.status_code == status
    if status == 200:
        assert response.headers["content-type"] == "application/openapi+json; charset=utf-8"
    else:
        assert response.json()["code"] == "PGRST107"
        assert response.json()["message"] == f"None of these media types are available: {accept}"


def test_nothing_but_the_root_is_openapi(librarian: httpx.Client) -> None:
    response = librarian.get("/books", headers={"Accept": "application/openapi+json"})

    assert (response.status_code, response.json()["code"]) == (406, "PGRST107")


def test_head_answers_the_headers_alone(librarian: httpx.Client) -> None:
    response = librarian.head("/", headers={"Accept": "application/openapi+json"})

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "application/openapi+json; charset=utf-8"
    assert "content-length" not in response.headers


def test_the_root_is_only_read(librarian: httpx.Client) -> None:
    options = librarian.options("/")
    posted = librarian.post("/", json={})

    assert (options.status_code, options.headers["allow"]) == (200, "OPTIONS,GET,HEAD")
    assert (posted.status_code, posted.json()["code"]) == (405, "PGRST117")


def test_the_profile_chooses_the_schema(librarian: httpx.Client, described: dict[str, Any]) -> None:
    response = librarian.get("/", headers={"Accept-Profile": "annex"})
    annex = response.json()

    assert response.headers["content-profile"] == "annex"
    assert annex["definitions"].keys() == {"boxes", "maps"}
    assert annex["paths"].keys() == {"/", "/boxes", "/maps", "/rpc/unpack"}
    assert "boxes" not in described["definitions"]
    assert librarian.get("/", headers={"Accept-Profile": "private"}).status_code == 406


def test_a_schema_without_a_comment_goes_by_postgrests_name(librarian: httpx.Client) -> None:
    info = librarian.get("/", headers={"Accept-Profile": "annex"}).json()["info"]

    assert info["title"] == "PostgREST API"
    assert info["description"] == "This is a dynamic API generated by PostgREST"


def test_a_schema_with_one_line_of_comment_has_a_title_alone(librarian: httpx.Client, rows: Rows) -> None:
    rows("comment on schema annex is 'The annex'")
    try:
        rows("notify pgrst, 'reload schema'")
        wait_for(lambda: title_of_annex(librarian) == ("The annex", ""))
    finally:
        rows("comment on schema annex is null")
        rows("notify pgrst, 'reload schema'")
    wait_for(lambda: title_of_annex(librarian)[0] == "PostgREST API")


def title_of_annex(librarian: httpx.Client) -> tuple[str, str]:
    info = librarian.get("/", headers={"Accept-Profile": "annex"}).json()["info"]
    return info["title"], info["description"]


def test_a_table_is_defined(described: dict[str, Any]) -> None:
    assert described["definitions"]["books"] == {
        "description": "What is read\n\nOne row for each\nedition",
        "required": ["id", "title"],
        "properties": {
            "id": {
                "description": "The number on the spine\n\nNote:\nThis is a Primary Key.<pk/>",
                "format": "int32",
                "type": "integer",
            },
            "title": {
                "description": "As printed, even where that is longer than the sixty-three bytes of a name",
                "format": "character varying",
                "maxLength": 80,
                "type": "string",
            },
            "author_id": {
                "description": "Who wrote it\n\nNote:\n"
                "This is a Foreign Key to `authors.id`.<fk table='authors' column='id'/>",
                "format": "int32",
                "type": "integer",
            },
            "binding": {"enum": ["paper", "cloth"], "format": "shelf.binding", "type": "string"},
        },
        "type": "object",
    }


def test_a_view_is_defined_by_the_tables_behind_it(described: dict[str, Any]) -> None:
    assert described["definitions"]["book_list"] == {
        "description": "Titles only",
        "properties": {
            "number": {
                "description": "The same number\n\nNote:\nThis is a Primary Key.<pk/>",
                "format": "int32",
                "type": "integer",
            },
            "title": {"format": "character varying", "maxLength": 80, "type": "string"},
            "by": {
                "description": "Note:\n"
                "This is a Foreign Key to `authors.id`.<fk table='authors' column='id'/>",
                "format": "int32",
                "type": "integer",
            },
        },
        "type": "object",
    }


def test_a_view_has_the_primary_keys_of_all_tables_behind_it(described: dict[str, Any]) -> None:
    lent = described["definitions"]["lent_books"]["properties"]

    assert [name for name in lent if "<pk/>" in lent[name].get("description", "")] == ["id", "book_id", "day"]
    assert column(described, "shops", "code")["description"] == "Note:\nThis is a Primary Key.<pk/>"


def test_a_primary_key_that_refers_elsewhere_says_both(described: dict[str, Any]) -> None:
    assert column(described, "blurbs", "book_id")["description"] == (
        "Note:\nThis is a Primary Key.<pk/>\n"
        "This is a Foreign Key to `books.id`.<fk table='books' column='id'/>"
    )


def test_a_foreign_key_of_several_columns_or_into_another_schema_is_not_noted(
    librarian: httpx.Client, described: dict[str, Any]
) -> None:
    annex = librarian.get("/", headers={"Accept-Profile": "annex"}).json()

    assert column(described, "returns", "book_id") == {"format": "int32", "type": "integer"}
    assert column(annex, "maps", "book_id") == {"format": "int32", "type": "integer"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_varchar", {"format": "character varying", "type": "string"}),
        ("a_char", {"format": "character", "maxLength": 3, "type": "string"}),
        ("a_text", {"format": "text", "type": "string"}),
        ("a_boolean", {"format": "boolean", "type": "boolean"}),
        ("a_smallint", {"format": "int32", "type": "integer"}),
        ("an_int", {"format": "int32", "type": "integer"}),
        ("a_bigint", {"format": "int64", "type": "integer"}),
        ("a_numeric", {"format": "numeric", "type": "number"}),
        ("a_real", {"format": "real", "type": "number"}),
        ("a_double", {"format": "double precision", "type": "number"}),
        ("a_json", {"format": "json"}),
        ("a_jsonb", {"format": "jsonb"}),
        ("a_uuid", {"format": "uuid", "type": "string"}),
        ("a_time", {"format": "timestamp with time zone", "type": "string"}),
        ("some_bits", {"format": "bit", "maxLength": 4, "type": "string"}),
        ("some_texts", {"format": "text[]", "items": {"type": "string"}, "type": "array"}),
        ("some_ints", {"format": "integer[]", "items": {"type": "integer"}, "type": "array"}),
        ("some_chars", {"format": "character[]", "items": {"type": "string"}, "type": "array"}),
        ("some_bigints", {"format": "bigint[]", "items": {"type": "integer"}, "type": "array"}),
        ("some_numerics", {"format": "numeric[]", "items": {"type": "number"}, "type": "array"}),
        ("some_jsonbs", {"format": "jsonb[]", "items": {}, "type": "array"}),
        ("an_enum", {"enum": ["paper", "cloth"], "format": "shelf.binding", "type": "string"}),
        ("a_cover", {"enum": ["paper", "cloth"], "format": "shelf.cover", "type": "string"}),
        ("some_enums", {"format": "shelf.binding[]", "items": {"type": "string"}, "type": "array"}),
        ("a_domain", {"format": "int32", "type": "integer"}),
    ],
)
def test_a_type_has_its_swagger_type(described: dict[str, Any], name: str, expected: dict[str, Any]) -> None:
    assert column(described, "types", name) == expected


def test_a_domain_that_is_not_null_is_required(described: dict[str, Any]) -> None:
    assert described["definitions"]["types"]["required"] == ["a_domain"]


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("a_text", "it"),
        ("a_varchar", "v"),
        ("a_boolean", False),
        ("an_int", 42),
        ("a_numeric", 42.5),
        ("a_date", "1900-01-01"),
        ("a_time", "now()"),
        ("an_enum", "cloth"),
    ],
)
def test_a_default_that_is_plain_is_shown(described: dict[str, Any], name: str, default: Any) -> None:
    assert column(described, "defaults", name)["default"] == default


@pytest.mark.parametrize(
    "name", ["a_negative", "quoted", "lines", "not_a_number", "a_json", "some_texts", "made"]
)
def test_a_default_that_is_not_json_is_left_out(described: dict[str, Any], name: str) -> None:
    assert "default" not in column(described, "defaults", name)


def test_a_table_has_its_paths(described: dict[str, Any]) -> None:
    path = described["paths"]["/books"]
    filters = [f"rowFilter.books.{name}" for name in ("id", "title", "author_id", "binding")]

    assert path.keys() == {"get", "post", "patch", "delete"}
    for operation in path.values():
        assert operation["tags"] == ["books"]
        assert operation["summary"] == "What is read"
        assert operation["description"] == "One row for each\nedition"
    assert references(path["get"]["parameters"]) == [*filters, *READ_PARAMETERS]
    assert references(path["post"]["parameters"]) == ["body.books", "select", "preferPost"]
    assert references(path["patch"]["parameters"]) == [*filters, "body.books", "preferReturn"]
    assert references(path["delete"]["parameters"]) == [*filters, "preferReturn"]
    assert path["get"]["responses"] == {
        "200": {
            "description": "OK",
            "schema": {"items": {"$ref": "#/definitions/books"}, "type": "array"},
        },
        "206": {"description": "Partial Content"},
    }
    assert path["post"]["responses"] == {"201": {"description": "Created"}}
    assert path["patch"]["responses"] == {"204": {"description": "No Content"}}
    assert path["delete"]["responses"] == {"204": {"description": "No Content"}}


def test_a_comment_of_one_line_is_the_summary_alone(described: dict[str, Any]) -> None:
    authors = described["paths"]["/authors"]["get"]
    loans = described["paths"]["/loans"]["get"]

    assert (authors["summary"], "description" in authors) == ("Who writes", False)
    assert loans.keys().isdisjoint({"summary", "description"})


def test_views_that_cannot_be_written_are_only_read(described: dict[str, Any]) -> None:
    paths = described["paths"]

    assert paths["/book_list"].keys() == {"get", "post", "patch", "delete"}
    assert paths["/readers"].keys() == {"get"}
    assert paths["/counted_books"].keys() == {"get"}
    assert references(paths["/counted_books"]["get"]["parameters"]) == [
        "rowFilter.counted_books.author_id",
        "rowFilter.counted_books.books",
        *READ_PARAMETERS,
    ]


def test_a_partitioned_table_stands_for_its_partitions(described: dict[str, Any]) -> None:
    assert described["definitions"]["visits"]["properties"].keys() == {"day", "door"}
    assert "front_visits" not in described["definitions"]


def test_the_parameters_are_what_the_paths_refer_to(described: dict[str, Any]) -> None:
    query = {"required": False, "in": "query", "type": "string"}
    header = query | {"in": "header"}
    prefer = header | {"name": "Prefer", "description": "Preference"}
    paging = {"description": "Limiting and Pagination"}
    returns = ["return=representation", "return=minimal", "return=none"]
    resolutions = ["resolution=ignore-duplicates", "resolution=merge-duplicates"]
    parameters = described["parameters"]

    assert parameters["preferParams"] == prefer
    assert parameters["preferReturn"] == prefer | {"enum": returns}
    assert parameters["preferCount"] == prefer | {"enum": ["count=none"]}
    assert parameters["preferPost"] == prefer | {"enum": [*returns, *resolutions]}
    assert parameters["select"] == query | {"name": "select", "description": "Filtering Columns"}
    assert parameters["on_conflict"] == query | {"name": "on_conflict", "description": "On Conflict"}
    assert parameters["order"] == query | {"name": "order", "description": "Ordering"}
    assert parameters["range"] == header | paging | {"name": "Range"}
    assert parameters["rangeUnit"] == header | paging | {"name": "Range-Unit", "default": "items"}
    assert parameters["offset"] == query | paging | {"name": "offset"}
    assert parameters["limit"] == query | paging | {"name": "limit"}
    assert parameters["body.books"] == {
        "name": "books",
        "description": "books",
        "required": False,
        "in": "body",
        "schema": {"$ref": "#/definitions/books"},
    }
    assert parameters["rowFilter.books.id"] == query | {
        "name": "id",
        "description": "The number on the spine",
    }
    assert parameters["rowFilter.books.binding"] == query | {"name": "binding"}


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    def leads(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from [part["$ref"]] if "$ref" in part else []
            for each in part.values():
                yield from leads(each)
        elif isinstance(part, list):
            for each in part:
                yield from leads(each)

    for lead in leads(described):
        _, section, name = lead.split("/", 2)
        assert name in described[section], lead


def test_a_function_that_only_reads_has_get_and_post(described: dict[str, Any]) -> None:
    path = described["paths"]["/rpc/find"]

    assert path.keys() == {"get", "post"}
    for operation in path.values():
        assert operation["tags"] == ["(rpc) find"]
        assert operation["summary"] == "Find a book"
        assert operation["description"] == "By title and binding"
        assert operation["responses"] == {"200": {"description": "OK"}}
        assert operation["produces"] == [
            "application/json",
            "application/vnd.pgrst.object+json;nulls=stripped",
            "application/vnd.pgrst.object+json",
        ]
    assert path["get"]["parameters"] == [
        {"name": "title", "required": True, "in": "query", "format": "text", "type": "string"},
        {"name": "binding", "required": True, "in": "query", "format": "binding", "type": "string"},
        {"name": "pages", "required": True, "in": "query", "format": "integer[]", "type": "string"},
        {"name": "limit", "required": False, "in": "query", "format": "numeric", "type": "number"},
        {"name": "extra", "required": False, "in": "query", "format": "jsonb", "type": "string"},
    ]
    body, preference = path["post"]["parameters"]
    assert preference == {"$ref": "#/parameters/preferParams"}
    assert body == {
        "name": "args",
        "required": True,
        "in": "body",
        "schema": {
            "description": "Find a book\n\nBy title and binding",
            "required": ["title", "binding", "pages"],
            "properties": {
                "title": {"format": "text", "type": "string"},
                "binding": {"format": "binding", "type": "string"},
                "pages": {"format": "integer[]", "items": {"type": "integer"}, "type": "array"},
                "limit": {"format": "numeric", "type": "number"},
                "extra": {"format": "jsonb"},
            },
            "type": "object",
        },
    }


def test_a_function_that_may_write_has_post_alone(described: dict[str, Any]) -> None:
    assert described["paths"]["/rpc/lend"].keys() == {"post"}
    assert described["paths"]["/rpc/newest"].keys() == {"get", "post"}
    assert described["paths"]["/rpc/newest"]["get"].keys() == {"tags", "produces", "responses"}


def test_a_variadic_parameter_may_be_given_often(described: dict[str, Any]) -> None:
    assert described["paths"]["/rpc/tagged"]["get"]["parameters"] == [
        {
            "name": "tags",
            "required": False,
            "in": "query",
            "type": "array",
            "items": {"format": "text", "type": "string"},
            "collectionFormat": "multi",
        }
    ]


def test_only_what_goes_in_is_a_parameter(described: dict[str, Any]) -> None:
    body = described["paths"]["/rpc/measured"]["post"]["parameters"][0]["schema"]

    assert list(body["properties"]) == body["required"] == ["book", "height"]


def test_of_several_functions_with_a_name_the_one_with_most_parameters_stands_for_all(
    described: dict[str, Any],
) -> None:
    parameters = described["paths"]["/rpc/over"]["get"]["parameters"]

    assert [each["name"] for each in parameters] == ["a", "b"]


def test_what_cannot_be_called_is_not_there(described: dict[str, Any]) -> None:
    called = {path.removeprefix("/rpc/") for path in described["paths"] if path.startswith("/rpc/")}

    assert called == {"find", "lend", "newest", "tagged", "measured", "over", "parse", "burn"}


def test_a_role_sees_what_it_may_use(reader: httpx.Client, described: dict[str, Any], url: str) -> None:
    theirs = reader.get("/").json()
    with client(url) as http:
        nobodys = http.get("/").json()

    assert "safe" not in theirs["definitions"]
    assert "/rpc/burn" not in theirs["paths"]
    assert "/safe" not in theirs["paths"]
    assert "body.safe" not in theirs["parameters"]
    assert list(theirs["definitions"]["ledger"]["properties"]) == ["id", "seen", "hidden"]
    assert "ledger" not in nobodys["definitions"]
    assert described["definitions"].keys() - theirs["definitions"].keys() == {"safe"}
    assert described["paths"].keys() - theirs["paths"].keys() == {"/safe", "/rpc/burn"}


@pytest.mark.parametrize(
    ("bearer", "status", "code"), [("expired", 401, "PGRST303"), (token("ghost"), 401, "22023")]
)
def test_a_role_that_may_not_act_gets_no_description(url: str, bearer: str, status: int, code: str) -> None:
    with client(url, bearer) as http:
        response = http.get("/")

    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_reloaded_schema_is_described_anew(reader: httpx.Client, rows: Rows) -> None:
    assert "novelty" not in reader.get("/").json()["definitions"]
    rows("create table shelf.novelty (id int); grant select on shelf.novelty to authenticated")
    try:
        rows("notify pgrst, 'reload schema'")
        wait_for(lambda: "novelty" in reader.get("/").json()["definitions"])
    finally:
        rows("drop table shelf.novelty")
        rows("notify pgrst, 'reload schema'")
    wait_for(lambda: "novelty" not in reader.get("/").json()["definitions"])


LAST_STATEMENT = "select max(state_change) from pg_stat_activity where application_name = 'rest' and datname = current_database()"


def test_a_description_costs_the_database_nothing_the_second_time(
    librarian: httpx.Client, rows: Rows
) -> None:
    first = librarian.get("/")
    before = rows(LAST_STATEMENT)
    again = librarian.get("/")

    assert again.content == first.content
    assert rows(LAST_STATEMENT) == before
