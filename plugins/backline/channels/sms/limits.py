"""How long a text message may be: the rule of the HTTP API and of the channel."""

from __future__ import annotations

from backline.channels.sms import segments
from backline.errors import InvalidInput

MAX_CHARACTERS = 1600
"""Characters of one message that Twilio accepts."""


def text_limits(max_segments: int) -> list[tuple[str, int]]:
    """Patterns of texts, and how many characters such a text may have: `check_length` accepts it then, however it is split."""
    gsm, ucs = segments.GSM_ROOM * max_segments, segments.UCS_ROOM * max_segments
    return [(".", gsm), (f"[^{segments.BASIC_PATTERN}]", ucs), ("[^\x01-\uffff]", (ucs - max_segments) // 2)]


def check_length(text: str, max_segments: int) -> None:
    """Raise InvalidInput for a text that is empty or too long for the gateway or for `sms.max_segments`."""
    if not text.strip():
        raise InvalidInput("body", "is empty; a text message needs at least one character")
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput("body", f"has {len(text)} characters; the limit is {MAX_CHARACTERS}")
    if (parts := segments.count_segments(text).parts) > max_segments:
        advice = "shorten it"
        if special := segments.non_gsm_characters(text):
            advice += f", or write it without {special[:10]!r}, which more than halve the room"
        raise InvalidInput("body", f"needs {parts} segments; the limit is {max_segments} (sms.max_segments): {advice}")
