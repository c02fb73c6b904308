"""What the embedded stack listens on."""

from __future__ import annotations

import ipaddress

import psutil
import pytest

from backline.settings import ROOT
from stack.lifecycle import Stack
from stack.paths import Paths
from stack.processes import find_processes
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


def test_every_port_is_on_loopback_and_one_of_ours(stack: IsolatedStack) -> None:
    own = Stack(lambda _: None, Paths(ROOT, stack.home, stack.port))
    listening = [
        connection.laddr
        for process in find_processes(own.supervisor.stack_id)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.port for address in listening} == {own.paths.port, own.paths.smtp_port, own.paths.mail_web_port}
    assert all(ipaddress.ip_address(address.ip).is_loopback for address in listening)
