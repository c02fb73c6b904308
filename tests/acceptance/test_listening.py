"""What the embedded stack listens on, by `ss`."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from pathlib import Path

import pytest

from backline.settings import ROOT
from stack.lifecycle import Stack
from stack.paths import Paths
from stack.processes import find_processes
from stack.supervisor import SERVICES
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


@pytest.fixture
def own(stack: IsolatedStack) -> Stack:
    return Stack(lambda _: None, Paths(ROOT, stack.home, stack.port))


def sockets(own: Stack, *options: str) -> list[str]:
    """The local addresses of the sockets of all processes of the stack that listen."""
    processes = {process.pid for process in find_processes(own.supervisor.stack_id)}
    services = {state.pid for state in own.supervisor.states().values()}
    assert len(services) == len(SERVICES)
    assert services | {own.supervisor.pid()} <= processes, "a service that would not be looked at"
    lines = subprocess.run(["ss", "-Hlnp", *options], check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split()[4] for line in lines if processes & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}]


def test_every_port_is_on_loopback_and_one_of_ours(own: Stack) -> None:
    addresses = [address.rpartition(":") for address in sockets(own, "-t", "-u")]
    assert {int(port) for _, _, port in addresses} == {own.paths.port, own.paths.smtp_port, own.paths.mail_web_port}
    assert all(ipaddress.ip_address(host.strip("[]")).is_loopback for host, _, _ in addresses)


def test_every_socket_in_the_file_system_is_in_a_private_folder(own: Stack) -> None:
    paths = sockets(own, "-x")
    assert {Path(path).parent for path in paths if path.startswith(str(own.cluster.socket_folder))}
    for path in paths:
        assert path.startswith("/"), "an abstract socket has no permissions"
        folders = [folder for folder in Path(path).parents if folder.exists() and not folder.stat().st_mode & 0o077]
        assert folders, f"{path} is open to other users"
