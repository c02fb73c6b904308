"""The SMTP server to submit to, read from an Airflow connection."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from backline.errors import Misconfigured

Security = Literal["none", "starttls", "tls"]

_DEFAULT_PORTS: dict[Security, int] = {"none": 25, "starttls": 587, "tls": 465}
_FALSE = frozenset({"", "0", "f", "false", "n", "no", "off"})


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """An SMTP server to submit to.

    `security`: "tls" from the first byte (RFC 8314), "starttls" required before authentication and mail (RFC 3207), or
    "none". `local_hostname` is the name for EHLO; None: this host's full name, or else its address.
    """

    host: str
    port: int
    security: Security = "starttls"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    verify_tls: bool = True
    local_hostname: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def from_connection(
        cls, host: str | None, port: int | None, login: str | None, password: str | None, extra: Mapping[str, object]
    ) -> Self:
        """Read an Airflow connection as Airflow's own SmtpHook does; raises Misconfigured.

        TLS is on unless the extra disables it: with `disable_ssl` STARTTLS is used, with `disable_tls` SMTPS, with both
        plain text. With neither, the port decides: 25 and 587 mean STARTTLS, all others SMTPS. Login and password are
        used if both are set.
        """
        if not host:
            raise Misconfigured("the SMTP connection has no host; set its host, for example smtp.example.com")
        if port is not None and not 0 <= port <= 65535:
            raise Misconfigured(f"the SMTP connection's port must be between 1 and 65535, not {port}")
        if extra.get("auth_type", "basic") != "basic":
            raise Misconfigured("the SMTP connection's extra.auth_type must be 'basic'; OAuth2 is not supported")
        if (context := extra.get("ssl_context")) not in (None, "default", "none"):
            raise Misconfigured(f"the SMTP connection's extra.ssl_context must be 'default' or 'none', not {context!r}")
        security: Security
        without_ssl, without_tls = _bool_extra(extra, "disable_ssl"), _bool_extra(extra, "disable_tls")
        if without_ssl and without_tls:
            security = "none"
        elif without_ssl or (not without_tls and port in (25, 587)):
            security = "starttls"
        else:
            security = "tls"
        has_credentials = bool(login and password)
        return cls(
            host=host,
            port=port or _DEFAULT_PORTS[security],
            security=security,
            username=login if has_credentials else None,
            password=password if has_credentials else None,
            verify_tls=context != "none",
        )

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS context of the connection, or None for plain text. Takes 20 ms: create it once."""
        if self.security == "none":
            return None
        context = ssl.create_default_context()
        if not self.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _bool_extra(extra: Mapping[str, object], key: str) -> bool:
    value = extra.get(key, False)
    return value.strip().lower() not in _FALSE if isinstance(value, str) else bool(value)
