"""SMTP replies, and the error class of each (RFC 5321 section 4.2, RFC 3463, RFC 4954).

The first match applies:

| reply | class | why |
|---|---|---|
| any before the first MAIL, except AUTH refused | network, or rate_limited | it concerns the connection, not the message |
| 5xx to AUTH; 530, 534, 535, 538, 5.7.8, 5.7.9 | authentication | our credentials are wrong or missing |
| 5xx | rejected | permanent by definition |
| 454 | unknown | authentication or TLS is temporarily down (RFC 4954, RFC 3207); before MAIL: network |
| 4.2.2, 4.3.1 | resource | mailbox or system full |
| 4.7.x, or a text that mentions rates or greylisting | rate_limited | policy: retry later |
| 452 | resource | insufficient system storage |
| 421, 4.3.2, 4.4.x | network | shutting down, or no route to the next server |
| any other 4xx | unknown | |
| anything else | unknown | not a valid reply to the command |
"""

from __future__ import annotations

import re

from backline import errors
from backline.channels.base import truncate
from smtp_pipeline import Reply, Stage
from smtp_pipeline.replies import CONNECTION_STAGES

_RATE_LIMIT_TEXT = re.compile(
    r"rate.?limit|too (many|much|fast|quickly)|throttl|gr[ae]y.?list|slow down", re.IGNORECASE
)
_RETRY_AFTER_TEXT = re.compile(
    r"\b(?:in|after|wait) (\d{1,5}) ?(s|sec|secs|seconds?|m|min|mins|minutes?)\b", re.IGNORECASE
)
_CREDENTIAL_CODES = frozenset({530, 534, 535, 538})
_CREDENTIAL_STATUS = frozenset({"5.7.8", "5.7.9"})


def error_from_reply(reply: Reply, stage: Stage, server: str, recipient: str = "") -> errors.BacklineError:
    """The error for a reply, by the table above."""
    kind = _error_class(reply, stage)
    subject = f"{stage.value} for {recipient}" if recipient else stage.value
    text = f"{server} answered {subject} with {truncate(str(reply))!r}"
    if kind is errors.Rejected and (
        reply.enhanced == "5.3.4" or (reply.code == 552 and stage in {Stage.MAIL, Stage.BODY})
    ):
        text += ": the message is larger than this server or mailbox accepts; make the attachments smaller"
    if issubclass(kind, errors.RetryableError):
        return kind(text, code=reply.status, response=truncate(reply.text), retry_after=_retry_after(reply.text))
    return kind(text, code=reply.status, response=truncate(reply.text))


def _error_class(reply: Reply, stage: Stage) -> type[errors.BacklineError]:
    code, enhanced = reply.code, reply.enhanced
    temporary = 400 <= code < 500
    permanent = 500 <= code < 600
    asked_to_wait = temporary and (enhanced.startswith("4.7.") or _RATE_LIMIT_TEXT.search(reply.text) is not None)
    if permanent and (stage is Stage.AUTH or code in _CREDENTIAL_CODES or enhanced in _CREDENTIAL_STATUS):
        return errors.AuthenticationFailed
    if stage in CONNECTION_STAGES:
        return errors.RateLimited if asked_to_wait and code != 454 else errors.NetworkFailure
    if permanent:
        return errors.Rejected
    if not temporary or code == 454:
        return errors.UnknownFailure
    if enhanced in {"4.2.2", "4.3.1"}:
        return errors.ResourceExhausted
    if asked_to_wait:
        return errors.RateLimited
    if code == 452:
        return errors.ResourceExhausted
    if code == 421 or enhanced == "4.3.2" or enhanced.startswith("4.4."):
        return errors.NetworkFailure
    return errors.UnknownFailure


def _retry_after(text: str) -> float | None:
    match = _RETRY_AFTER_TEXT.search(text)
    return float(match[1]) * (60 if match[2].lower().startswith("m") else 1) if match else None
