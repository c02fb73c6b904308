"""The environment variables of one copy of the stack: Airflow's settings, connections, and Backline's own."""

from __future__ import annotations

import json
import os
import shlex
import textwrap
from collections.abc import Mapping
from urllib.parse import quote

from backline.rendering.settings import LinkSettings
from backline.settings import settings
from stack.paths import Paths
from stack.postgres import Cluster
from stack.secrets import Secrets

LOOPBACK = "127.0.0.1"
SANDBOX_USER = "sandbox"


def build_environment(
    paths: Paths, secrets: Secrets, cluster: Cluster, metadata_database: str = "airflow"
) -> dict[str, str]:
    """Every variable of the stack, including secrets; `metadata_database` is the name of Airflow's database."""
    return {
        **_backline_variables(paths, secrets, cluster),
        **_airflow_variables(paths, secrets, cluster, metadata_database),
        "PYTHONPATH": f"{paths.root / 'plugins'}:{paths.root}",
        # The stack's loopback traffic must not go through a proxy.
        "NO_PROXY": _no_proxy_with_loopback(os.environ, "NO_PROXY"),
        "no_proxy": _no_proxy_with_loopback(os.environ, "no_proxy"),
        # Keeps a process's environment readable after setproctitle: leftover processes are found by it.
        "SPT_NOENV": "1",
        # Empty means unset. Every task is a new process that imports our modules: compiling them took 30 to 80 ms.
        "PYTHONDONTWRITEBYTECODE": "",
    }


def to_shell_exports(variables: Mapping[str, str]) -> str:
    """The variables as `export` lines for a POSIX shell."""
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in sorted(variables.items()))


def _backline_variables(paths: Paths, secrets: Secrets, cluster: Cluster) -> dict[str, str]:
    database = {
        "conn_type": "postgres",
        "host": str(cluster.socket_folder),
        "login": "backline",
        "password": cluster.password("backline"),
        "schema": "backline",
    }
    # The catcher has no TLS, so SmtpHook's defaults, SSL and STARTTLS, are turned off.
    smtp = {
        "conn_type": "smtp",
        "host": LOOPBACK,
        "port": paths.smtp_port,
        "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "backline@localhost.localdomain"},
    }
    api = {
        "conn_type": "http",
        "host": f"http://{LOOPBACK}:{paths.port}",
        "login": "admin",
        "password": secrets.admin_password,
    }
    return {
        "BACKLINE_HOME": str(paths.home),
        "BACKLINE_PORT": str(paths.port),
        "BACKLINE_DATABASE_URL": cluster.dsn("backline"),
        "BACKLINE_URL": f"http://localhost:{paths.port}",
        "BACKLINE_USER": "admin",
        "BACKLINE_PASSWORD": secrets.admin_password,
        "BACKLINE_MAILDIR": str(paths.mail_folder),
        # With its login, which httpx, curl and browsers send as Basic authentication.
        "BACKLINE_MAIL_URL": f"http://{SANDBOX_USER}:{secrets.sandbox_password}@{LOOPBACK}:{paths.mail_web_port}",
        "BACKLINE_SANDBOX_PASSWORD": secrets.sandbox_password,
        "BACKLINE_SMTP_PORT": str(paths.smtp_port),
        "BACKLINE_WEBHOOK_URL": f"http://{LOOPBACK}:{paths.mail_web_port}/webhooks/in",
        **_webhook_variables(paths),
        "BACKLINE_FERNET_KEYS": secrets.backline_fernet_keys,
        "BACKLINE__LINKS__UNSUBSCRIBE": _unsubscribe_url(paths.port),
        "AIRFLOW_CONN_BACKLINE_AIRFLOW": json.dumps(api),
        "AIRFLOW_CONN_BACKLINE_DB": json.dumps(database),
        "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(smtp),
        **_gateway_variables(paths, secrets),
    }


def _gateway_variables(paths: Paths, secrets: Secrets) -> dict[str, str]:
    """Connections to the sandbox's SMS and push gateways."""
    page = f"http://{LOOPBACK}:{paths.mail_web_port}"
    sms = {"conn_type": "http", "host": f"{page}/sms", "login": "ACsandbox", "password": "sandbox"}
    key = "\n".join(textwrap.wrap(secrets.push_service_account_key, 64))
    account = {
        "type": "service_account",
        "project_id": "sandbox",
        "client_email": "backline@sandbox.localhost",
        "private_key": f"-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n",
        "token_uri": f"{page}/push/token",
    }
    push = {"conn_type": "http", "host": f"{page}/push", "extra": {"service_account": account}}
    return {
        "AIRFLOW_CONN_SMS_GATEWAY": json.dumps(sms),
        "AIRFLOW_CONN_PUSH_GATEWAY": json.dumps(push),
        **_payment_variables(page, secrets),
    }


def _payment_variables(page: str, secrets: Secrets) -> dict[str, str]:
    """The connection to the sandbox's Stripe emulator, and the signing secrets of payment webhooks."""
    hooks = {"stripe": secrets.stripe_webhook_secret, "razorpay": secrets.razorpay_webhook_secret}
    return {
        "AIRFLOW_CONN_STRIPE_API": json.dumps(
            {"conn_type": "http", "host": f"{page}/stripe", "password": f"sk_test_{secrets.sandbox_password}"}
        ),
        **{
            f"AIRFLOW_CONN_{name.upper()}_HOOKS": json.dumps({"conn_type": "http", "password": secret})
            for name, secret in hooks.items()
        },
        **{
            variable: os.environ.get(variable) or f"{name}_hooks"
            for name in hooks
            for variable in [f"BACKLINE__HOOKS__{name.upper()}_CONNECTION"]
        },
    }


def _webhook_variables(paths: Paths) -> dict[str, str]:
    """Allow webhooks to the sandbox's endpoint, on its port only; variables already set win."""
    defaults = {
        "BACKLINE__WEBHOOKS__REQUIRE_HTTPS": "false",
        "BACKLINE__WEBHOOKS__ALLOWED_ADDRESSES": json.dumps([f"{LOOPBACK}:{paths.mail_web_port}"]),
    }
    return {name: os.environ.get(name) or value for name, value in defaults.items()}


def _unsubscribe_url(port: int) -> str:
    """As it is set; as shipped, with this copy's port, where the page is."""
    link = settings().section(LinkSettings).unsubscribe
    return link.replace(":8080/", f":{port}/") if link == LinkSettings().unsubscribe else link


def _airflow_variables(paths: Paths, secrets: Secrets, cluster: Cluster, database: str) -> dict[str, str]:
    address = f"{cluster.url_credentials('airflow')}/{database}?host={quote(str(cluster.socket_folder), safe='')}"
    settings = {
        "CORE": {
            "AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "DAGS_ARE_PAUSED_AT_CREATION": "False",
            "DAGS_FOLDER": str(paths.root / "dags"),
            "EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{paths.port}/execution/",
            "EXECUTOR": "stack.executor.PreloadedLocalExecutor",
            "FERNET_KEY": secrets.airflow_fernet_key,
            "HOSTNAME_CALLABLE": "socket.gethostname",  # the default queries DNS, which may be slow or absent
            "LAZY_LOAD_PLUGINS": "True",
            "LOAD_EXAMPLES": "False",
            "MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
            "PARALLELISM": "16",
            "PLUGINS_FOLDER": str(paths.root / "plugins"),
            "SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(paths.password_file),
            "SIMPLE_AUTH_MANAGER_USERS": "admin:admin,op:op,viewer:viewer",
        },
        "DATABASE": {
            "SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address}",
            "SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{address}",
            "SQL_ALCHEMY_POOL_SIZE": "5",
        },
        "API": {
            "BASE_URL": f"http://localhost:{paths.port}",
            "EXPOSE_CONFIG": "False",
            "HOST": LOOPBACK,
            "PORT": str(paths.port),
            "SECRET_KEY": secrets.api_secret_key,
            "WORKERS": "1",
        },
        "API_AUTH": {"JWT_SECRET": secrets.jwt_secret},
        "SCHEDULER": {
            # After a crash the next scheduler adopts the tasks of the last one as soon as its heartbeat is stale.
            "ORPHANED_TASKS_CHECK_INTERVAL": "15",
            "TASK_INSTANCE_HEARTBEAT_TIMEOUT": "90",
        },
        # A task waits for a starting or restarting api-server: by default it fails within seconds.
        "WORKERS": {
            "EXECUTION_API_RETRIES": "30",
            "EXECUTION_API_RETRY_WAIT_MAX": "5",
            "EXECUTION_API_TIMEOUT": "15",
            "MAX_FAILED_HEARTBEATS": "18",  # of 5 s each: as long as TASK_INSTANCE_HEARTBEAT_TIMEOUT
        },
        # A new triggerer takes over the triggers of a killed one after the threshold.
        "TRIGGERER": {"TRIGGERER_HEALTH_CHECK_THRESHOLD": "15"},
        "DAG_PROCESSOR": {
            "REFRESH_INTERVAL": "10",  # how often the folder is listed; changed files are parsed at once
            # Unchanged files are parsed again because of their imports (each costs half a second of CPU); touch a file, or
            # restart, to parse it sooner.
            "MIN_FILE_PROCESS_INTERVAL": "21600",
            "STALE_DAG_THRESHOLD": "90",
        },
        "LOGGING": {
            "BASE_LOG_FOLDER": str(paths.airflow_home / "logs"),
            "COLORED_CONSOLE_LOG": "False",
            "FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
            "FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
        },
    }
    named = {f"AIRFLOW__{section}__{key}": value for section, keys in settings.items() for key, value in keys.items()}
    return {"AIRFLOW_HOME": str(paths.airflow_home), **named, "SCARF_ANALYTICS": "false", "DO_NOT_TRACK": "1"}


def _no_proxy_with_loopback(environ: Mapping[str, str], name: str) -> str:
    hosts = [host for host in environ.get(name, "").split(",") if host]
    return ",".join(dict.fromkeys([*hosts, "localhost", LOOPBACK]))
