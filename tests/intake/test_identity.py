"""identity: one spelling for an address and a number, by the libraries' rules whichever way is taken."""

import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.intake import identity

REGIONS = ("NZ", "AU", "GB", "US", "DE", "IT", "AR", "SG")
LOCAL = st.text("abcXYZ019._+-%'\"é ", min_size=1, max_size=12)
LABEL = st.text("abcXn019-é", min_size=1, max_size=8)
ENDING = st.sampled_from(
    ["com", "co.nz", "test", "local", "LOCALHOST", "arpa", "c", "xn--p1ai", "nz1", "onion", "example"]
)


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("  Ann.Bee@Example.CO.NZ ", "ann.bee@example.co.nz"),
        ("ann+prime@example.com", "ann+prime@example.com"),
        ("Zoë@Bücher.example", "zoë@bücher.example"),
        ("ann@localhost", None),
        ("ann@example.test", None),
        ("ann.@example.com", None),
        ("ann@@example.com", None),
        ("not an address", None),
        (f"{'a' * 300}@example.com", None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_has_one_spelling(raw: str | None, address: str | None) -> None:
    assert identity.email(raw) == address


@pytest.mark.parametrize(
    ("raw", "region", "number"),
    [
        ("021 123 4567", "NZ", "+64211234567"),
        ("(09) 555-0123", "NZ", "+6495550123"),
        ("+64 21 123 4567", "AU", "+64211234567"),
        ("0064 21 123 4567", "NZ", "+64211234567"),
        ("211234567", "NZ", "+64211234567"),
        ("0412 345 678", "AU", "+61412345678"),
        ("+1 (415) 555-2671", "NZ", "+14155552671"),
        ("021 123", "NZ", None),
        ("call me", "NZ", None),
        ("", "NZ", None),
        (None, "NZ", None),
    ],
)
def test_a_number_is_e164(raw: str | None, region: str, number: str | None) -> None:
    assert identity.phone(raw, region) == number


@given(local=LOCAL, labels=st.lists(LABEL, max_size=3), ending=ENDING)
@example(local="a", labels=["ab--cd"], ending="com")
@example(local="a", labels=["x" * 64], ending="com")
def test_the_short_cut_for_addresses_never_differs_from_the_library(
    local: str, labels: list[str], ending: str
) -> None:
    raw = f"{local}@{'.'.join([*labels, ending])}"

    assert identity.email(raw) == identity._judged_email(raw.strip().lower())


@given(region=st.sampled_from(REGIONS), data=st.data())
def test_the_short_cut_for_numbers_never_differs_from_the_library(region: str, data: st.DataObject) -> None:
    sample = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    assert sample is not None
    start = data.draw(
        st.sampled_from(["", "0", "00", "1", f"+{sample.country_code}", f"+{sample.country_code} 0"])
    )
    national = data.draw(st.text("0123456789 -().", min_size=3, max_size=12))
    kept = data.draw(st.integers(0, 6))
    raw = start + str(sample.national_number)[:kept] + national

    assert identity.phone(raw, region) == identity._judged_phone(raw, region)
