"""Connections only to addresses that the guard allows, whatever a host's name leads to by then."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from backline.channels.webhook.ssrf_guard import AddressGuard, AddressNotAllowed

ResolverFactory = Callable[[], AbstractResolver]


class GuardedResolver(AbstractResolver):
    """Resolves names to allowed addresses alone; AddressRefused if a name has no such address."""

    def __init__(self, guard: AddressGuard, inner: AbstractResolver) -> None:
        self._guard = guard
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As the inner one, less what is not allowed."""
        found = await self._inner.resolve(host, port, family)
        allowed = [one for one in found if self._guard.allows(one["host"], port)]
        if found and not allowed:
            raise AddressNotAllowed(host, found[0]["host"])
        return allowed

    async def close(self) -> None:
        """Close the inner one."""
        await self._inner.close()


def guarded_connector(guard: AddressGuard, resolver_factory: ResolverFactory = DefaultResolver) -> aiohttp.TCPConnector:
    """A pool of connections to any number of hosts.

    Each socket is made for an address that was judged just then, so that one written in the URL, which is not resolved,
    is judged too. AddressRefused passes through to who asked for the connection.
    """

    def open_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, (address, port, *_) = info
        if not guard.allows(address, port):
            raise AddressNotAllowed(address, address)
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        resolver=GuardedResolver(guard, resolver_factory()), socket_factory=open_socket, limit=0, limit_per_host=0
    )
