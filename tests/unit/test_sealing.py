from __future__ import annotations

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from backline.errors import InvalidInput, Misconfigured
from backline.sealing import Sealer

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_again(value: str) -> None:
    sealer = Sealer([NEW])
    sealed = sealer.seal(value)
    assert sealed.startswith("gAAAA")  # what backline.enqueue takes for sealed
    assert sealer.open("code", sealed) == value


def test_sealing_the_same_twice_gives_no_hint_of_it() -> None:
    assert Sealer([NEW]).seal("123456") != Sealer([NEW]).seal("123456")


def test_after_rotation_old_ones_open_and_the_newest_key_seals() -> None:
    sealed = Sealer([OLD]).seal("123456")
    rotated = Sealer([NEW, OLD])
    assert rotated.open("code", sealed) == "123456"
    assert Sealer([NEW]).open("code", rotated.seal("x")) == "x"


@pytest.mark.parametrize(
    "sealed",
    [Sealer([OTHER]).seal("123456"), "123456", "", "gAAAA", {"$ref": "vault/x"}, 5],
    ids=["another key", "clear", "empty", "cut", "reference", "number"],
)
def test_what_no_key_opens_names_the_field_and_keeps_the_value_to_itself(sealed: str) -> None:
    with pytest.raises(InvalidInput, match=r"^code: none of the keys in BACKLINE_FERNET_KEYS opens it") as caught:
        Sealer([NEW]).open("code", sealed)
    assert caught.value.field == "code"
    assert "123456" not in str(caught.value)


@pytest.mark.parametrize("keys", [[], ["short"], [NEW, "short"], ["*" * 44]])
def test_without_good_keys_the_variable_is_named(keys: list[str]) -> None:
    with pytest.raises(Misconfigured, match=r"^BACKLINE_FERNET_KEYS: needs at least one Fernet key"):
        Sealer(keys)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE_FERNET_KEYS", f" {NEW} , {OLD},")
    assert Sealer.from_environment().open("code", Sealer([OLD]).seal("x")) == "x"
    monkeypatch.delenv("BACKLINE_FERNET_KEYS")
    with pytest.raises(Misconfigured, match="BACKLINE_FERNET_KEYS"):
        Sealer.from_environment()
