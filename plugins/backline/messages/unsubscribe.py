"""What every email of a topic carries: the link that leaves it, and the header fields from which mail programs make a button."""

from __future__ import annotations

from collections.abc import Callable

from backline.channels.content import EmailContent
from backline.messages.base import EmailMessage


def with_unsubscribe(message: EmailMessage, default_url: Callable[[], str]) -> EmailContent:
    """A message of a topic as an email, with its own way out or else with `ours`.

    List-Unsubscribe is RFC 2369, List-Unsubscribe-Post RFC 8058, whose section 3.1 is for https alone. Header fields that the
    payload brings along stay.
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
