"""External programs: postfix's smtp-sink and smtp-source, redis-server, nginx, libfaketime, and the benches' peers.

Debian packages are unpacked under a folder, not installed; the peers get a venv there. Both are kept for later runs.
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
    """A program and the environment variables that it needs."""

    path: Path
    environment: Mapping[str, str]


class Tools:
    """The programs under one folder, downloaded at first use."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._folder = folder
        self._report = report

    def smtp_sink(self) -> Program:
        """postfix's SMTP server that accepts and discards everything."""
        return self._debian_program("postfix", "smtp-sink")

    def smtp_source(self) -> Program:
        """postfix's SMTP client in C, the upper bound of throughput."""
        return self._debian_program("postfix", "smtp-source")

    def redis(self) -> Program:
        """Celery's broker."""
        return self._debian_program("redis-server", "redis-server")

    def nginx(self) -> Program:
        """The HTTP server with fixed responses."""
        return self._debian_program("nginx", "nginx")

    def faketime_library(self) -> Path:
        """The library that shifts a process's clock (LD_PRELOAD)."""
        root = self._package_folder("libfaketime")
        return next(root.rglob("libfaketimeMT.so.1"))

    def peer_python(self) -> Path:
        """The Python of the venv with the peers, created when it is missing or bench/requirements.txt has changed."""
        venv = self._folder / "venv"
        python, stamp = venv / "bin" / "python", venv / "bench-stamp"
        fingerprint = f"{PEER_REQUIREMENTS.read_text(encoding='utf-8')}\n{venv}\n{sys.version}"
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == fingerprint:
            return python
        self._report("installing the peers: Celery, procrastinate, pgqueuer")
        shutil.rmtree(venv, ignore_errors=True)
        self._create_venv(venv, python)
        stamp.write_text(fingerprint, encoding="utf-8")
        return python

    def _create_venv(self, venv: Path, python: Path) -> None:
        uv = Path(sys.executable).with_name("uv")  # it is in the project's lock file
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
        raise Misconfigured(f"the Debian package {package} has no {name}; install {name} and put it on the PATH")

    def _package_folder(self, package: str) -> Path:
        root = self._folder / "tools" / package
        if not (root / "ready").exists():
            self._download_package(package, root)
        return root

    def _download_package(self, package: str, root: Path) -> None:
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise Misconfigured(
                f"{package} is missing and cannot be downloaded without apt-get; install it with your package manager"
            )
        self._report(f"downloading the Debian package {package}")
        shutil.rmtree(root, ignore_errors=True)
        listed = subprocess.run(
            ["apt-cache", "depends", *_APT_DEPENDS_OPTIONS, package], check=False, capture_output=True, text=True
        )
        if not listed.stdout.strip():
            _run(["apt-get", "update", "-q"])
            listed = subprocess.run(
                ["apt-cache", "depends", *_APT_DEPENDS_OPTIONS, package], check=True, capture_output=True, text=True
            )
        # With all its libraries, except the C library, which must be the machine's.
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
        output = " ".join((done.stderr or done.stdout).split())[-300:]
        raise Misconfigured(f"`{' '.join(command[:4])} ...` failed: {output}")
