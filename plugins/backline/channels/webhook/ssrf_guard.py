"""Decides which addresses a webhook may connect to: public ones, and those that the settings allow.

A URL is untrusted input: it could point to this host, its network or a cloud's metadata service (server-side request
forgery). A host name can resolve to another address later, so the address is checked when the connection is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from backline.errors import InvalidInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All public addresses (RFC 4291 section 2.4): loopback, local, mapped and multicast addresses are outside it."""
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: tuple[Network, ...] = (
    IPv4Network("168.63.129.16/32"),  # Azure's internal services
    IPv4Network("192.0.0.0/24"),  # protocol assignments, Oracle's metadata service among them (RFC 6890)
    IPv4Network("192.88.99.0/24"),  # relays of 6to4 (RFC 7526)
    IPv6Network("2001::/23"),  # protocol assignments: Teredo, ORCHID (RFC 2928)
    IPv6Network("3fff::/20"),  # documentation (RFC 9637)
)
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
"""The upper half of an interface id that ends in an IPv4 address (RFC 5214 section 6.1)."""


class AddressNotAllowed(InvalidInput):
    """An address that webhooks may not connect to."""

    def __init__(self, host: str, address: str) -> None:
        what = address if host == address else f"{host} resolves to {address}, which"
        super().__init__("url", f"{what} is not a public address; if it is yours, add it to webhooks.allowed_addresses")


class AddressGuard:
    """Checks addresses; `allowed` are entries in the format of `parse_allowed_address`."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = [parse_allowed_address(entry) for entry in allowed]

    def allows(self, address: str, port: int) -> bool:
        """Whether connections to this address and port are allowed; False for anything that is not an IP address."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if is_public(parsed):
            return True
        return any(parsed in network and only_port in (None, port) for network, only_port in self._allowed)


def is_public(address: Address) -> bool:
    """Whether an address, and every IPv4 address embedded in an IPv6 one, belongs to the public internet."""
    if (not address.is_global or address.is_multicast or address.is_reserved) and address not in _NAT64:
        return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    if isinstance(address, IPv4Address):
        return True
    return (address in _GLOBAL_UNICAST or address in _NAT64) and all(map(is_public, _embedded_ipv4(address)))


def parse_allowed_address(entry: str) -> tuple[Network, int | None]:
    """A network or address, and a port or None for all; ValueError explains the format of an entry."""
    text, port, valid = entry.strip(), "", True
    if text.startswith("["):
        text, bracket, rest = text[1:].partition("]")
        valid, port = bool(bracket) and (not rest or (rest[0] == ":" and len(rest) > 1)), rest[1:]
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        valid = bool(port)
    try:
        network, number = ip_network(text), int(port) if port else None
    except ValueError:
        valid = False
    if not valid or (number is not None and not 0 < number < 65536):
        examples = '"10.0.0.0/8", "10.1.2.3:8443" or "[fd00::5]:8443"'
        raise ValueError(f"{entry!r} is not an address or network with an optional port: write {examples}")
    return network, number


def _embedded_ipv4(address: IPv6Address) -> Iterator[IPv4Address]:
    """IPv4 addresses embedded in an IPv6 one, to which a gateway or tunnel would connect."""
    if address in _NAT64:  # RFC 6052
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:  # RFC 3056
        yield address.sixtofour
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
