"""Texts of the app's tables, of any kind, in the fields of message types."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.messages import registry
from backline.messages.base import MessageType
from backline.messages.fitting import fill_url, fit

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=400)
"""What a text column can hold."""
KINDS = [kind for kind in registry.all_types() if not kind.secret_fields]


def confirmation(**changed: Any) -> dict[str, Any]:
    return {**registry.get("order_confirmation").example, **changed}


@pytest.mark.parametrize(
    ("text", "fitted"),
    [
        ("Ann", "Ann"),
        ("  Ann\tLee\r\n Smith\x00 ", "Ann Lee Smith"),
        ("Ann\x85\u2028\u2029Lee", "Ann Lee"),
        ("n" * 200, "n" * 200),
        ("n" * 201, "n" * 199 + "…"),
        ("n" * 198 + "  end", "n" * 198 + "…"),
        ("e\u0301 \u200fאבג\u200e 👩‍👩‍👧", "e\u0301 \u200fאבג\u200e 👩‍👩‍👧"),
        (r"\u0000", r"\u0000"),
        ("\t \u3000", "customer"),
    ],
)
def test_a_name_fits_its_field(text: str, fitted: str) -> None:
    kind = registry.get("order_confirmation")
    payload = fit(kind, confirmation(name=text))
    assert payload["name"] == fitted
    kind.parse(payload)


def test_limits_are_those_of_each_field_in_lists_and_optional_fields_too() -> None:
    payload = confirmation(
        order="9" * 100, delivery_address=["a" * 600, "\n"], lines=[{"description": "d" * 10_000, "unit_price": 1}]
    )
    fitted = fit(registry.get("order_confirmation"), payload)
    assert (len(fitted["order"]), len(fitted["lines"][0]["description"])) == (60, 200)
    assert ([len(line) for line in fitted["delivery_address"]], fitted["delivery_address"][1]) == ([500, 7], "unnamed")
    assert (fitted["total"], fitted["lines"][0]["unit_price"], fitted["placed_at"]) == (7280, 1, payload["placed_at"])


def test_a_text_of_several_lines_keeps_its_lines() -> None:
    fitted = fit(registry.get("order_status"), {"note": "one\x07\n\ttwo  three", "other": "\x07"})
    assert fitted == {"note": "one \n\ttwo  three", "other": "\x07"}
    assert len(fit(registry.get("order_status"), {"note": "n" * 6000})["note"]) == 5000


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type_name)
def test_an_example_fits_already(kind: type[MessageType]) -> None:
    assert kind.parse(fit(kind, kind.example)) == kind.parse(kind.example)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_any_text_of_a_database_makes_a_valid_message(name: str, number: str, description: str) -> None:
    kind = registry.get("order_confirmation")
    url = fill_url("https://shop.example/orders/{order}", order=number[:150])
    lines = [{"description": description, "quantity": 1, "unit_price": 1}]
    kind.parse(fit(kind, confirmation(name=name, order=number, lines=lines, order_url=url)))
    status = registry.get("order_status")
    status.parse(
        fit(status, {"name": name, "order": number, "status": "shipped", "order_url": url, "note": description})
    )


def test_a_number_is_one_segment_of_its_url() -> None:
    assert (
        fill_url("https://shop.example/{order}?x", order="A/1 ?#&é") == "https://shop.example/A%2F1%20%3F%23%26%C3%A9?x"
    )
