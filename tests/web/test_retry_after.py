"""Retry-After: when others want to be asked again, however they say it."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from shared import retry_after


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120),
        (" 0.5 ", 0.5),
        ("99999999999999999999", 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2115 07:28:00 GMT", 86_400),
        ("-5", None),
        ("1e3", None),
        ("soon", None),
        ("\xff\xb2", None),
        ("", None),
        (None, None),
    ],
)
def test_it_is_read_however_it_is_said(said: str | None, seconds: float | None) -> None:
    assert retry_after.seconds(said) == seconds


def test_a_date_is_that_many_seconds_from_now() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=3000), usegmt=True)

    assert retry_after.seconds(date) == pytest.approx(3000, abs=30)
