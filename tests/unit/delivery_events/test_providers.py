"""Each provider's requests: signed as theirs are, and refused when they are not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backline.delivery_events import mailgun, sendgrid, ses, twilio
from backline.delivery_events.events import DeliveryEvent, InvalidSignature
from backline.errors import InvalidInput, Misconfigured
from tests.unit.delivery_events.fake_sns import CERTIFICATE_URL, TOPIC, FakeSns

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
OUR_MESSAGE_ID = "<backline.17.1795375150039681@shop.example>"
ANN = "ann@example.com"
FAKE_SNS = FakeSns(NOW)


# --- Amazon SES ---------------------------------------------------------------------------------------------


def mail(**parts: Any) -> dict[str, Any]:
    return {
        "mail": {
            "messageId": "0100018-ses", "timestamp": "2026-11-22T17:59:00.000Z", "destination": [ANN],
            "headers": [{"name": "Subject", "value": "Hi"}, {"name": "Message-ID", "value": OUR_MESSAGE_ID}],
        },
        **parts,
    }  # fmt: skip


def ses_events(event: dict[str, Any], **options: Any) -> list[DeliveryEvent]:
    events, confirmation = ses.parse_request(
        FAKE_SNS.notification(event, **options), [TOPIC], ses.CertificateCache(FAKE_SNS.fetch), NOW
    )
    assert confirmation is None
    return events


AT = "2026-11-22T17:59:30.123Z"
SES = {
    "delivery": (
        mail(notificationType="Delivery", delivery={"timestamp": AT, "recipients": [ANN], "smtpResponse": "250 2.6.0 Ok"}),
        ("delivered", False, None, "250 2.6.0 Ok"),
    ),
    "hard bounce": (
        mail(
            eventType="Bounce",
            bounce={"bounceType": "Permanent", "bounceSubType": "General", "timestamp": AT,
                    "bouncedRecipients": [{"emailAddress": ANN, "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 unknown"}]},
        ),
        ("bounced", True, "hard_bounce", "General smtp; 550 5.1.1 unknown"),
    ),
    "soft bounce": (
        mail(
            notificationType="Bounce",
            bounce={"bounceType": "Transient", "bounceSubType": "MailboxFull", "timestamp": AT, "bouncedRecipients": [{"emailAddress": ANN}]},
        ),
        ("bounced", False, None, "MailboxFull"),
    ),
    "complaint": (
        mail(
            eventType="Complaint",
            complaint={"timestamp": AT, "complainedRecipients": [{"emailAddress": ANN}], "complaintFeedbackType": "abuse"},
        ),
        ("complained", False, "complaint", "abuse"),
    ),
    "delay": (
        mail(
            eventType="DeliveryDelay",
            deliveryDelay={"timestamp": AT, "delayType": "MailboxFull", "delayedRecipients": [{"emailAddress": ANN}]},
        ),
        ("deferred", False, None, "MailboxFull"),
    ),
    "reject": (mail(eventType="Reject", reject={"reason": "Bad content"}), ("rejected", False, None, "Bad content")),
}  # fmt: skip


@pytest.mark.parametrize(("event", "wanted"), SES.values(), ids=SES)
@pytest.mark.parametrize("version", ["1", "2"])
def test_ses(event: dict[str, Any], wanted: tuple[Any, ...], version: str) -> None:
    [found] = ses_events(event, version=version)
    assert (found.event, found.hard, found.suppress, found.detail) == wanted
    assert (found.channel, found.recipient, found.message_id, found.provider_id) == (
        "email",
        ANN,
        OUR_MESSAGE_ID,
        "0100018-ses",
    )
    assert found.source_id.endswith(f"/{ANN}")
    assert found.at.tzinfo is not None


@pytest.mark.parametrize(
    "event",
    [
        mail(eventType="Open", open={"timestamp": AT}),
        mail(eventType="Send", send={}),
        mail(
            eventType="Complaint",
            complaint={
                "timestamp": AT,
                "complainedRecipients": [{"emailAddress": ANN}],
                "complaintFeedbackType": "not-spam",
            },
        ),
    ],
)
def test_ses_events_of_other_types_are_ignored(event: dict[str, Any]) -> None:
    assert ses_events(event) == []


def test_ses_has_an_event_per_recipient() -> None:
    event = mail(notificationType="Delivery", delivery={"timestamp": AT, "recipients": [ANN, "bob@example.com"]})
    assert [found.recipient for found in ses_events(event)] == [ANN, "bob@example.com"]
    assert len({found.source_id for found in ses_events(event)}) == 2


GOOD = SES["delivery"][0]
FORGERIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another message": lambda note: note | {"Message": note["Message"].replace(ANN, "eve@example.com")},
    "another time": lambda note: note | {"Timestamp": "2026-11-22T17:58:00.000Z"},
    "another topic": lambda note: note | {"TopicArn": "arn:aws:sns:eu-west-1:666:evil"},
    "a subject added": lambda note: note | {"Subject": "x"},
    "no signature": lambda note: note | {"Signature": ""},
    "a signature that is none": lambda note: note | {"Signature": "%%%"},
    "an unknown version": lambda note: note | {"SignatureVersion": "3"},
    "a certificate elsewhere": lambda note: note | {"SigningCertURL": "https://evil.example/sns.pem"},
    "a host that begins like Amazon's": lambda note: (
        note | {"SigningCertURL": "https://sns.eu-west-1.amazonaws.com.evil.example/x.pem"}
    ),
    "a host that ends like Amazon's": lambda note: (
        note | {"SigningCertURL": "https://evilsns.eu-west-1.amazonaws.com/x.pem"}
    ),
    "another bucket": lambda note: note | {"SigningCertURL": "https://s3.eu-west-1.amazonaws.com/evil/x.pem"},
    "a login before the host": lambda note: (
        note | {"SigningCertURL": "https://sns.eu-west-1.amazonaws.com@evil.example/x.pem"}
    ),
    "no TLS": lambda note: note | {"SigningCertURL": CERTIFICATE_URL.replace("https:", "http:")},
    "another port": lambda note: (
        note | {"SigningCertURL": CERTIFICATE_URL.replace("amazonaws.com", "amazonaws.com:8443")}
    ),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_request_not_signed_by_amazon_is_refused(forge: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    note = forge(json.loads(FAKE_SNS.notification(GOOD)))
    with pytest.raises(InvalidSignature):
        ses.parse_request(json.dumps(note).encode(), [TOPIC], ses.CertificateCache(FAKE_SNS.fetch), NOW)


def test_no_host_but_amazons_is_ever_asked() -> None:
    def fetch(url: str) -> bytes:
        raise AssertionError(url)

    for name, forge in FORGERIES.items():
        if "SigningCertURL" in json.dumps(forge(json.loads(FAKE_SNS.notification(GOOD)))) and "host" in name:
            note = forge(json.loads(FAKE_SNS.notification(GOOD)))
            with pytest.raises(InvalidSignature):
                ses.parse_request(json.dumps(note).encode(), [TOPIC], ses.CertificateCache(fetch), NOW)


@pytest.mark.parametrize("later", [timedelta(hours=26), -timedelta(minutes=20)])
def test_an_old_notification_is_a_replay(later: timedelta) -> None:
    with pytest.raises(InvalidSignature, match="too long ago"):
        ses.parse_request(FAKE_SNS.notification(GOOD), [TOPIC], ses.CertificateCache(FAKE_SNS.fetch), NOW + later)


def test_an_expired_certificate_is_refused() -> None:
    old = FakeSns(NOW - timedelta(days=800))
    with pytest.raises(InvalidSignature, match="not valid now"):
        ses.parse_request(old.notification(GOOD, at=NOW), [TOPIC], ses.CertificateCache(old.fetch), NOW)


def test_a_certificate_is_fetched_once() -> None:
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return FAKE_SNS.fetch(url)

    kept = ses.CertificateCache(fetch)
    for _ in range(3):
        ses.parse_request(FAKE_SNS.notification(GOOD), [TOPIC], kept, NOW)
    assert asked == [CERTIFICATE_URL]


def test_a_subscription_is_confirmed_at_amazons_host_only() -> None:
    url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"
    kept = ses.CertificateCache(FAKE_SNS.fetch)
    assert ses.parse_request(FAKE_SNS.confirmation(url), [TOPIC], kept, NOW) == ([], url)
    with pytest.raises(InvalidSignature, match="SubscribeURL"):
        ses.parse_request(FAKE_SNS.confirmation("https://evil.example/"), [TOPIC], kept, NOW)
    with pytest.raises(InvalidSignature, match=r"hooks\.ses_topic_arns"):
        ses.parse_request(FAKE_SNS.confirmation(url), ["arn:aws:sns:eu-west-1:1:other"], kept, NOW)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"Type": "Notification"}', b"\xff", json.dumps(GOOD).encode()]
)
def test_a_body_that_is_not_sns_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        ses.parse_request(body, [TOPIC], ses.CertificateCache(FAKE_SNS.fetch), NOW)


def test_a_signed_message_that_is_not_from_ses_is_refused_or_ignored() -> None:
    kept = ses.CertificateCache(FAKE_SNS.fetch)
    assert ses.parse_request(FAKE_SNS.notification("Successfully validated SNS topic"), [TOPIC], kept, NOW) == (
        [],
        None,
    )
    with pytest.raises(InvalidInput, match="is not an event of SES"):
        ses.parse_request(FAKE_SNS.notification({"eventType": "Bounce"}), [TOPIC], kept, NOW)


# --- SendGrid -----------------------------------------------------------------------------------------------

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = base64.b64encode(KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
STAMP = str(int(NOW.timestamp()))


def sendgrid_request(*events: Any, stamp: str = STAMP) -> tuple[dict[str, str], bytes]:
    body = json.dumps(list(events)).encode()
    signature = KEY.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return {sendgrid.SIGNATURE_HEADER: base64.b64encode(signature).decode(), sendgrid.TIMESTAMP_HEADER: stamp}, body


def sendgrid_event(event: str, **details: Any) -> dict[str, Any]:
    return {
        "event": event, "email": ANN, "timestamp": int(NOW.timestamp()) - 5, "smtp-id": OUR_MESSAGE_ID, "sg_event_id": f"e-{event}",
        "sg_message_id": "filter0001.123", **details,
    }  # fmt: skip


SENDGRID = {
    "delivered": (sendgrid_event("delivered", response="250 OK"), ("delivered", False, None, "250 OK")),
    "deferred": (sendgrid_event("deferred", response="400 try again"), ("deferred", False, None, "400 try again")),
    "bounce": (
        sendgrid_event("bounce", type="bounce", status="5.1.1", reason="550 unknown"),
        ("bounced", True, "hard_bounce", "5.1.1 550 unknown"),
    ),
    "blocked": (
        sendgrid_event("bounce", type="blocked", reason="550 spam policy"),
        ("bounced", False, None, "550 spam policy"),
    ),
    "spam": (sendgrid_event("spamreport"), ("complained", False, "complaint", None)),
    "dropped, bounced before": (
        sendgrid_event("dropped", reason="Bounced Address"),
        ("rejected", False, "hard_bounce", "Bounced Address"),
    ),
    "dropped": (
        sendgrid_event("dropped", reason="Invalid SMTPAPI header"),
        ("rejected", False, None, "Invalid SMTPAPI header"),
    ),
    "unsubscribed": (sendgrid_event("unsubscribe"), ("unsubscribed", False, None, None)),
    "unsubscribed from a group": (sendgrid_event("group_unsubscribe"), ("unsubscribed", False, None, None)),
}


@pytest.mark.parametrize(("event", "wanted"), SENDGRID.values(), ids=SENDGRID)
def test_sendgrid(event: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    headers, body = sendgrid_request(event, sendgrid_event("open"), sendgrid_event("processed"))
    [found] = sendgrid.parse_request(headers, body, PUBLIC, NOW)
    assert (found.event, found.hard, found.suppress, found.detail) == wanted
    assert (found.recipient, found.message_id, found.source_id) == (ANN, OUR_MESSAGE_ID, event["sg_event_id"])


def test_sendgrid_may_sign_with_ed25519() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    body = json.dumps([sendgrid_event("delivered")]).encode()
    headers = {
        sendgrid.SIGNATURE_HEADER: base64.b64encode(key.sign(STAMP.encode() + body)).decode(),
        sendgrid.TIMESTAMP_HEADER: STAMP,
    }
    assert len(sendgrid.parse_request(headers, body, public, NOW)) == 1
    with pytest.raises(InvalidSignature):
        sendgrid.parse_request(headers, body + b" ", public, NOW)


def test_a_request_not_signed_by_sendgrid_is_refused() -> None:
    headers, body = sendgrid_request(sendgrid_event("delivered"))
    for wrong_headers, wrong_body in (
        (headers, body.replace(b"ann@", b"eve@")),
        (headers | {sendgrid.TIMESTAMP_HEADER: str(int(STAMP) + 1)}, body),
        (headers | {sendgrid.SIGNATURE_HEADER: "AAAA"}, body),
        (headers | {sendgrid.SIGNATURE_HEADER: "%"}, body),
        ({}, body),
    ):
        with pytest.raises(InvalidSignature):
            sendgrid.parse_request(wrong_headers, wrong_body, PUBLIC, NOW)
    with pytest.raises(InvalidSignature, match="too long ago"):
        sendgrid.parse_request(headers, body, PUBLIC, NOW + timedelta(hours=26))


@pytest.mark.parametrize("key", ["", "x", "AAAA", base64.b64encode(rsa.generate_private_key(65537, 2048).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()])  # fmt: skip
def test_an_invalid_key_is_named(key: str) -> None:
    headers, body = sendgrid_request(sendgrid_event("delivered"))
    with pytest.raises(Misconfigured, match=r"hooks\.sendgrid_public_key"):
        sendgrid.parse_request(headers, body, key, NOW)


@pytest.mark.parametrize(
    "event", [7, {"event": "bounce"}, sendgrid_event("bounce", timestamp="soon"), sendgrid_event("bounce", email=None)]
)
def test_an_event_that_is_not_sendgrids_is_left_out_of_its_request(event: Any) -> None:
    headers, body = sendgrid_request(sendgrid_event("delivered"), event, sendgrid_event("spamreport"))
    assert [one.event for one in sendgrid.parse_request(headers, body, PUBLIC, NOW)] == ["delivered", "complained"]


@pytest.mark.parametrize("body", [b"{}", b"x", b"[" * 100_000])
def test_a_body_that_is_not_sendgrids_is_refused(body: bytes) -> None:
    signature = KEY.sign(STAMP.encode() + body, ec.ECDSA(hashes.SHA256()))
    headers = {sendgrid.SIGNATURE_HEADER: base64.b64encode(signature).decode(), sendgrid.TIMESTAMP_HEADER: STAMP}
    with pytest.raises(InvalidInput):
        sendgrid.parse_request(headers, body, PUBLIC, NOW)


# --- Mailgun ------------------------------------------------------------------------------------------------


def mailgun_request(event: Any, *, token: str = "t" * 50, key: str = "signing-key", stamp: str = STAMP) -> bytes:
    signature = hmac.new(key.encode(), f"{stamp}{token}".encode(), hashlib.sha256).hexdigest()
    signed = {"timestamp": stamp, "token": token, "signature": signature}
    return json.dumps({"signature": signed, "event-data": event}).encode()


def mailgun_event(event: str, **details: Any) -> dict[str, Any]:
    return {
        "event": event, "id": "ev-1", "timestamp": NOW.timestamp() - 3, "recipient": ANN,
        "message": {"headers": {"message-id": OUR_MESSAGE_ID.strip("<>")}}, **details,
    }  # fmt: skip


MAILGUN = {
    "delivered": (mailgun_event("delivered", **{"delivery-status": {"code": 250, "message": "OK"}}), ("delivered", False, None, "250 OK")),
    "temporary": (
        mailgun_event("failed", severity="temporary", reason="generic", **{"delivery-status": {"code": 451, "message": "later"}}),
        ("deferred", False, None, "451 later"),
    ),
    "permanent": (
        mailgun_event("failed", severity="permanent", reason="bounce", **{"delivery-status": {"code": 550, "message": "unknown"}}),
        ("bounced", True, "hard_bounce", "550 unknown"),
    ),
    "too old": (mailgun_event("failed", severity="permanent", reason="old"), ("bounced", False, None, "old")),
    "complained before": (mailgun_event("failed", severity="permanent", reason="suppress-complaint"), ("rejected", False, "complaint", "suppress-complaint")),
    "complained": (mailgun_event("complained"), ("complained", False, "complaint", None)),
    "unsubscribed": (mailgun_event("unsubscribed"), ("unsubscribed", False, None, None)),
    "rejected": (mailgun_event("rejected", reason="spam"), ("rejected", False, None, "spam")),
}  # fmt: skip


@pytest.mark.parametrize(("event", "wanted"), MAILGUN.values(), ids=MAILGUN)
def test_mailgun(event: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    [found] = mailgun.parse_request(mailgun_request(event), "signing-key", NOW)
    assert (found.event, found.hard, found.suppress, found.detail) == wanted
    assert (found.recipient, found.message_id, found.source_id) == (ANN, OUR_MESSAGE_ID.strip("<>"), "t" * 50)


def test_mailgun_events_of_other_types_are_ignored() -> None:
    assert mailgun.parse_request(mailgun_request(mailgun_event("opened")), "signing-key", NOW) == []


def test_a_request_not_signed_by_mailgun_is_refused() -> None:
    event = mailgun_event("complained")
    for body in (
        mailgun_request(event, key="other"),
        mailgun_request(event).replace(STAMP.encode(), str(int(STAMP) + 1).encode()),
    ):
        with pytest.raises(InvalidSignature):
            mailgun.parse_request(body, "signing-key", NOW)
    with pytest.raises(InvalidSignature, match="too long ago"):
        mailgun.parse_request(mailgun_request(event), "signing-key", NOW + timedelta(hours=26))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"signature": {}}',
        mailgun_request(7),
        mailgun_request(mailgun_event("complained", recipient="")),
        mailgun_request(mailgun_event("failed", message=[1])),
    ],
)
def test_a_body_that_is_not_mailguns_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        mailgun.parse_request(body, "signing-key", NOW)


# --- Twilio -------------------------------------------------------------------------------------------------

URL = "https://mail.shop.example/backline/hooks/twilio?message=17"


def twilio_signature(url: str, form: dict[str, str], token: str = "auth-token") -> str:
    text = url + "".join(name + form[name] for name in sorted(form))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def twilio_form(status: str, **details: str) -> dict[str, str]:
    return {"MessageSid": "SM1", "MessageStatus": status, "To": "+491701234567", "From": "+15005550006", **details}


TWILIO = {
    "delivered": (twilio_form("delivered"), ("delivered", False, None, None)),
    "read": (twilio_form("read"), ("delivered", False, None, None)),
    "unknown number": (twilio_form("undelivered", ErrorCode="30005"), ("bounced", True, "hard_bounce", "error 30005")),
    "filtered": (twilio_form("undelivered", ErrorCode="30007"), ("bounced", False, None, "error 30007")),
    "stopped": (twilio_form("failed", ErrorCode="21610"), ("unsubscribed", False, "unsubscribed", "error 21610")),
}


@pytest.mark.parametrize(("form", "wanted"), TWILIO.values(), ids=TWILIO)
def test_twilio(form: dict[str, str], wanted: tuple[Any, ...]) -> None:
    [found] = twilio.parse_request(URL, twilio_signature(URL, form), urlencode(form).encode(), "auth-token", NOW)
    assert (found.event, found.hard, found.suppress, found.detail) == wanted
    assert (found.channel, found.recipient, found.provider_id) == ("sms", "+491701234567", "SM1")
    assert found.source_id == f"SM1/{form['MessageStatus']}"


@pytest.mark.parametrize("status", ["queued", "sending", "sent", "accepted"])
def test_an_intermediate_status_is_not_an_event(status: str) -> None:
    form = twilio_form(status)
    assert twilio.parse_request(URL, twilio_signature(URL, form), urlencode(form).encode(), "auth-token", NOW) == []


def test_twilios_own_example() -> None:
    """https://www.twilio.com/docs/usage/security: the worked example's parts and token."""
    form = {"CallSid": "CA1234567890ABCDE", "Caller": "+14158675309", "Digits": "1234", "From": "+14158675309", "To": "+18005551212"}  # fmt: skip
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert twilio._signature_matches(url, form, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", "12345")


@pytest.mark.parametrize("signed", [URL, URL.replace("shop.example/", "shop.example:443/")])
def test_twilio_may_sign_the_url_with_its_port(signed: str) -> None:
    form = twilio_form("delivered")
    assert (
        len(twilio.parse_request(URL, twilio_signature(signed, form), urlencode(form).encode(), "auth-token", NOW)) == 1
    )


def test_a_request_not_signed_by_twilio_is_refused() -> None:
    form = twilio_form("delivered")
    body = urlencode(form).encode()
    for url, signature in (
        (URL, twilio_signature(URL, form, "other")),
        (URL, twilio_signature(URL, twilio_form("failed"))),
        (URL.replace("17", "18"), twilio_signature(URL, form)),
        (URL, ""),
        (URL, "ä"),
    ):
        with pytest.raises(InvalidSignature):
            twilio.parse_request(url, signature, body, "auth-token", NOW)


@pytest.mark.parametrize("form", [{}, {"MessageStatus": "delivered"}, {"MessageSid": "SM1"}])
def test_a_body_that_is_not_twilios_is_refused(form: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        twilio.parse_request(URL, twilio_signature(URL, form), urlencode(form).encode(), "auth-token", NOW)
