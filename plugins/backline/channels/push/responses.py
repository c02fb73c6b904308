"""What FCM answers (Firebase, "Method: projects.messages.send" and "ErrorCode")."""

from __future__ import annotations

import json
from typing import Any

from backline.channels.base import Receipt, truncate
from backline.channels.http.responses import error_from_response
from backline.channels.http.session import UNKNOWN_OUTCOME, HttpResponse
from backline.errors import AuthenticationFailed, BacklineError, PermanentError, RateLimited, Rejected, UnknownFailure

_ERROR_CLASSES: dict[str, type[BacklineError]] = {
    "SENDER_ID_MISMATCH": Rejected,  # 403: the device belongs to another project, our credentials are well
    "QUOTA_EXCEEDED": RateLimited,
    "THIRD_PARTY_AUTH_ERROR": AuthenticationFailed,
}


class DeviceUnregistered(PermanentError):
    """The device has uninstalled the app, or has another token by now."""


def parse_response(answer: HttpResponse, server: str) -> Receipt:
    """The provider's word that it has the message; DeviceGone, or the error that any other answer stands for."""
    found = _json_object(answer.body)
    if 200 <= answer.status < 300:
        name = found.get("name")
        if not isinstance(name, str):
            text = f"{server} answered {answer.status}, but not with a message's name{UNKNOWN_OUTCOME}"
            raise UnknownFailure(text, code=str(answer.status), response=truncate(answer.body))
        return Receipt(str(answer.status), name, name)
    error = found.get("error")
    error = error if isinstance(error, dict) else {}
    code = _error_code(error)
    said = f"{code}: {error.get('message', 'no reason given')}" if code else ""
    if answer.status == 404 and code == "UNREGISTERED":
        raise DeviceUnregistered(f"{server} answered 404: {said}", code="404", response=truncate(said))
    raise error_from_response(
        answer.status, answer.headers, answer.body, server=server, detail=said, error_class=_ERROR_CLASSES.get(code)
    )


def _error_code(error: dict[str, Any]) -> str:
    """FCM's own code, or else the API's general one."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and isinstance(detail.get("errorCode"), str):
            return str(detail["errorCode"])
    return str(error.get("status") or "")


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
