"""Identifiers of a contact, in one spelling each: an e-mail lower-cased, a phone number as E.164.

The libraries decide what is valid, at 130 to 160 µs a piece. Addresses and numbers written the plain way, as
nearly all are, take a short cut through the same rules; a test holds both ways equal. The libraries are
imported at their first use, for a cold start pays for every import.
"""

import re
from functools import lru_cache

# Narrower than the standard: the library judges all that it does not match.
_PLAIN_EMAIL = re.compile(
    r"(?=[^@]{1,64}@)[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*"
    r"@(?:(?![^.]{64})(?!..--)[a-z0-9]+(?:-+[a-z0-9]+)*\.)+(?!arpa$|invalid$|local$|localhost$|onion$|test$)[a-z]{2,24}"
)
_PLAIN_PHONE = re.compile(r"(\+?)([0-9][0-9 ().-]{5,24})", re.ASCII)
_PUNCTUATION = str.maketrans("", "", " ().-")


def email(raw: str | None) -> str | None:
    """The address in its one spelling, or None when it cannot be one. No DNS is asked."""
    if not raw:
        return None
    address = raw.strip().lower()
    if len(address) <= 200 and _PLAIN_EMAIL.fullmatch(address):
        return address
    return _judged_email(address)


def phone(raw: str | None, region: str) -> str | None:
    """The number as E.164, or None when it cannot be one; `region` reads numbers without a country code."""
    if not raw:
        return None
    plain = _PLAIN_PHONE.fullmatch(raw.strip())
    if plain:
        number = _national_number(plain[1], plain[2].translate(_PUNCTUATION), region)
        if number:
            return number
    return _judged_phone(raw, region)


def _judged_email(address: str) -> str | None:
    from email_validator import EmailNotValidError, validate_email

    if len(address) > 320:
        return None
    try:
        # Lower-cased again: normalising may bring capitals back, as from full-width letters.
        return validate_email(address, check_deliverability=False).normalized.lower()
    except EmailNotValidError:
        return None


def _judged_phone(raw: str, region: str) -> str | None:
    import phonenumbers

    try:
        number = phonenumbers.parse(raw, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _national_number(plus: str, digits: str, region: str) -> str | None:
    rules = _region_rules(region)
    if rules is None:
        return None
    country_code, trunk_prefix, valid = rules
    prefix = country_code if plus else trunk_prefix
    number = digits[len(prefix) :]
    if digits.startswith(prefix) and valid.fullmatch(number):
        return f"+{country_code}{number}"
    return None


@lru_cache(maxsize=64)
def _region_rules(region: str) -> tuple[str, str, re.Pattern[str]] | None:
    """Country code, trunk prefix and every valid number of a region, from the library's own tables.

    None for a region where the short cut does not hold: those that share a country code, or rewrite their trunk prefix.
    """
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

    tables = PhoneMetadata.metadata_for_region(region)
    if (
        tables is None
        or tables.country_code is None
        or COUNTRY_CODE_TO_REGION_CODE[tables.country_code] != (region,)
        or not tables.national_prefix
        or tables.national_prefix != tables.national_prefix_for_parsing
        or tables.national_prefix_transform_rule
    ):
        return None
    kinds = (tables.fixed_line, tables.mobile, tables.toll_free)
    valid = "|".join(kind.national_number_pattern for kind in kinds if kind and kind.national_number_pattern)
    # A number that begins with the trunk prefix again can be read in several ways.
    return (
        str(tables.country_code),
        tables.national_prefix,
        re.compile(f"(?!{tables.national_prefix})(?:{valid})"),
    )
