"""An HTTP gateway, read from an Airflow connection of type HTTP."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from backline.errors import Misconfigured

_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


@dataclass(frozen=True, slots=True)
class HttpGateway:
    """Where requests are sent. `url` has no trailing slash; `verify_tls` is off only for test servers."""

    name: str
    """The connection's id, used in error texts."""
    url: str
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    extra: Mapping[str, object] = field(default_factory=dict, repr=False)
    verify_tls: bool = True
    proxy: str | None = field(default=None, repr=False)
    """From HTTPS_PROXY and similar variables; may hold a password."""

    def __str__(self) -> str:
        return self.url

    @classmethod
    def from_connection(
        cls,
        name: str,
        *,
        host: str | None,
        schema: str | None,
        port: int | None,
        login: str | None,
        password: str | None,
        extra: Mapping[str, object],
    ) -> Self:
        """Read an Airflow connection, whose host may be a whole URL; without a scheme it is https.

        `"verify": false` in the extra accepts any certificate. Raises Misconfigured.
        """
        if not host:
            raise Misconfigured(f"connection {name!r} has no host; set its host, for example https://api.example.com")
        text = host if "://" in host else f"{schema or 'https'}://{host}"
        try:
            parts = urlsplit(text)
            url_port = parts.port
        except ValueError as exc:
            raise Misconfigured(f"connection {name!r}: its host is not a URL: {exc}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Misconfigured(f"connection {name!r}: its host must be an http or https URL, not {parts.scheme}://...")
        if parts.username or parts.query or parts.fragment:
            advice = "put credentials into its login and password"
            raise Misconfigured(f"connection {name!r}: its host must be a URL without user, '?' and '#'; {advice}")
        authority = parts.netloc if url_port or not port else f"{parts.netloc}:{port}"
        return cls(
            name=name,
            url=f"{parts.scheme}://{authority}{parts.path.rstrip('/')}",
            login=login or None,
            password=password or None,
            extra=extra,
            verify_tls=str(extra.get("verify", True)).strip().lower() not in _FALSE,
            proxy=proxy_for(parts.scheme, parts.hostname),
        )

    def basic_auth(self) -> str:
        """The value of the header Authorization (RFC 7617); Misconfigured unless login and password are set."""
        if not self.login or not self.password:
            raise Misconfigured(f"connection {self.name!r} needs a login and a password")
        return "Basic " + b64encode(f"{self.login}:{self.password}".encode()).decode()


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy for a host from HTTPS_PROXY, HTTP_PROXY and NO_PROXY, or None."""
    if proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(scheme) or proxies.get("all")
