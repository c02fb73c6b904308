"""Programs that the machine may lack: postfix's smtp-sink and smtp-source, redis-server, libfaketime, the benches' peers.

Debian's packages are unpacked under a folder and not installed; the peers get a venv there. Both are kept
for the next run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backline.errors import Misconfigured
from backline.settings import ROOT

PEER_REQUIREMENTS = ROOT / "bench" / "requirements.txt"
_SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
_APT_DEPENDS_OPTIONS = ("--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces",
          "--no-enhances", "--no-pre-depends")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Program:
    """A program and the variables it needs to run."""

    path: Path
    environment: Mapping[str, str]


class Tools:
    """The programs under one folder, fetched at their first use."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._folder = folder
        self._report = report

    def smtp_sink(self) -> Program:
        """postfix's SMTP server that takes everything and keeps nothing."""
        return self._debian_program("postfix", "smtp-sink")

    def smtp_source(self) -> Program:
        """postfix's SMTP client in C, the ceiling."""
        return self._debian_program("postfix", "smtp-source")

    def redis(self) -> Program:
        """Celery's broker."""
        return self._debian_program("redis-server", "redis-server")

    def nginx(self) -> Program:
        """An HTTP server that answers as it is told to."""
        return self._debian_program("nginx", "nginx")

    def faketime_library(self) -> Path:
        """The library that shifts a process's clock (LD_PRELOAD)."""
        root = self._package_folder("libfaketime")
        return next(root.rglob("libfaketimeMT.so.1"))

    def peer_python(self) -> Path:
        """The Python of the venv with the peers, made when it is missing or bench/requirements.txt has changed."""
        venv = self._folder / "venv"
        python, stamp = venv / "bin" / "python", venv / "bench-stamp"
        wanted = f"{PEER_REQUIREMENTS.read_text(encoding='utf-8')}\n{venv}\n{sys.version}"
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return python
        self._report("installing the peers: Celery, procrastinate, pgqueuer")
        shutil.rmtree(venv, ignore_errors=True)
        self._make_venv(venv, python)
        stamp.write_text(wanted, encoding="utf-8")
        return python

    def _make_venv(self, venv: Path, python: Path) -> None:
        uv = Path(sys.executable).with_name("uv")  # the lock file of the project has it
        locked = ["--require-hashes", "--no-deps", "-r", str(PEER_REQUIREMENTS)]
        if uv.exists():
            _run([str(uv), "venv", "--quiet", "--no-project", "--python", sys.executable, str(venv)])
            certificates = {"UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}
            _run(
                [str(uv), "pip", "install", "--quiet", "--python", str(python), "--compile-bytecode", *locked],
                environment=certificates,
            )
        else:
            _run([sys.executable, "-m", "venv", str(venv)])
            _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *locked])

    def _debian_program(self, package: str, name: str) -> Program:
        if found := shutil.which(name, path=_SYSTEM_PATH):
            return Program(Path(found), {})
        root = self._package_folder(package)
        for folder in ("usr/sbin", "usr/bin"):
            if (path := root / folder / name).exists():
                return Program(path, _library_environment(root))
        raise Misconfigured(f"Debian's package {package} has no {name}; install {name} and put it on the PATH")

    def _package_folder(self, package: str) -> Path:
        root = self._folder / "tools" / package
        if not (root / "ready").exists():
            self._download_package(package, root)
        return root

    def _download_package(self, package: str, root: Path) -> None:
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise Misconfigured(
                f"{package} is missing, and this is no Debian to fetch it from; install {package} with the system's package manager"
            )
        self._report(f"fetching Debian's package {package}")
        shutil.rmtree(root, ignore_errors=True)
        listed = subprocess.run(
            ["apt-cache", "depends", *_APT_DEPENDS_OPTIONS, package], check=False, capture_output=True, text=True
        )
        if not listed.stdout.strip():
            _run(["apt-get", "update", "-q"])
            listed = subprocess.run(
                ["apt-cache", "depends", *_APT_DEPENDS_OPTIONS, package], check=True, capture_output=True, text=True
            )
        # With all its libraries: those that the machine has too are of the same Debian. The C library stays the machine's.
        names = {line for line in listed.stdout.splitlines() if line and line[0].isalpha()}
        wanted = {package, *(name for name in names if name.startswith(("lib", "redis")) and name != "libc6")}
        archives = root / "archives"
        archives.mkdir(parents=True)
        _run(["apt-get", "-o", "APT::Sandbox::User=root", "download", "-q", *sorted(wanted)], folder=archives)
        for archive in sorted(archives.glob("*.deb")):
            _run(["dpkg", "-x", str(archive), str(root)])
        shutil.rmtree(archives)
        (root / "ready").touch()


def _library_environment(root: Path) -> dict[str, str]:
    folders = sorted({path.parent for path in root.rglob("*.so*")})
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}


def _run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise Misconfigured(f"`{' '.join(command[:4])} ...` failed: {said}")
