"""The secrets of one copy: made once, kept in one 0600 file, never shown."""

from __future__ import annotations

import base64
import json
import secrets as random
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from backline.errors import Misconfigured
from backline.files import write_file


def _generate_password() -> str:
    return random.token_urlsafe(18)


def _generate_fernet_key() -> str:
    return base64.urlsafe_b64encode(random.token_bytes(32)).decode()


def _generate_rsa_key() -> str:
    """A private RSA key: PKCS #8, as the base64 of its DER on one line."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    der = generate_private_key(65537, 2048).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return base64.b64encode(der).decode()


def _secret_field(make: Callable[[], str]) -> str:
    made: str = field(default_factory=make, repr=False)
    return made


@dataclass(frozen=True, slots=True)
class Secrets:
    """Everything that is generated; each copy has its own."""

    instance_id: str = field(default_factory=lambda: random.token_hex(8))
    """Random, so what a deleted copy left behind is never taken for this one's."""
    superuser_password: str = _secret_field(_generate_password)
    app_database_password: str = _secret_field(_generate_password)
    airflow_database_password: str = _secret_field(_generate_password)
    airflow_fernet_key: str = _secret_field(_generate_fernet_key)
    backline_fernet_keys: str = _secret_field(_generate_fernet_key)
    """Comma separated, newest first: the first seals, all open."""
    jwt_secret: str = _secret_field(lambda: random.token_urlsafe(64))
    api_secret_key: str = _secret_field(lambda: random.token_urlsafe(32))
    admin_password: str = _secret_field(_generate_password)
    op_password: str = _secret_field(_generate_password)
    viewer_password: str = _secret_field(_generate_password)
    push_service_account_key: str = _secret_field(_generate_rsa_key)
    """Of the service account by which the sandbox's push gateway is asked."""
    stripe_webhook_secret: str = _secret_field(lambda: f"whsec_{random.token_hex(24)}")
    razorpay_webhook_secret: str = _secret_field(_generate_password)
    """With which the payment providers sign what they post to the hooks."""


def load_or_create(path: Path) -> Secrets:
    """Read the file, making what it lacks; Misconfigured names a line that cannot be read."""
    known = {item.name for item in fields(Secrets)}
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as exc:
        raise Misconfigured(f"{path}: {exc.strerror}; it must be readable by the user who runs Backline") from exc
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        key, separator, value = line.partition("=")
        if not separator or not value or key.lower() not in known:
            raise Misconfigured(f"{path}: line {number} is not one of {', '.join(sorted(known)).upper()} with a value")
        found[key.lower()] = value
    made = Secrets(**found)
    if found.keys() != known:
        lines = ["# Backline's secrets. Keep this file; without it the databases and sealed fields cannot be opened."]
        lines += [f"{item.name.upper()}={getattr(made, item.name)}" for item in fields(made)]
        write_file(path, ("\n".join(lines) + "\n").encode())
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return made


def write_airflow_passwords(path: Path, made: Secrets) -> None:
    """Write the file from which Airflow's simple auth manager takes its users' passwords."""
    wanted = {"admin": made.admin_password, "op": made.op_password, "viewer": made.viewer_password}
    text = json.dumps(wanted) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_file(path, text.encode())
