"""Counts the segments (short messages) that a text needs, which decide its price (3GPP TS 23.038, TS 23.040).

A text in the GSM 7-bit alphabet has room for 160 characters in one segment, or 153 in each of several; characters of its
extension table count twice. Any other character makes the whole text UCS-2: 70 UTF-16 units, or 67 in each of several.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED = frozenset("\f^{}\\[~]|€")
_ALPHABET = _BASIC | _EXTENDED
_SEGMENT_UNITS = {"GSM-7": (160, 153), "UCS-2": (70, 67)}
GSM_ROOM, UCS_ROOM = (each for _, each in _SEGMENT_UNITS.values())
"""Units of each of several segments."""
BASIC_PATTERN = re.escape("".join(sorted(_BASIC)))
"""The characters that count once in GSM 7-bit, within the brackets of a regular expression."""
_LOOKALIKES = str.maketrans({
    "\u00a0": " ", "\u2007": " ", "\u2009": " ", "\u202f": " ",
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"',
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-",
    "\u2026": "...",
})  # fmt: skip


class Segments(NamedTuple):
    """The size of a text as it is billed."""

    encoding: str
    """`GSM-7` or `UCS-2`."""
    units: int
    """Septets or UTF-16 units of the whole text."""
    parts: int
    """Number of segments; 0 for an empty text."""


def count_segments(text: str) -> Segments:
    """The segments of a text; no character is split between two."""
    if _ALPHABET.issuperset(text):
        encoding, sizes = "GSM-7", [2 if char in _EXTENDED else 1 for char in text]
    else:
        encoding, sizes = "UCS-2", [2 if ord(char) > 0xFFFF else 1 for char in text]
    units = sum(sizes)
    alone, each = _SEGMENT_UNITS[encoding]
    if units <= alone:
        return Segments(encoding, units, 1 if units else 0)
    segments, room = 1, each
    for size in sizes:
        if size > room:
            segments, room = segments + 1, each
        room -= size
    return Segments(encoding, units, segments)


def non_gsm_characters(text: str) -> str:
    """The characters of a text that are not in GSM 7-bit, each once, in order."""
    return "".join(dict.fromkeys(char for char in text if char not in _ALPHABET))


def replace_lookalikes(text: str) -> str:
    """Replace no-break spaces, curly quotes and dashes by similar GSM 7-bit characters if the text is GSM 7-bit then."""
    replaced = text.translate(_LOOKALIKES)
    return replaced if _ALPHABET.issuperset(replaced) else text
