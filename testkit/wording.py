"""Finds phrases in the project's text files that docs/denied_phrases.toml replaces by plain ones."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from backline.settings import ROOT

DENIED_PHRASES_FILE = Path("docs", "denied_phrases.toml")
TEXT_SUFFIXES = frozenset({".css", ".html", ".in", ".md", ".py", ".sh", ".sql", ".toml", ".txt", ".yaml", ".yml"})
TEXT_FILES = frozenset({"backline", "Dockerfile", ".env.example", "run"})
"""Text files without a suffix."""
_LOCK_FILE = re.compile(r"requirements[\w-]*\.txt")
_GAP = r"(?:_|\s+(?:(?:[#>*]+|--|//)\s+)?)"
"""Between two words of a phrase: a space, a line break with the next line's comment sign, or `_` in a name."""
_EXCEPTION = re.compile(r"(?:#|--|//|/\*)\s*wording:\s*(.*?)\s*(?:-->|#\}|\*/)?\s*$")


def denied_phrases(root: Path = ROOT) -> list[str]:
    """`file:line: phrase: use X` for each denied phrase under `root` whose line gives no reason for an exception."""
    replacements = load_replacements(root / DENIED_PHRASES_FILE)
    pattern = _phrase_pattern(replacements)
    problems = []
    for path in _text_files(root):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for match in pattern.finditer(text):
            first = text.count("\n", 0, match.start())
            last = first + match[0].count("\n")
            exceptions = [found for line in lines[first : last + 1] if (found := _EXCEPTION.search(line))]
            if any(found[1] for found in exceptions):
                continue
            phrase = re.sub(_GAP, " ", match[0].lower())
            found_at = f"{path.relative_to(root)}:{first + 1}: {phrase}: use {replacements[phrase]}"
            problems.append(found_at + (" (the exception lacks a reason)" if exceptions else ""))
    return problems


def load_replacements(file: Path) -> dict[str, str]:
    """Each denied phrase, in lower case, with what to write in its place."""
    with file.open("rb") as opened:
        return {phrase.lower(): use for phrase, use in tomllib.load(opened)["use_instead"].items()}


def check_wording() -> int:
    """Print each denied phrase to stderr; returns how many there are."""
    problems = denied_phrases()
    for problem in problems:
        typer.echo(problem, err=True)
    return len(problems)


def _phrase_pattern(phrases: Iterable[str]) -> re.Pattern[str]:
    alternatives = "|".join(_GAP.join(map(re.escape, phrase.split())) for phrase in phrases)
    return re.compile(rf"(?<![^\W_])(?:{alternatives})(?![^\W_])", re.IGNORECASE)


def _text_files(root: Path) -> Iterator[Path]:
    """The project's text files, without the list of phrases and lock files. Ignored folders all begin with a dot."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(
            name for name in subfolders if name == ".ci" or not name.startswith((".", "__pycache__"))
        )
        for name in sorted(names):
            path = Path(folder, name)
            if (
                (path.suffix in TEXT_SUFFIXES or name in TEXT_FILES)
                and not _LOCK_FILE.fullmatch(name)
                and path.relative_to(root) != DENIED_PHRASES_FILE
            ):
                yield path
