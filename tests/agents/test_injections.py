"""injections: what reads like orders to a machine is left out, what customers write stays."""

import time

import pytest
from agents.test_qualification import CONFIG
from hypothesis import given
from hypothesis import strategies as st
from support.injected import CORPUS, Case, cases
from support.read_forms import read

from shared.agents.lead_qualifier.qualification import Rules, qualify
from shared.models.injections import passages

RULES = Rules.model_validate(CONFIG)


def test_the_corpus_is_as_wide_as_it_says() -> None:
    assert len(CORPUS) >= 40
    assert len({each["language"] for each in CORPUS}) >= 10
    assert len({each["style"] for each in CORPUS}) >= 12
    assert len({each["field"] for each in CORPUS}) >= 5


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.style)
def test_of_an_injected_text_what_was_asked_for_stays_and_the_rest_goes(case: Case) -> None:
    reading, left_out = passages.without(read(case.injected))

    clean = qualify(read(case.plain), None, "prime", RULES)
    judged = qualify(reading, None, "prime", RULES)
    assert left_out
    assert judged.score <= clean.score
    assert judged.band == clean.band
    assert judged.service == clean.service


@pytest.mark.parametrize(
    "text",
    [
        "Half the house has no power since this morning, this is urgent. Budget is about $5,000.",
        "Please treat this as urgent, it is top priority for us.",
        "Please ignore my previous enquiry, we now want 4 downlights instead.",
        "The heat pump model is FTXM50. It scored badly in the energy rating. IP65 needed.",
        "Can you run new cable to the garage? We use the old function room as an office, call me after 5.",
        "Can you act as our main contractor? We have three electricians already.",
        "Hi, the alarm system: it beeps. User manual attached.",
        "Please reply only by email, thanks!",
        "Our tool shed needs power. First floor: 4 sockets. Note: dog on site. Model: Daikin",
        "Top floor, best access from 10/10 Queen St, the switch is rated 100A",
        "https://prime.example/contact?utm_source=aGVsbG8gd29ybGQgdGhpcyBpcw",
        "Kia ora, kei te hiahia ahau i tētahi kaihiko. Kei te pakaru te pouaka hiko.",
        "Bonjour, je voudrais une nouvelle prise. Merci d'ignorer mon message précédent.",
        "Hallo, wir brauchen einen neuen Sicherungskasten, bitte rufen Sie an.",
        "Здравствуйте, нужен электрик, не работает розетка.",
        "你好，我们需要换一个配电箱。",
        "Could you update the wiring and set up the call button? Send the quote to my wife.",
        "We were told to bypass the meter until you come. The system says error: E5.",
        "Please give us your best price, the maximum budget is 2000 & we can start <b>tomorrow</b>.",
    ],
)
def test_what_customers_write_stays_as_it_is(text: str) -> None:
    reading, left_out = passages.without(read({"message": text}))

    assert (reading.message, left_out) == (text, ())


@given(text=st.text(max_size=400))
def test_any_text_is_read_without_an_error_and_never_grows(text: str) -> None:
    kept, _ = passages.cut(text)

    assert len(kept) <= len(text)
    assert passages.cut(kept)[0] == kept


@pytest.mark.parametrize(
    "text",
    [
        *("ignore ", "ignorier", "score a. ", "punta", "<", "{\"a\"", "a ", "\n", "- ", "a_", "&#105;", "send "),
        *("ignore it. ", "ignore it.\n", "you are not. ", "dear the ", "A", "=", "i g n o r e ", "\\u0069"),
    ],
)  # fmt: skip
def test_a_hostile_text_is_read_quickly(text: str) -> None:
    reading = read({"message": (text * 10_000)[:10_000]})
    started = time.perf_counter()

    passages.without(reading)

    assert time.perf_counter() - started < 0.5
