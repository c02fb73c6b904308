"""Amounts, dates and times in each language's format."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from typing import Any

import pytest

from backline.rendering.formats import day, money, timestamp
from backline.settings import ROOT

SUMMER, WINTER = datetime(2026, 7, 1, 16, 5, tzinfo=UTC), datetime(2026, 1, 1, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("amount", "currency", "locale", "written"),
    [
        (1250, "EUR", "en", "€12.50"),
        (1250, "EUR", "de", "12,50\u00a0€"),
        (1250, "EUR", "de-AT", "€\u00a012,50"),
        (1250, "EUR", "fr", "12,50\u00a0€"),
        (123456789, "EUR", "fr", "1\u00a0234\u00a0567,89\u00a0€"),
        (1250, "JPY", "en", "¥1,250"),
        (1250, "KWD", "de", "1,250\u00a0KWD"),
        (1250, "RSD", "de", "12,50\u00a0RSD"),  # CLDR shows none of its hundredths
        (1255, "IQD", "de", "1,255\u00a0IQD"),
        (-1250, "USD", "en", "-$12.50"),
        (0, "EUR", "de", "0,00\u00a0€"),
        (1, "USD", "en", "$0.01"),
        (1000000000000, "USD", "en", "$10,000,000,000.00"),
        (1250, "EUR", "de-XX", "12,50\u00a0€"),  # a region that there is not: as the language
    ],
)
def test_money(amount: int, currency: str, locale: str, written: str) -> None:
    assert money(amount, currency, locale) == written


@pytest.mark.parametrize(
    ("value", "zone", "locale", "written"),
    [
        (WINTER, "Europe/Berlin", "de", "2. Januar 2026, 00:30 MEZ"),
        (SUMMER, "Europe/Berlin", "de", "1. Juli 2026, 18:05 MESZ"),
        (SUMMER, "America/New_York", "en", "July 1, 2026, 12:05\u00a0PM EDT"),
        (SUMMER, "Asia/Kolkata", "en", "July 1, 2026, 9:35\u00a0PM UTC+5:30"),
        (WINTER, "America/New_York", "de", "1. Januar 2026, 18:30 UTC-5"),
        (WINTER, None, "en", "January 1, 2026, 11:30\u00a0PM UTC"),
    ],
)
def test_timestamp(value: datetime, zone: str | None, locale: str, written: str) -> None:
    assert timestamp(value, zone, locale) == written


@pytest.mark.parametrize(
    ("locale", "written"), [("en", "March 5, 2026"), ("en-GB", "5 March 2026"), ("de", "5. März 2026")]
)
def test_day(locale: str, written: str) -> None:
    assert day(date(2026, 3, 5), locale) == written


def test_babel_is_loaded_only_on_first_use() -> None:
    code = """
import sys
from datetime import UTC, datetime
from backline.channels.base import Message
from backline.messages import registry, render_email
payload = {"template": "notice", "context": {"heading": "x", "paragraphs": ["y"]}}
render_email(Message(1, "templated_email", "ann@example.com", payload, datetime.now(UTC)))
sys.exit("babel" in sys.modules)
"""
    environment: dict[str, Any] = {"PYTHONPATH": str(ROOT / "plugins")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False, cwd="/").returncode == 0


@pytest.mark.parametrize("tag", ["tet", "xx-YY", "no such", "", "e" * 200])
def test_a_language_without_formats_has_those_of_the_default_one(tag: str) -> None:
    assert money(1250, "EUR", tag) == "€12.50"
