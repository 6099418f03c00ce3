"""ingest-prime: a form becomes a contact, a lead, an event and a delivery, once, or nothing at all."""

import concurrent.futures
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from support.hubs import Hub, web

type Post = Callable[..., httpx.Response]

PATH = "/functions/v1/ingest-prime"


@pytest.fixture(scope="module")
def http(hub: Hub) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=64)
    with httpx.Client(base_url=hub.url, timeout=30, limits=limits) as client:
        yield client


@pytest.fixture
def form() -> dict[str, Any]:
    return {
        "name": "Jo Smith",
        "email": f"jo-{uuid.uuid4().hex[:10]}@example.com",
        "message": "The switchboard smells burnt, please come today.",
        "service": "switchboard",
        "utm_source": "google",
        "favourite colour": "green",
    }


@pytest.fixture
def post(hub: Hub, http: httpx.Client) -> Post:
    def send(form: dict[str, Any], key: str | None = None, **headers: Any) -> httpx.Response:
        headers = {"x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"], **headers}
        if key:
            headers["idempotency-key"] = key
        return http.post(PATH, json=form, headers=headers)

    return send


def all_at_once(calls: int, call: Callable[[int], httpx.Response]) -> list[httpx.Response]:
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        return list(pool.map(call, range(calls)))


def count(hub: Hub, table: str) -> int:
    """Rows of a table; of events those of sites, for the qualifier writes some of its own meanwhile."""
    own = " where source like 'site:%'" if table == "events" else ""
    return int(hub.rows(f"select count(*) from public.{table}{own}")[0][0])


def test_a_form_becomes_a_contact_a_lead_an_event_and_a_delivery(
    hub: Hub, post: Post, form: dict[str, Any]
) -> None:
    answer = post({**form, "phone": "021 555 0147"})

    assert answer.status_code == 202
    assert answer.json()["duplicate"] is False
    event = hub.rows(
        "select events.data, events.type, sites.slug, leads.contact_id::text, events.contact_id::text, events.trace_id"
        " from public.events join public.sites on sites.id = events.site_id join public.leads on leads.id = events.subject_id"
        " where events.id = %s",
        answer.json()["event_id"],
    )
    contact = answer.json()["contact_id"]
    assert event == [
        (
            {
                "name": "Jo Smith",
                "email": form["email"],
                "phone": "+64215550147",
                "message": form["message"],
                "service": "switchboard",
                "form": {**form, "phone": "021 555 0147"},
            },
            "form.submitted",
            "prime",
            contact,
            contact,
            answer.headers["x-trace-id"],
        )
    ]
    identifiers = hub.rows(
        "select kind::text, value from public.contact_identifiers where contact_id = %s order by kind",
        contact,
    )
    assert identifiers == [("email", form["email"]), ("phone", "+64215550147")]
    assert hub.rows(
        "select count(*) from public.deliveries where event_id = %s", answer.json()["event_id"]
    ) == [(1,)]


def test_the_trace_of_the_caller_goes_on(hub: Hub, post: Post, form: dict[str, Any]) -> None:
    trace = uuid.uuid4().hex

    answer = post(form, traceparent=f"00-{trace}-00f067aa0ba902b7-01")

    assert answer.headers["x-trace-id"] == trace
    assert hub.until(lambda: len(hub.rows("select id from public.events where trace_id = %s", trace)) == 2)
    assert hub.rows(
        "select trace_id from public.agent_actions where event_id = %s", answer.json()["event_id"]
    ) == [(trace,)]


def test_sixty_four_posts_of_one_new_person_make_one_contact(
    hub: Hub, post: Post, form: dict[str, Any]
) -> None:
    answers = all_at_once(
        64, lambda number: post({**form, "phone": "0215550199"}, key=f"{form['email']}-{number}")
    )

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["event_id"] for answer in answers}) == 64
    contacts = {answer.json()["contact_id"] for answer in answers}
    assert len(contacts) == 1
    assert hub.rows("select count(*) from public.leads where contact_id = %s", contacts.pop()) == [(1,)]


def test_the_same_key_sixty_four_times_makes_one_event_and_equal_answers(
    hub: Hub, post: Post, form: dict[str, Any]
) -> None:
    answers = all_at_once(64, lambda _: post(form, key=form["email"]))

    assert {answer.status_code for answer in answers} == {202}
    assert len({(answer.json()["event_id"], answer.json()["contact_id"]) for answer in answers}) == 1
    assert [answer.json()["duplicate"] for answer in answers].count(False) == 1
    assert hub.rows(
        "select count(*) from public.events where data ->> 'email' = %s and cause_id is null", form["email"]
    ) == [(1,)]


def test_the_same_key_with_another_body_is_refused(hub: Hub, post: Post, form: dict[str, Any]) -> None:
    first = post(form, key=form["email"])
    events = count(hub, "receipts")

    second = post({**form, "message": "something else"}, key=form["email"])

    assert (first.status_code, second.status_code) == (202, 409)
    assert second.json()["error"]["code"] == "idempotency_conflict"
    assert count(hub, "receipts") == events


def test_without_a_key_the_forms_own_id_or_its_content_is_the_key(
    hub: Hub, post: Post, form: dict[str, Any]
) -> None:
    by_content = [post(form).json() for _ in range(2)]
    by_own_id = [post({**form, "submission_id": form["email"]}).json() for _ in range(2)]

    assert by_content[0]["event_id"] == by_content[1]["event_id"] != by_own_id[0]["event_id"]
    assert by_own_id[0]["event_id"] == by_own_id[1]["event_id"]
    hub.sql("update public.receipts set expires_at = now() where event_id = %s", by_content[0]["event_id"])
    assert post(form).json()["duplicate"] is False


def test_a_filled_honeypot_is_accepted_and_quarantined(hub: Hub, post: Post, form: dict[str, Any]) -> None:
    contacts = count(hub, "contacts")

    answer = post({**form, "website_url": "https://spam.example"})

    assert answer.status_code == 202
    event = hub.rows(
        "select type, contact_id, data ->> 'reason' from public.events where id = %s",
        answer.json()["event_id"],
    )
    assert event == [("submission.quarantined", None, "honeypot")]
    assert count(hub, "contacts") == contacts
    assert hub.rows(
        "select count(*) from public.deliveries where event_id = %s", answer.json()["event_id"]
    ) == [(0,)]


def test_a_form_that_nobody_can_answer_is_refused_by_field(
    hub: Hub, post: Post, form: dict[str, Any]
) -> None:
    before = count(hub, "events")

    answer = post({"name": "Jo", "email": "not an address", "message": "hello"})

    assert answer.status_code == 422
    assert {detail["field"] for detail in answer.json()["error"]["details"]} == {"email", "phone"}
    assert count(hub, "events") == before


@pytest.mark.parametrize("secret", ["", "wrong", b"\xc3\xa4", "AKF_WEBHOOK_SECRET"])
def test_another_secret_stores_nothing(
    hub: Hub, post: Post, form: dict[str, Any], secret: str | bytes
) -> None:
    before = count(hub, "events"), count(hub, "contacts"), count(hub, "receipts")

    answer = post(form, **{"x-webhook-secret": hub.env.get(str(secret), secret)})

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"
    assert (count(hub, "events"), count(hub, "contacts"), count(hub, "receipts")) == before


def test_a_wrong_secret_is_told_before_anything_of_the_body_is_read(http: httpx.Client) -> None:
    answer = http.post(
        PATH, content=b"{{{", headers={"x-webhook-secret": "wrong", "content-type": "application/json"}
    )

    assert answer.status_code == 401


def test_two_secrets_are_valid_while_one_replaces_the_other(own_hub: Hub) -> None:
    old, new = own_hub.env["PRIME_WEBHOOK_SECRET"], "a-new-secret-of-prime-0001"
    own_hub.sql("select private.set_site_secret('prime', %s, interval '1 hour')", new)

    def send(secret: str, key: str) -> httpx.Response:
        headers = {"x-webhook-secret": secret}
        return web.post(own_hub.url + PATH, json={"email": f"{key}@example.com"}, headers=headers)

    assert (send(old, "a").status_code, send(new, "b").status_code) == (202, 202)
    own_hub.sql("update private.site_secrets set valid_to = now() where valid_to is not null")
    assert (send(old, "c").status_code, send(new, "d").status_code) == (401, 202)
    assert own_hub.rows("select count(*) from public.receipts") == [(3,)]


def test_a_failure_between_any_two_writes_leaves_nothing(own_hub: Hub) -> None:
    own_hub.sql(
        "create function private.fail_now() returns trigger language plpgsql as $$ begin raise exception 'planted'; end $$"
    )
    tables = ("receipts", "contacts", "contact_identifiers", "leads", "events", "deliveries")
    form = {"name": "Jo", "email": "jo@example.com"}
    headers = {"x-webhook-secret": own_hub.env["PRIME_WEBHOOK_SECRET"]}

    for table in tables:
        own_hub.sql(
            f"create trigger planted after insert on public.{table} for each row execute function private.fail_now()"
        )
        refused = web.post(own_hub.url + PATH, json=form, headers=headers)
        own_hub.sql(f"drop trigger planted on public.{table}")

        assert refused.status_code == 500
        assert refused.json()["error"]["details"][0].keys() == {"trace_id"}
        assert [count(own_hub, each) for each in tables] == [0] * len(tables)
    assert web.post(own_hub.url + PATH, json=form, headers=headers).json()["duplicate"] is False


DEEP = b'{"email": "a@example.com", "x": ' + b"[" * 500 + b"]" * 500 + b"}"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"[1]", "application/json", 422),
        (b'{"email": "a@example.com", "n": NaN}', "application/json", 400),
        (b'{"email": "a@example.com", "n": 1e999}', "application/json", 422),
        (b'{"email": "a@example.com", "x": "\\ud800"}', "application/json", 422),
        (b'{"email": "a@example.com", "x": "a\\u0000b"}', "application/json", 422),
        (b'{"email": "a@example.com", "x": "\xff"}', "application/json", 400),
        (DEEP, "application/json", 422),
        (b'{"email": "a@example.com", "x": "' + b"x" * 1_000_000 + b'"}', "application/json", 413),
        (b"email=a@example.com", "text/plain", 415),
        (b"email=%00", "application/x-www-form-urlencoded", 422),
    ],
)
def test_bad_input_gets_a_clear_error(
    hub: Hub, http: httpx.Client, body: bytes, content_type: str, status: int
) -> None:
    before = count(hub, "events")

    answer = http.post(
        PATH,
        content=body,
        headers={"content-type": content_type, "x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"]},
    )

    assert answer.status_code == status, answer.text
    assert answer.json()["error"].keys() == {"code", "message", "details"}
    assert count(hub, "events") == before


def test_another_method_names_the_right_one(http: httpx.Client) -> None:
    answer = http.get(PATH)

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")


@pytest.mark.parametrize("encoding", ["data", "files"])
def test_browser_forms_are_understood(
    hub: Hub, http: httpx.Client, form: dict[str, Any], encoding: str
) -> None:
    fields: Any = {name: (None, value) for name, value in form.items()} if encoding == "files" else form

    answer = http.post(
        PATH, headers={"x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"]}, **{encoding: fields}
    )

    assert answer.status_code == 202, answer.text
    stored = hub.rows("select data -> 'form' from public.events where id = %s", answer.json()["event_id"])
    assert stored == [(form,)]


def test_browsers_of_the_sites_own_origin_may_post(hub: Hub, http: httpx.Client) -> None:
    ours = hub.rows("select url from public.sites where slug = 'prime'")[0][0]
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}

    allowed = http.options(PATH, headers={"origin": ours, **preflight})
    refused = http.options(PATH, headers={"origin": "https://elsewhere.example", **preflight})

    assert allowed.headers["access-control-allow-origin"] == ours
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in refused.headers


def test_people_see_it_over_rest_as_soon_as_it_is_answered(
    hub: Hub, http: httpx.Client, post: Post, form: dict[str, Any]
) -> None:
    recorded = post(form).json()
    apikey = {"apikey": hub.env["SUPABASE_PUBLISHABLE_KEY"]}
    signed_in = http.post(
        "/auth/v1/token?grant_type=password",
        headers=apikey,
        json={"email": hub.env["VIEWER_EMAIL"], "password": hub.env["VIEWER_PASSWORD"]},
    ).json()
    headers = {**apikey, "authorization": f"Bearer {signed_in['access_token']}"}

    events = http.get(
        "/rest/v1/events",
        params={"id": f"eq.{recorded['event_id']}", "select": "form:data->form,contacts(name),sites(slug)"},
        headers=headers,
    )

    assert events.json() == [{"form": form, "contacts": {"name": "Jo Smith"}, "sites": {"slug": "prime"}}]


def test_an_unusable_phone_beside_a_usable_address_is_kept_not_refused(
    hub: Hub, post: Post, form: dict[str, Any]
) -> None:
    answer = post({**form, "phone": "call the office"})

    assert answer.status_code == 202
    stored = hub.rows("select data ->> 'phone' from public.events where id = %s", answer.json()["event_id"])
    assert stored == [("call the office",)]


@pytest.mark.parametrize(
    "field",
    [{"message": {"rooms": 3}}, {"message": "x" * 20_000}, {"phone": ["021 555 0147"]}, {"_gotcha": False}],
)
def test_a_field_that_cannot_be_read_is_kept_not_refused(
    hub: Hub, post: Post, form: dict[str, Any], field: dict[str, Any]
) -> None:
    answer = post({**form, **field})

    assert answer.status_code == 202, answer.text
    stored = hub.rows(
        "select type, data -> 'form' from public.events where id = %s", answer.json()["event_id"]
    )
    assert stored == [("form.submitted", {**form, **field})]


def test_a_key_of_the_longest_allowed_length_is_accepted(post: Post, form: dict[str, Any]) -> None:
    assert post(form, key=(form["email"] + "x" * 255)[:255]).status_code == 202


def test_a_known_phone_without_a_name_does_not_take_a_strangers_address_in(post: Post) -> None:
    phone = f"0215{uuid.uuid4().int % 1_000_000:06d}"
    known = post({"name": "Jo Smith", "phone": phone, "message": "one"}).json()["contact_id"]

    stranger = post({"email": f"{uuid.uuid4().hex}@example.com", "phone": phone}).json()["contact_id"]

    assert stranger != known


def test_a_shared_phone_decides_only_when_the_name_agrees(hub: Hub, post: Post) -> None:
    phone = f"0215{uuid.uuid4().int % 1_000_000:06d}"
    jo = post({"name": "Jo Smith", "phone": phone, "message": "one"}).json()["contact_id"]
    same = post({"name": "smith, jo", "phone": phone, "message": "two"}).json()["contact_id"]
    other = post({"name": "Al Brown", "phone": phone, "message": "three"}).json()["contact_id"]
    other_again = post({"name": "Al Brown", "phone": phone, "message": "four"}).json()["contact_id"]

    assert same == jo != other == other_again
    candidates = hub.rows(
        "select contact_id::text, other_id::text from public.merge_candidates where contact_id::text = any(%s)",
        [jo, other],
    )
    assert candidates == [tuple(sorted((jo, other)))]


def test_no_log_line_holds_a_secret_or_a_person(hub: Hub, post: Post, form: dict[str, Any]) -> None:
    post({**form, "phone": "021 555 0188", "name": "Canary Person"})
    post({**form, "email": "broken@", "phone": "021 555 0188x9"})

    written = "".join(path.read_text(errors="replace") for path in (hub.state / "logs").glob("*.log"))

    secrets = {
        name: value
        for name, value in hub.env.items()
        if "SECRET" in name or "PASSWORD" in name or name.endswith("_KEY")
    }
    found = [name for name, value in secrets.items() if value in written]
    found += [
        text for text in (form["email"], "215550188", "021 555 0188", "Canary Person") if text in written
    ]
    assert found == []


def test_sql_sees_one_form_as_json(hub: Hub, post: Post, form: dict[str, Any]) -> None:
    answer = post({**form, "message": "a 'quoted' \"text\" with \\ and ;-- drop"})

    stored = hub.rows(
        "select data ->> 'message' from public.events where id = %s", answer.json()["event_id"]
    )[0][0]
    assert stored == json.loads(answer.request.content)["message"]


@pytest.mark.parametrize("sent_as", ["json", "data"])
def test_an_id_without_a_letter_is_none(http: httpx.Client, hub: Hub, sent_as: str) -> None:
    secret = {"x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"]}
    forms: list[Any] = [
        {"email": f"{uuid.uuid4().hex}@example.com", "submission_id": blank} for blank in (" ", "  ", "\t")
    ]

    answers = [http.post(PATH, headers=secret, **{sent_as: form}) for form in forms]

    assert [answer.status_code for answer in answers] == [202] * 3
    assert len({answer.json()["contact_id"] for answer in answers}) == 3


def test_json_that_a_sender_calls_a_form_is_read_as_json(http: httpx.Client, hub: Hub) -> None:
    email = f"{uuid.uuid4().hex}@example.com"

    answer = http.post(
        PATH,
        content=json.dumps({"email": email, "rooms": [1, 2]}),
        headers={
            "x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"],
            "content-type": "application/x-www-form-urlencoded",
        },
    )

    assert answer.status_code == 202, answer.text
    assert hub.rows("select data -> 'form' from public.events where id = %s", answer.json()["event_id"]) == [
        ({"email": email, "rooms": [1, 2]},)
    ]


def test_a_body_of_very_many_entries_is_refused(http: httpx.Client, hub: Hub) -> None:
    names = ",".join(f'"{number}":1' for number in range(60_000))

    answer = http.post(
        PATH,
        content="{" + names + ',"a":1,"a":1}',
        headers={"x-webhook-secret": hub.env["PRIME_WEBHOOK_SECRET"], "content-type": "application/json"},
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_many_entries")
