"""Parses the recipients of each channel: email addresses, phone numbers, devices and webhook endpoints."""

from __future__ import annotations

import re
from typing import NamedTuple

from backline.caching import cache_short_texts
from backline.channels.base import ALL_ENDPOINTS
from backline.errors import InvalidInput

# Addresses of this form need no further check; all others go to email-validator, which takes 50 times as long.
_SIMPLE_ADDRESS = re.compile(
    r"(?P<local>[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*)@"
    r"(?P<domain>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63})"
)
# Names that RFC 2606 and RFC 6761 reserve for tests and development. They are accepted, because local receivers use
# them; email-validator, written for sign-up forms, refuses most of them.
_RESERVED_DOMAIN = re.compile(r"localhost|.+\.(?:localhost|test|example|invalid|local)", re.IGNORECASE)
CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_ADDRESS_LENGTH = 500
"""Characters of an email address with its display name."""
MAX_NUMBER_LENGTH = 40
"""Characters of a number as typed, including spaces and brackets."""
_NUMBER_HINT = "write it with its country code, for example +49 1511 2345678"
_WORD = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00df-\u00f6\u00f8-\u00ff-]+"
_LETTER = "A-Za-z0-9\u00df-\u00f6\u00f8-\u00ff"
# Punycode, which SQL does not know, makes other labels and addresses longer, to at most 63 and 254 characters.
_LABEL = f"(?!..--)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?|[{_LETTER}](?:[{_LETTER}-]{{0,28}}[{_LETTER}])?)"
_DOMAIN = f"(?:(?:{_LABEL}|[Xx][Nn]--[A-Za-z0-9-]{{1,58}}[A-Za-z0-9])[.])+[A-Za-z]{{2,63}}|localhost"
ADDR_SPEC_PATTERN = f"(?![^@]{{65}}|.{{255}}|(?=[^>]*[^!-~>])[^>]{{121}}){_WORD}(?:[.]{_WORD})*@(?:{_DOMAIN})"
ADDRESS_PATTERN = f'{ADDR_SPEC_PATTERN}|[^<>@"\\\\\x01-\x1f\x7f-\x9f\u2028\u2029]+ <{ADDR_SPEC_PATTERN}>'
"""Addresses that SQL takes as they are, with or without a display name."""
SHORT_ADDRESS_PATTERN = "[A-Za-z0-9_+-]+(?:[.][A-Za-z0-9_+-]+)*@(?:[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*[.])+[A-Za-z][A-Za-z]+"
USER_PREFIX = "user:"
"""Prefix of a recipient that means all devices of one user: `user:17`."""
PUSH_PATTERN = "user:[!-~]{1,200}|(?!user:)[!-~]{8,}"
WEBHOOK_PATTERN = "[*]|ep_[0-9]{1,18}"
"""Recipients that SQL takes as they are."""
_DEVICE_TOKEN = re.compile(r"[!-~]{8,4096}")
_USER_ID = re.compile(r"[!-~]{1,200}")
_ENDPOINT_ID = re.compile(r"ep_[0-9]{1,18}")


class Address(NamedTuple):
    """One mailbox."""

    name: str
    """Display name, or empty."""
    addr_spec: str
    """`local@domain` (RFC 5322), the domain lower case and punycode (RFC 5890); needs SMTPUTF8 (RFC 6531) unless ASCII."""


@cache_short_texts(4096)
def parse_address(text: str, field: str) -> Address:
    """Parse `a@b.example`, `<a@b.example>` or `Name <a@b.example>`; InvalidInput names the field."""
    if len(text) > MAX_ADDRESS_LENGTH:
        raise InvalidInput(
            field, f"has {len(text):,} characters; an address with its name has at most {MAX_ADDRESS_LENGTH}"
        )
    if not text.isprintable() and CONTROL_CHARACTERS.search(text):
        raise InvalidInput(field, "control characters and line breaks are not allowed in an address")
    text = text.strip()
    if not text.endswith(">"):
        return Address("", _validate_addr_spec(text, field))
    name, bracket, spec = text[:-1].rpartition("<")
    if not bracket:
        raise InvalidInput(field, f"{text[:80]!r} has a '>' without '<'; write it as: Name <user@example.com>")
    name = name.strip()
    if len(name) >= 2 and name.startswith('"') and name.endswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    elif re.search(r"[<>@]", name):
        raise InvalidInput(
            field, "give one address only; a name that contains '@', '<' or '>' must be in double quotes"
        )
    return Address(name, _validate_addr_spec(spec.strip(), field))


def _validate_addr_spec(spec: str, field: str) -> str:
    if match := _SIMPLE_ADDRESS.fullmatch(spec):
        local, domain = match["local"], match["domain"]
        # "--" may be punycode, which email-validator has to check.
        if len(local) <= 64 and len(spec) <= 254 and "--" not in domain:
            return f"{local}@{domain.lower()}"
    if not spec:
        raise InvalidInput(field, "an address is missing; write one such as user@example.com")
    # Imported here because it is slow to import, and most tasks do not need it.
    from email_validator import EmailNotValidError, validate_email

    _, _, domain = spec.rpartition("@")
    development = _RESERVED_DOMAIN.fullmatch(domain) is not None
    try:
        # The syntax is checked with an ordinary top-level domain in place of the reserved one.
        checked = validate_email(f"{spec}.com" if development else spec, check_deliverability=False, strict=True)
    except EmailNotValidError as exc:
        raise InvalidInput(field, f"{spec[:80]!r} is not an email address: {exc}") from None
    ascii_domain = checked.ascii_domain.removesuffix(".com") if development else checked.ascii_domain
    return f"{checked.local_part}@{ascii_domain}"


@cache_short_texts(4096)
def parse_phone_number(text: str, field: str) -> str:
    """A number with its country code, in any usual notation, as E.164 (ITU-T): +4915112345678.

    InvalidInput names the field. Only the length is checked for its country: which ranges are in use changes too often,
    and the gateway knows.
    """
    # Imported here because it is slow to import, and most tasks do not need it.
    import phonenumbers

    stripped = text.strip()
    if len(stripped) > MAX_NUMBER_LENGTH or not stripped.isascii() or not stripped.isprintable():
        problem = f"is not a phone number of at most {MAX_NUMBER_LENGTH} characters"
        raise InvalidInput(field, f"{stripped[:MAX_NUMBER_LENGTH]!r} {problem}; {_NUMBER_HINT}")
    if not stripped.startswith("+"):
        raise InvalidInput(field, f"{stripped!r} lacks its country code; {_NUMBER_HINT}")
    if any(char.isalpha() for char in stripped):
        raise InvalidInput(field, f"{stripped!r} is not a phone number: it has letters; {_NUMBER_HINT}")
    try:
        number = phonenumbers.parse(stripped)
    except phonenumbers.NumberParseException:
        raise InvalidInput(
            field, f"{stripped!r} is not a phone number: no country has that code; {_NUMBER_HINT}"
        ) from None
    match phonenumbers.is_possible_number_with_reason(number):
        case phonenumbers.ValidationResult.TOO_SHORT:
            problem = "too short"
        case phonenumbers.ValidationResult.TOO_LONG:
            problem = "too long"
        case phonenumbers.ValidationResult.IS_POSSIBLE:
            return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
        case _:
            problem = "of the wrong length"
    raise InvalidInput(field, f"{stripped!r} is {problem} for its country; {_NUMBER_HINT}")


def phone_number_pattern() -> str:
    """The numbers in E.164 that `parse_phone_number` accepts, by the possible lengths of each country's numbers."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

    codes: dict[tuple[int, ...], list[str]] = {}
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        non_geographical = regions[0] == "001"
        metadata = (
            PhoneMetadata.metadata_for_nongeo_region(code, None)
            if non_geographical
            else PhoneMetadata.metadata_for_region(regions[0], None)
        )
        possible = metadata.general_desc.possible_length if metadata and metadata.general_desc else ()
        lengths = tuple(length for length in possible if 6 <= len(str(code)) + length <= 15)
        if not lengths:
            continue
        codes.setdefault(lengths, []).append(str(code))
    return "[+](?:" + "|".join(
        f"(?:{'|'.join(of_lengths)})(?:{'|'.join(f'[0-9]{{{length}}}' for length in lengths)})"
        for lengths, of_lengths in codes.items()
    ) + ")"  # fmt: skip


def parse_push_recipient(text: str, field: str) -> str:
    """A device token or `user:ID`, checked; InvalidInput names the field."""
    text = text.strip()
    if text.startswith(USER_PREFIX):
        if not _USER_ID.fullmatch(text.removeprefix(USER_PREFIX)):
            raise InvalidInput(field, "needs a user id after user:, at most 200 characters, for example user:17")
    elif not _DEVICE_TOKEN.fullmatch(text):
        advice = "it has 8 to 4096 visible ASCII characters; give the one that the device got from its provider, or user:17 for all devices of a user"
        raise InvalidInput(field, f"{text[:80]!r} is not a device token; {advice}")
    return text


def parse_webhook_recipient(text: str, field: str) -> str:
    """`*` or an endpoint id, checked for its form only; InvalidInput names the field."""
    if text == ALL_ENDPOINTS or _ENDPOINT_ID.fullmatch(text):
        return text
    raise InvalidInput(field, 'must be "*" for every subscribed endpoint, or an endpoint id such as "ep_1"')
