"""`./backline check` fails on phrases that docs/denied_phrases.toml lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from backline.settings import ROOT
from testkit.wording import DENIED_PHRASES_FILE, check_wording, denied_phrases, load_replacements

# A list of the tests' own, so that this file does not contain a phrase that is denied.
PHRASES = '[use_instead]\n"zorp" = "fix"\n"glim of" = "reported"\n"quux-in" = "fake"\n'
COMMENTS = {
    "module.py": "# {}", "statements.sql": "-- {}", "settings.toml": "# {}", "page.md": "<!-- {} -->",
    "template.html": "<!-- {} -->", "template.txt": "{{# {} #}}", "compose.yml": "# {}", "script.sh": "# {}",
    "style.css": "/* {} */", "backline": "# {}", ".env.example": "# {}", ".ci/run": "# {}",
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / DENIED_PHRASES_FILE).parent.mkdir()
    (tmp_path / DENIED_PHRASES_FILE).write_text(PHRASES)
    (tmp_path / ".ci").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", COMMENTS)
def test_a_phrase_is_found_in_each_file_type(project: Path, name: str) -> None:
    (project / name).write_text("first\nwe zorp it\n")
    assert denied_phrases(project) == [f"{name}:2: zorp: use fix"]


@pytest.mark.parametrize("name", COMMENTS)
def test_an_exception_with_a_reason_is_honoured(project: Path, name: str) -> None:
    (project / name).write_text("we zorp it " + COMMENTS[name].format("wording: a quotation") + "\n")
    assert denied_phrases(project) == []


@pytest.mark.parametrize("name", COMMENTS)
def test_an_exception_without_a_reason_is_refused(project: Path, name: str) -> None:
    (project / name).write_text("we zorp it " + COMMENTS[name].format("wording: ") + "\n")
    assert denied_phrases(project) == [f"{name}:1: zorp: use fix (the exception lacks a reason)"]


def test_an_exception_holds_for_its_own_line_only(project: Path) -> None:
    (project / "a.py").write_text("zorp = 1  # wording: a name of somebody else\nzorp = 2\n")
    assert denied_phrases(project) == ["a.py:2: zorp: use fix"]


@pytest.mark.parametrize(
    "text",
    ["a ZORP", "zorp.", "test_zorp_twice", "a glim of it", "a glim\nof it", "# a glim\n# of it", "-- glim\n-- of",
     "test_it_is_glim_of_once", "a Quux-in"],
)  # fmt: skip
def test_whole_words_are_found_in_any_case_across_lines_and_in_names(project: Path, text: str) -> None:
    (project / "a.txt").write_text(text)
    assert len(denied_phrases(project)) == 1


@pytest.mark.parametrize("text", ["zorped", "azorp", "gloom of", "a glim often", "quux in"])
def test_parts_of_words_are_not_found(project: Path, text: str) -> None:
    (project / "a.txt").write_text(text)
    assert denied_phrases(project) == []


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-image.txt", "data.json", ".venv/lib/a.py", ".backline/a.txt", ".env"]
)
def test_lock_files_data_and_ignored_folders_are_left_out(project: Path, name: str) -> None:
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).write_text("zorp")
    assert denied_phrases(project) == []


def test_the_list_is_short_and_each_phrase_has_a_replacement_that_is_allowed() -> None:
    replacements = load_replacements(ROOT / DENIED_PHRASES_FILE)
    assert 10 <= len(replacements) <= 25
    assert all(replacements.values())
    assert not [use for use in replacements.values() if any(f" {phrase} " in f" {use} " for phrase in replacements)]


def test_the_check_prints_what_it_finds_and_counts_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "a.py").write_text("# zorp\n")
    monkeypatch.setattr("testkit.wording.denied_phrases", lambda: denied_phrases(project))
    assert check_wording() == 1
    assert capsys.readouterr().err == "a.py:1: zorp: use fix\n"
