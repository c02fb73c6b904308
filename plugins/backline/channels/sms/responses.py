"""What the answer to a message's POST says (Twilio, "Messages resource" and "Errors and Warnings dictionary")."""

from __future__ import annotations

import json
from typing import Any

from backline.channels.base import Receipt, truncate
from backline.channels.http.responses import error_from_response
from backline.channels.http.session import UNKNOWN_OUTCOME, HttpResponse
from backline.errors import BacklineError, RateLimited, Rejected, UnknownFailure

_FAILED_STATUSES = frozenset({"failed", "undelivered", "canceled"})
"""States of a message that the gateway took and gave up at once."""
_ERROR_CLASSES: dict[int, type[BacklineError]] = {
    14107: RateLimited,  # too many messages of this sender
    20429: RateLimited,  # too many requests
    21611: RateLimited,  # the sender's queue is full
    21610: Rejected,  # the recipient has replied STOP
    21408: Rejected,  # sending to that country is not switched on: 403, and yet not about our credentials
}
"""By the gateway's own code, where it tells more than the status."""


def parse_response(answer: HttpResponse, server: str) -> Receipt:
    """The gateway's word that it has the message; raises the error that any other answer stands for."""
    found = _json_object(answer.body)
    if not 200 <= answer.status < 300:
        code, words = found.get("code"), found.get("message")
        said = f"{words} (code {code})" if code and words else ""
        kind = _ERROR_CLASSES.get(code) if isinstance(code, int) else None
        raise error_from_response(
            answer.status, answer.headers, answer.body, server=server, detail=said, error_class=kind
        )
    sid, status = found.get("sid"), found.get("status")
    if not isinstance(sid, str) or not isinstance(status, str):
        text = f"{server} answered {answer.status}, but not with a message's sid and status{UNKNOWN_OUTCOME}"
        raise UnknownFailure(text, code=str(answer.status), response=truncate(answer.body))
    if status in _FAILED_STATUSES or found.get("error_code"):
        said = f"{status}: {found.get('error_message') or 'no reason given'} (code {found.get('error_code')})"
        raise Rejected(
            f"{server} took the message as {sid} and gave it up: {said}", code=str(answer.status), response=said
        )
    return Receipt(str(answer.status), f"{status}, {_segments_text(found.get('num_segments'))}", sid)


def _segments_text(number: object) -> str:
    return f"{number} segment{'' if str(number) == '1' else 's'}" if number else "segments not told"


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
