"""The token in a link: opaque, unchangeable, and of our keys alone; and what a mail of a topic carries."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.fernet import Fernet

from backline import encryption
from backline.channels.base import EmailContent, Message
from backline.encryption import KEYS_VARIABLE, Encryptor
from backline.errors import Misconfigured
from backline.messages import registry, render_email
from backline.preferences.unsubscribe import Subscription, create_token, read_token, unsubscribe_link
from backline.settings import settings

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
ENCRYPTOR = Encryptor([NEW, OLD])
ANN = Subscription("email", "ann@example.com", "newsletter", 17)
PUBLIC = "https://mail.shop.example/backline/unsubscribe/"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(KEYS_VARIABLE, f"{NEW},{OLD}")
    monkeypatch.setenv("BACKLINE__LINKS__UNSUBSCRIBE", PUBLIC + "{token}")
    settings.cache_clear()
    encryption.encryptor.cache_clear()
    yield
    settings.cache_clear()
    encryption.encryptor.cache_clear()


def rendered(kind: str, payload: dict[str, Any]) -> EmailContent:
    return render_email(Message(17, kind, "Ann <Ann@example.com>", payload, datetime.now(UTC)))


def newsletter(**changes: Any) -> dict[str, Any]:
    sample = {**registry.get("newsletter").sample(), **changes}
    return {name: value for name, value in sample.items() if value is not None}


def test_a_token_contains_the_subscription_encrypted() -> None:
    made = create_token(ANN, ENCRYPTOR)
    assert read_token(made, ENCRYPTOR) == ANN
    assert "ann" not in made
    assert "=" not in made
    assert len(made) < 400


def test_a_token_of_an_older_key_still_works() -> None:
    assert read_token(create_token(ANN, Encryptor([OLD])), ENCRYPTOR) == ANN


@pytest.mark.parametrize("wrong", ["", "x", "gAAAA", "ä", "a" * 5000, "../../livez"])
def test_nonsense_is_no_token(wrong: str) -> None:
    assert read_token(wrong, ENCRYPTOR) is None


def test_a_changed_or_foreign_token_is_invalid() -> None:
    made = create_token(ANN, ENCRYPTOR)
    for place in (0, 12, 40, len(made) - 2):
        changed = made[:place] + ("A" if made[place] != "A" else "B") + made[place + 1 :]
        assert read_token(changed, ENCRYPTOR) is None
    assert read_token(create_token(ANN, Encryptor([Fernet.generate_key().decode()])), ENCRYPTOR) is None


@pytest.mark.parametrize("encrypted", ["s3cret", '["other", "email", "ann@example.com", "newsletter", 17]', "17", "[]"])
def test_other_encrypted_values_are_not_tokens(encrypted: str) -> None:
    assert read_token(ENCRYPTOR.encrypt(encrypted), ENCRYPTOR) is None


@pytest.mark.usefixtures("keys")
def test_a_newsletter_carries_our_link_in_headers_and_both_parts() -> None:
    content = rendered("newsletter", newsletter(unsubscribe_url=None))
    link = content.headers["List-Unsubscribe"].removeprefix("<").removesuffix(">")
    assert content.headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert read_token(link.removeprefix(PUBLIC), ENCRYPTOR) == ANN
    assert link in str(content.text)
    assert link in str(content.html)


def test_a_newsletter_with_a_page_of_the_apps_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    encryption.encryptor.cache_clear()
    content = rendered("newsletter", newsletter(unsubscribe_url="https://shop.example/leave/1"))
    assert content.headers["List-Unsubscribe"] == "<https://shop.example/leave/1>"
    with pytest.raises(Misconfigured, match=KEYS_VARIABLE):
        rendered("newsletter", newsletter(unsubscribe_url=None))


@pytest.mark.usefixtures("keys")
def test_one_click_is_for_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE__LINKS__UNSUBSCRIBE", "http://localhost:8080/backline/unsubscribe/{token}")
    settings.cache_clear()
    content = rendered("newsletter", newsletter(unsubscribe_url=None))
    assert content.headers["List-Unsubscribe"].startswith("<http://localhost:8080/")
    assert "List-Unsubscribe-Post" not in content.headers
    assert unsubscribe_link(ANN).startswith("http://localhost:8080/")


@pytest.mark.usefixtures("keys")
def test_any_email_can_be_of_a_topic() -> None:
    plain = {"subject": "News", "text": "Hi", "headers": {"X-Order": "1"}}
    assert rendered("email", plain).headers == {"X-Order": "1"}
    with_topic = rendered("email", {**plain, "topic": "newsletter"}).headers
    assert set(with_topic) == {"X-Order", "List-Unsubscribe", "List-Unsubscribe-Post"}
    own = {"list-unsubscribe": "<mailto:leave@shop.example>"}
    assert rendered("email", {**plain, "topic": "newsletter", "headers": own}).headers == own


@pytest.mark.usefixtures("keys")
def test_a_templated_email_of_a_topic_has_the_link_for_its_template() -> None:
    kind = registry.get("templated_email")
    payload = {**kind.sample(), "topic": "newsletter"}
    parsed = kind.parse(payload)
    context = parsed.with_unsubscribe_url("https://shop.example/x").template_and_context()[1]  # type: ignore[attr-defined]
    assert context["unsubscribe_url"] == "https://shop.example/x"
    assert kind.topic_of(payload) == "newsletter"
    assert "List-Unsubscribe" in rendered("templated_email", payload).headers
