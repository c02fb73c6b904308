"""The addresses that webhooks may connect to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.channels.webhook.ssrf_guard import AddressGuard, is_public, parse_allowed_address

REFUSED = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "100.100.100.200", "169.254.169.254", "169.254.0.1", "168.63.129.16", "192.0.0.192", "192.0.2.1",
    "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1",
    "100::1", "5f00::1",
    # An IPv4 address inside: mapped, compatible, NAT64, NAT64 of one's own, 6to4, Teredo, ISATAP.
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "::127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2002:a00:1::", "2001:0:7f00:1::1", "2a00:1450::5efe:127.0.0.1",
    "2a00:1450::200:5efe:10.0.0.1",
]  # fmt: skip
ALLOWED = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.215.14",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
    "64:ff9b::8.8.8.8",
]


@pytest.mark.parametrize("address", REFUSED)
def test_private_addresses_are_refused(address: str) -> None:
    assert not AddressGuard(()).allows(address, 443)


@pytest.mark.parametrize("address", ALLOWED)
def test_public_addresses_are_accepted(address: str) -> None:
    assert AddressGuard(()).allows(address, 443)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "2130706433", "0x7f000001", "8.8.8.8 ", "8.8.8.8/32"])
def test_anything_but_an_address_is_refused(text: str) -> None:
    assert not AddressGuard(()).allows(text, 443)


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:{}", "::{}", "::ffff:0:{}", "64:ff9b:1::{}"]))
def test_an_embedded_private_address_is_refused(address: object, form: str) -> None:
    assert not is_public(ip_address(form.format(address)))


@given(st.ip_addresses(v=4))
def test_a_nat64_address_is_checked_by_its_ipv4_address(address: object) -> None:
    assert is_public(ip_address(f"64:ff9b::{address}")) == is_public(ip_address(str(address)))


@given(st.ip_addresses(v=4).filter(lambda address: not is_public(address)))
def test_a_tunnel_to_a_private_address_is_refused(address: object) -> None:
    number = int(address)  # type: ignore[call-overload]
    assert not is_public(ip_address(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1"))


def test_the_setting_allows_only_its_entries() -> None:
    guard = AddressGuard(["127.0.0.1:8080", "10.20.0.0/16", "[fd00::5]:443", "fd11::/64"])
    assert guard.allows("127.0.0.1", 8080)
    assert not guard.allows("127.0.0.1", 5432)
    assert not guard.allows("127.0.0.2", 8080)
    assert guard.allows("10.20.255.1", 9)
    assert not guard.allows("10.21.0.1", 9)
    assert guard.allows("fd00::5", 443)
    assert not guard.allows("fd00::5", 80)
    assert guard.allows("fd11::7", 80)
    assert not guard.allows("::ffff:127.0.0.1", 8080)


@pytest.mark.parametrize(
    "entry",
    ["", "localhost", "10.0.0.1/8", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000", "[::1", "[::1]x", "::1]:80"],
)
def test_an_invalid_entry_is_refused_with_the_format(entry: str) -> None:
    with pytest.raises(ValueError, match=r'write "10\.0\.0\.0/8"'):
        parse_allowed_address(entry)
