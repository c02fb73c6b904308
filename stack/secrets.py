"""The secrets of one copy of the stack: generated once, stored in one file with mode 0600."""

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
    """A private RSA key: PKCS #8, DER in base64 on one line."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    der = generate_private_key(65537, 2048).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return base64.b64encode(der).decode()


def _secret_field(generate: Callable[[], str]) -> str:
    secret: str = field(default_factory=generate, repr=False)
    return secret


@dataclass(frozen=True, slots=True)
class Secrets:
    """All secrets of one copy."""

    instance_id: str = field(default_factory=lambda: random.token_hex(8))
    """Random, so that leftovers of a deleted copy are never used."""
    superuser_password: str = _secret_field(_generate_password)
    app_database_password: str = _secret_field(_generate_password)
    airflow_database_password: str = _secret_field(_generate_password)
    airflow_fernet_key: str = _secret_field(_generate_fernet_key)
    backline_fernet_keys: str = _secret_field(_generate_fernet_key)
    """Comma separated, newest first: the first encrypts, all decrypt."""
    jwt_secret: str = _secret_field(lambda: random.token_urlsafe(64))
    api_secret_key: str = _secret_field(lambda: random.token_urlsafe(32))
    admin_password: str = _secret_field(_generate_password)
    op_password: str = _secret_field(_generate_password)
    viewer_password: str = _secret_field(_generate_password)
    sandbox_password: str = _secret_field(_generate_password)
    """Of the sandbox's pages, which show caught messages."""
    push_service_account_key: str = _secret_field(_generate_rsa_key)
    """The service account's key for the sandbox's push gateway."""
    stripe_webhook_secret: str = _secret_field(lambda: f"whsec_{random.token_hex(24)}")
    razorpay_webhook_secret: str = _secret_field(_generate_password)
    """The payment providers' signing secrets for webhooks."""


def load_or_create(path: Path) -> Secrets:
    """Read the file and generate missing secrets; Misconfigured names an invalid line."""
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
    secrets = Secrets(**found)
    if found.keys() != known:
        lines = ["# Backline's secrets. Keep this file: without it databases and encrypted fields cannot be opened."]
        lines += [f"{item.name.upper()}={getattr(secrets, item.name)}" for item in fields(secrets)]
        write_file(path, ("\n".join(lines) + "\n").encode())
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return secrets


def write_airflow_passwords(path: Path, secrets: Secrets) -> None:
    """Write the file from which Airflow's simple auth manager reads its users' passwords."""
    users = {"admin": secrets.admin_password, "op": secrets.op_password, "viewer": secrets.viewer_password}
    text = json.dumps(users) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_file(path, text.encode())
