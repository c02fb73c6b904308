from __future__ import annotations

import tomllib

import pytest
from pydantic import Field

from backline.errors import Misconfigured
from backline.settings import Section
from testkit.settings_file import OUTPUT_FILE, add_missing, all_sections

FILE = """\
# Reports.
[reports]
# Maximum rows.
rows = 9

# A folder.
[archive]
folder = "x"
"""


class Reports(Section):
    """Reports of stock."""

    rows: int = 5
    recipients: tuple[str, ...] = Field(("a@example.com", "ü"), description="Who gets them. " * 20)


class Cleanup(Section):
    """Deletes old rows."""

    enabled: bool = Field(True, description="Whether it runs.")


def test_a_new_setting_is_added_to_its_section_and_a_new_section_at_the_end() -> None:
    added = add_missing(FILE, {"reports": Reports, "cleanup": Cleanup})
    assert tomllib.loads(added) == {
        "reports": {"rows": 9, "recipients": ["a@example.com", "ü"]},
        "archive": {"folder": "x"},
        "cleanup": {"enabled": True},
    }
    assert added.startswith("# Reports.\n[reports]\n# Maximum rows.\nrows = 9\n# Who gets them. Who")
    assert added.endswith('folder = "x"\n\n# Deletes old rows.\n[cleanup]\n# Whether it runs.\nenabled = true\n')
    assert max(map(len, added.splitlines())) <= 128
    assert add_missing(added, {"reports": Reports, "cleanup": Cleanup}) == added


def test_the_shipped_file_has_every_setting() -> None:
    text = OUTPUT_FILE.read_text(encoding="utf-8")
    assert add_missing(text, all_sections()) == text


class Undescribed(Section):
    """Rows."""

    rows: int = 5


class Table(Section):
    """Weights."""

    weights: dict[str, int] = Field({"price": 4}, description="By name.")


@pytest.mark.parametrize(
    ("section", "problem"), [(Undescribed, "s.rows .*give its Field a description"), (Table, "s.weights .*by hand")]
)
def test_a_setting_that_cannot_be_written_is_named(section: type[Section], problem: str) -> None:
    with pytest.raises(Misconfigured, match=problem):
        add_missing(FILE, {"s": section})


def test_a_section_without_a_header_line_is_named() -> None:
    with pytest.raises(Misconfigured, match=r"no line \[reports\]"):
        add_missing("[reports.more]\nx = 1\n", {"reports": Reports})
