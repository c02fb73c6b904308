from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from backline.channels.base import EmailContent
from backline.db.statements import statements
from backline.errors import InvalidInput
from backline.messages import registry, types
from backline.messages.base import EmailMessage, MessageType, WebhookMessage
from backline.messages.templated import TemplatedMessage
from backline.settings import CHANNELS, ROOT, load


class Greeting(EmailMessage):
    """A type made up for these tests."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"word"})

    word: str

    def email(self) -> EmailContent:
        return EmailContent(subject=self.word, text=self.word)


Greeting.declare("greeting", {"email": "email.normal"})


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    registry.all_types()  # they register once in a process
    kept = dict(registry._types)
    yield
    registry._types.clear()
    registry._types.update(kept)


def test_the_lanes_of_each_type_are_of_its_channels() -> None:
    lanes = load(ROOT / "include" / "config" / "backline.toml").lanes
    for kind in registry.all_types():
        assert {channel: lanes[lane].channel for channel, lane in kind.lanes.items()} == {
            channel: channel for channel in kind.channels
        }


def test_each_secret_reference_is_a_statement_of_identity() -> None:
    wanted = {name for kind in registry.all_types() for names in kind.secret_references.values() for name in names}
    assert wanted
    assert wanted <= set(statements("identity"))


def test_a_field_with_the_name_of_a_template_constant_is_refused() -> None:
    class Linked(TemplatedMessage):
        """A type with a link of its own."""

        product_url: str

    with pytest.raises(ValueError, match="linked: field 'product_url' is a name that every template has"):
        registry.register("linked", email="email.normal")(Linked)


def test_each_module_of_types_registers_some() -> None:
    modules = {path.stem for path in Path(types.__file__).parent.glob("[a-z]*.py")}
    assert {kind.__module__.rpartition(".")[2] for kind in registry.all_types()} == modules


def test_getting_one_type_loads_no_other_module() -> None:
    code = """
import sys
from backline.messages import registry
registry.get("welcome")
print(*(name for name in sys.modules if name.startswith("backline.messages.types.")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "plugins")},
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert done.stdout.split() == ["backline.messages.types.general"]


def test_an_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"known types: .*welcome") as caught:
        registry.get("wellcome")
    assert caught.value.field == "type"


def test_a_registered_type_is_found_and_knows_its_channels() -> None:
    registry.register("greeting", email="email.normal")(Greeting)
    assert registry.get("greeting") is Greeting
    assert Greeting.channels == ("email",)
    with pytest.raises(InvalidInput, match="its channels: email"):
        Greeting.lane_for("sms")


def test_two_types_of_one_name_are_refused() -> None:
    registry.register("greeting", email="email.normal")(Greeting)
    twin = type("Twin", (Greeting,), {"__module__": __name__})
    with pytest.raises(ValueError, match="'greeting' is defined twice"):
        registry.register("greeting", email="email.normal")(twin)


def test_a_field_named_like_a_key_beside_the_payload_is_refused() -> None:
    class Addressed(Greeting):
        to: str

    with pytest.raises(ValueError, match="'to' is a key beside the payload"):
        registry.register("addressed", email="email.normal")(Addressed)


def test_a_secret_that_is_not_a_field_is_refused() -> None:
    class Keeper(Greeting):
        secret_fields: ClassVar[frozenset[str]] = frozenset({"token"})

    with pytest.raises(ValueError, match="secret field 'token'"):
        registry.register("keeper", email="email.normal")(Keeper)


def test_a_reference_for_a_field_that_is_not_secret_is_refused() -> None:
    class Loose(Greeting):
        secret_references: ClassVar = {"name": ("password_reset_token",)}

    with pytest.raises(ValueError, match="secret_references names 'name'"):
        registry.register("loose", email="email.normal")(Loose)


def test_an_expiry_that_is_not_a_field_is_refused() -> None:
    class Late(Greeting):
        expiry_field: ClassVar[str | None] = "until"

    with pytest.raises(ValueError, match="expiry_field 'until' is not a field"):
        registry.register("late", email="email.normal")(Late)


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_type_must_have_content_for_each_of_its_channels(channel: str) -> None:
    class Mute(MessageType):
        """A type without content."""

    with pytest.raises(ValueError, match=rf"is sent over {channel}, so its class must define {channel}\(\)"):
        registry.register("mute", **{channel: f"{channel}.normal"})(Mute)


def test_errors_of_a_secret_field_do_not_contain_its_value() -> None:
    from typing import Annotated

    from pydantic import AfterValidator

    def refuse(text: str) -> str:
        raise ValueError(f"{text} is too easy to guess")

    class Code(Greeting):
        word: Annotated[str, AfterValidator(refuse)]

    Code.declare("code", Greeting.lanes)

    with pytest.raises(InvalidInput) as caught:
        Code.parse({"word": "s3cret-value"})
    assert caught.value.field == "word"
    assert "s3cret-value" not in str(caught.value)


def test_no_other_type_goes_by_webhook() -> None:
    class Paid(WebhookMessage):
        """An event with a type of its own."""

    with pytest.raises(ValueError, match="events are sent as the type webhook"):
        registry.register("paid", webhook="webhook.normal")(Paid)
