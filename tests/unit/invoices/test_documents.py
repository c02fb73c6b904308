from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.invoices.documents import TEMPLATE_FOLDER, Line, format_number, labels, tax_lines
from backline.rendering import formats

LINES = st.lists(
    st.builds(
        lambda quantity, price, rate: Line(
            "x", quantity, price, rate, quantity * price, (quantity * price * rate + 5000) // 10000
        ),
        st.integers(1, 999),
        st.integers(1, 10**7),
        st.sampled_from([0, 550, 700, 1900, 2000]),
    ),
    max_size=30,
)


@given(LINES)
def test_tax_lines_add_up_to_the_lines(lines: list[Line]) -> None:
    found = tax_lines(lines)
    assert sum(one.net_minor for one in found) == sum(line.net_minor for line in lines)
    assert sum(one.tax_minor for one in found) == sum(line.tax_minor for line in lines)
    assert [one.rate for one in found] == sorted({line.tax_rate for line in lines})


def test_taxes_are_summed_as_rounded() -> None:
    # 0.5 cents are rounded up on each line: 3 cents, not the 2 of a rounded sum.
    half = Line("x", 1, 10, 500, 10, 1)
    assert tax_lines([half] * 3)[0].tax_minor == 3


def test_a_number_as_printed() -> None:
    assert format_number("INV-2026", 42) == "INV-2026-000042"


def test_every_language_has_all_labels() -> None:
    found = tomllib.loads((TEMPLATE_FOLDER / "labels.toml").read_text())
    assert set(found) == {"en", "de"}
    assert len({frozenset(one) for one in found.values()}) == 1


@pytest.mark.parametrize(("language", "label"), [("de", "Rechnung"), ("de-AT", "Rechnung"), ("pt-BR", "Invoice")])
def test_labels_fall_back_to_the_language_and_then_the_default(language: str, label: str) -> None:
    assert labels(language)["invoice"] == label


@pytest.mark.parametrize(
    ("points", "language", "formatted"),
    [(1900, "en", "19%"), (1900, "de", "19\xa0%"), (550, "de", "5,5\xa0%"), (0, "en", "0%"), (1, "en", "0.01%")],
)
def test_rates(points: int, language: str, formatted: str) -> None:
    assert formats.rate(points, language) == formatted


def test_countries() -> None:
    assert (formats.country("DE", "en"), formats.country("DE", "de"), formats.country("ZZ", "en")) == (
        "Germany", "Deutschland", "Unknown Region",
    )  # fmt: skip
