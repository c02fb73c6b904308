"""Text messages: numbers, segments, and a gateway's responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.channels import recipients
from backline.channels.base import Message
from backline.channels.http import HttpGateway, HttpResponse
from backline.channels.sms import segments
from backline.channels.sms.channel import SmsChannel, parse_response
from backline.channels.sms.settings import SmsSettings
from backline.errors import InvalidInput, Misconfigured
from tests.integration.channels.sandbox import CREATED

GSM = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("+4915112345678", "+4915112345678"),
        (" +49 151 1234-5678 ", "+4915112345678"),
        ("+49 (0)151 12345678", "+4915112345678"),
        ("+1 (500) 555-0006", "+15005550006"),
        ("+39 06 1234 5678", "+390612345678"),
        ("+44.20.7946.0958", "+442079460958"),
    ],
)
def test_a_number_is_parsed_in_any_usual_notation(typed: str, kept: str) -> None:
    assert recipients.parse_phone_number(typed, "to") == kept


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ("0151 12345678", "lacks its country code"),
        ("004915112345678", "lacks its country code"),
        ("+1 500 55", "too short|of its country"),
        ("+1 500 555 00067", "too long"),
        ("+999 1234567", "no country has that code"),
        ("+1 800 FLOWERS", "letters"),
        ("+", "not a phone number"),
        ("ann@example.com", "lacks its country code"),
        ("+49151\n12345678", "not a phone number"),
        ("+٤٩١٥١١٢٣٤٥٦٧٨", "not a phone number"),
        ("+" + "1" * 60, "not a phone number"),
    ],
)
def test_an_invalid_number_is_refused_with_the_fix(typed: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word) as caught:
        recipients.parse_phone_number(typed, "to.sms")
    assert caught.value.field == "to.sms"
    assert "+49 1511 2345678" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("", ("GSM-7", 0, 0)),
        ("a" * 160, ("GSM-7", 160, 1)),
        ("a" * 161, ("GSM-7", 161, 2)),
        ("a" * 306, ("GSM-7", 306, 2)),
        ("a" * 307, ("GSM-7", 307, 3)),
        ("€" * 80, ("GSM-7", 160, 1)),
        # 153 is odd: an escaped character would stand half in one message, so 76 fit into each.
        ("€" * 153, ("GSM-7", 306, 3)),
        ("ç" * 70, ("UCS-2", 70, 1)),
        ("ç" * 71, ("UCS-2", 71, 2)),
        ("ç" * 134, ("UCS-2", 134, 2)),
        ("ç" * 135, ("UCS-2", 135, 3)),
        ("😀" * 35, ("UCS-2", 70, 1)),
        # 67 is odd too: 33 pairs in each.
        ("😀" * 67, ("UCS-2", 134, 3)),
        (GSM, ("GSM-7", 127, 1)),
    ],
)
def test_segments_are_counted_as_they_are_billed(text: str, counted: tuple[str, int, int]) -> None:
    assert segments.count_segments(text) == counted


@given(st.text(max_size=500))
def test_a_text_fits_its_segments_and_not_one_fewer(text: str) -> None:
    counted = segments.count_segments(text)
    each = {"GSM-7": 153, "UCS-2": 67}[counted.encoding]
    assert counted.units <= max(counted.parts * each, {"GSM-7": 160, "UCS-2": 70}[counted.encoding])
    if counted.parts > 1:
        assert counted.units > (counted.parts - 1) * (each - 1)


@given(st.text(max_size=100))
def test_replacing_lookalikes_never_costs_more_or_loses_a_letter(text: str) -> None:
    plain = segments.replace_lookalikes(text)
    assert plain == text or segments.count_segments(plain).encoding == "GSM-7"
    assert [char for char in plain if char.isalnum()] == [char for char in text if char.isalnum()]


def test_lookalikes_are_replaced_if_the_text_is_gsm_then() -> None:
    assert segments.replace_lookalikes("72,80\u00a0€ \u2013 “yes”…") == '72,80 € - "yes"...'
    assert segments.replace_lookalikes("72,80\u00a0€ 😀") == "72,80\u00a0€ 😀"
    assert segments.non_gsm_characters("a😀ç€😀") == "😀ç"


# --- the channel ----------------------------------------------------------------------------------

GATEWAY = HttpGateway("sms_gateway", "https://api.example", "AC1", "token", {})


def channel(text: str, gateway: HttpGateway = GATEWAY, **settings: Any) -> SmsChannel:
    return SmsChannel(SmsSettings(**settings), gateway, lambda _: text)


def message() -> Message:
    return Message(7, "sms", "+4915112345678", {}, CREATED)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (" \n", "is empty"),
        ("a" * 1601, "1601 characters; the limit is 1600"),
        ("a" * 460, "needs 4 segments; the limit is 3 .sms.max_segments.: shorten it$"),
        ("a" * 210 + "😀", "needs 4 segments; .* without '😀'"),
    ],
)
def test_a_text_that_cannot_be_sent_is_refused_with_the_reason(text: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word) as caught:
        channel(text, max_segments=3).prepare(message())
    assert caught.value.field == "body"


@pytest.mark.parametrize(
    ("sender", "form"),
    [
        ("+15005550006", "From=%2B15005550006"),
        ("Shop 24", "From=Shop+24"),
        ("12345", "From=12345"),
        ("MG" + "0a" * 16, "MessagingServiceSid=MG" + "0a" * 16),
    ],
)
def test_the_sender_is_a_number_a_name_or_a_service(sender: str, form: str) -> None:
    body = channel("Hi", sender=sender).prepare(message()).body.decode()
    assert body == f"To=%2B4915112345678&{form}&Body=Hi"


@pytest.mark.parametrize("sender", ["", "Backline Shop", "Späti", "+0151", "1", "---"])
def test_an_invalid_sender_is_reported_at_once(sender: str) -> None:
    with pytest.raises(Misconfigured, match=r"sms\.sender"):
        channel("Hi", sender=sender)


def test_the_connection_may_set_sender_account_and_api_keys() -> None:
    extra = {"sender": "+15005550006", "account_sid": "AC9"}
    prepared = channel("Hi", HttpGateway("sms_gateway", "https://api.example", "SK1", "key", extra)).prepare(message())
    assert prepared.url == "https://api.example/2010-04-01/Accounts/AC9/Messages.json"
    assert b"From=%2B15005550006" in prepared.body


def test_the_status_callback_is_sent_if_it_is_set() -> None:
    told = channel("Hi", status_callback="https://airflow.example/backline/hooks/twilio").prepare(message())
    assert b"StatusCallback=https%3A%2F%2Fairflow.example%2Fbackline%2Fhooks%2Ftwilio" in told.body


# --- answers --------------------------------------------------------------------------------------


def response(status: int, body: object, **headers: str) -> HttpResponse:
    return HttpResponse(status, headers, body if isinstance(body, str) else json.dumps(body))


def test_a_receipt_has_the_segments_and_not_the_text() -> None:
    body = {"sid": "SM1", "status": "queued", "num_segments": "2", "body": "code 402913", "error_code": None}
    assert parse_response(response(201, body), "x") == ("201", "queued, 2 segments", "SM1", ())


@pytest.mark.parametrize(
    ("status", "body", "kind", "word"),
    [
        (400, {"code": 21211, "message": "Invalid 'To'"}, "rejected", r"Invalid 'To' \(code 21211\)"),
        (400, {"code": 21610, "message": "STOP"}, "rejected", "code 21610"),
        (401, {"code": 20003, "message": "Authenticate"}, "authentication", "code 20003"),
        (403, {"code": 21408, "message": "Region not enabled"}, "rejected", "code 21408"),
        (400, {"code": 21611, "message": "Queue full"}, "rate_limited", "code 21611"),
        (429, {"code": 20429, "message": "Too Many Requests"}, "rate_limited", "code 20429"),
        (503, "<html>down</html>", "network", "<html>down"),
        (500, [], "unknown", "answered 500"),
        (
            201,
            {"sid": "SM1", "status": "failed", "error_code": 30007, "error_message": "Filtered"},
            "rejected",
            "Filtered",
        ),
        (200, "<html>Sign in to the network</html>", "unknown", "outcome unknown"),
        (201, {"status": "queued"}, "unknown", "outcome unknown"),
    ],
)
def test_every_other_response_is_an_error_of_its_class(status: int, body: object, kind: str, word: str) -> None:
    from backline.errors import BacklineError

    with pytest.raises(BacklineError, match=word) as caught:
        parse_response(response(status, body), "https://api.example")
    assert caught.value.failure_class == kind
    assert caught.value.code == str(status)
