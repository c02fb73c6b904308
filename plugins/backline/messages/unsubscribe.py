"""Adds the unsubscribe link and the List-Unsubscribe headers, which mail programs show as a button, to emails of a topic."""

from __future__ import annotations

from collections.abc import Callable

from backline.channels.base import EmailContent
from backline.messages.base import EmailMessage


def with_unsubscribe(message: EmailMessage, default_url: Callable[[], str]) -> EmailContent:
    """A message of a topic as an email, with its own unsubscribe link or else with `default_url`.

    List-Unsubscribe is RFC 2369. List-Unsubscribe-Post is RFC 8058, whose section 3.1 requires https. The payload's own headers
    are kept.
    """
    url = message.own_unsubscribe_url or default_url()
    content = message.with_unsubscribe_url(url).email()
    headers = {"List-Unsubscribe": f"<{url}>"}
    if url.startswith("https://"):
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    given = {name.lower() for name in content.headers}
    if "list-unsubscribe" in given:
        return content
    return content._replace(headers={**content.headers, **headers})
