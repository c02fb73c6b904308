"""The folders and ports of one copy of the stack."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backline.errors import Misconfigured
from backline.settings import ROOT

DEFAULT_PORT = 8080
MAX_BASE_PORT = 65535 - 2


@dataclass(frozen=True, slots=True)
class Paths:
    """Folders and ports of one copy, from BACKLINE_HOME and BACKLINE_PORT."""

    root: Path
    home: Path
    port: int

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Paths:
        """Read BACKLINE_HOME and BACKLINE_PORT; Misconfigured if the port is not a number or out of range."""
        text = environ.get("BACKLINE_PORT") or str(DEFAULT_PORT)
        if not text.isascii() or not text.isdigit() or not 1024 <= int(text) <= MAX_BASE_PORT:
            raise Misconfigured(
                f"BACKLINE_PORT={text}: must be a number from 1024 to {MAX_BASE_PORT} (three ports are used)"
            )
        home = (ROOT / (environ.get("BACKLINE_HOME") or ".backline")).resolve()
        return cls(ROOT, home, int(text))

    @property
    def smtp_port(self) -> int:
        """The mail catcher's SMTP port."""
        return self.port + 1

    @property
    def mail_web_port(self) -> int:
        """The mail catcher's page."""
        return self.port + 2

    @property
    def airflow_home(self) -> Path:
        """AIRFLOW_HOME."""
        return self.home / "airflow"

    @property
    def password_file(self) -> Path:
        """The JSON file with the passwords of the simple auth manager's users."""
        return self.airflow_home / "simple_auth_manager_passwords.json"

    @property
    def mail_folder(self) -> Path:
        """The mail catcher's Maildir."""
        return self.home / "mail"

    @property
    def log_folder(self) -> Path:
        """The folder with one log file per service."""
        return self.home / "logs"

    @property
    def secrets_file(self) -> Path:
        """The file with all generated secrets."""
        return self.home / "secrets.env"

    @property
    def supervisor_config_file(self) -> Path:
        """supervisord's configuration, written at each start."""
        return self.home / "supervisord.conf"

    @property
    def setup_state_file(self) -> Path:
        """The state that the last completed set-up recorded."""
        return self.home / "setup.json"

    def create_folders(self) -> None:
        """Create the state folder; Misconfigured if that fails or it belongs to another user."""
        uid = os.geteuid()
        try:
            # Under root, PostgreSQL's user must be able to traverse it; the files in it are private all the same.
            self.home.mkdir(parents=True, exist_ok=True, mode=0o711 if uid == 0 else 0o700)
            owner = self.home.stat().st_uid
            if owner != uid:
                raise Misconfigured(
                    f"{self.home} belongs to user id {owner}, you are {uid}; run as that user or set another BACKLINE_HOME"
                )
            # It holds secrets, and may be within a repository.
            (self.home / ".gitignore").write_text("*\n", encoding="utf-8")
            for folder in (self.airflow_home, self.log_folder):
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as exc:
            raise Misconfigured(
                f"{self.home}: {exc.strerror}; set BACKLINE_HOME to a folder that you can write"
            ) from exc

    @contextmanager
    def lock(self, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Hold the state folder's lock; calls `on_wait` if another command holds it.

        The lock is on the folder itself, so no lock file is left behind.
        """
        descriptor = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait("waiting for another backline command in this folder")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def ensure_private_folder(folder: Path, uid: int, gid: int) -> None:
    """Create a folder with mode 0700 and that owner, or check that an existing one has both (another user may own it)."""
    try:
        folder.mkdir(mode=0o700)
        os.chown(folder, uid, gid)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) != 0o700:
            raise Misconfigured(f"{folder} is not a private folder of user id {uid}; remove it and try again") from None
