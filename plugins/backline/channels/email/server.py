"""The SMTP server to submit to, read from an Airflow connection."""

from __future__ import annotations

from collections.abc import Mapping

from backline.errors import Misconfigured
from smtp_pipeline import SmtpServer
from smtp_pipeline.connection import Security

_DEFAULT_PORTS: dict[Security, int] = {"none": 25, "starttls": 587, "tls": 465}
_FALSE = frozenset({"", "0", "f", "false", "n", "no", "off"})


def server_from_connection(
    host: str | None, port: int | None, login: str | None, password: str | None, extra: Mapping[str, object]
) -> SmtpServer:
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
    return SmtpServer(
        host=host,
        port=port or _DEFAULT_PORTS[security],
        security=security,
        username=login if has_credentials else None,
        password=password if has_credentials else None,
        verify_tls=context != "none",
    )


def _bool_extra(extra: Mapping[str, object], key: str) -> bool:
    value = extra.get(key, False)
    return value.strip().lower() not in _FALSE if isinstance(value, str) else bool(value)
