"""Parsing of email addresses."""

from __future__ import annotations

import pytest

from backline.channels.recipients import Address, parse_address
from backline.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "name", "spec"),
    [
        ("ann@example.com", "", "ann@example.com"),
        ("  ann@example.com ", "", "ann@example.com"),
        ("Ann.B+tag_1@Mail.Example.COM", "", "Ann.B+tag_1@mail.example.com"),
        ("<ann@example.com>", "", "ann@example.com"),
        ("Ann <ann@example.com>", "Ann", "ann@example.com"),
        ('"Müller, Jörg" <j@example.com>', "Müller, Jörg", "j@example.com"),
        ("Müller, Jörg <j@example.com>", "Müller, Jörg", "j@example.com"),
        (r'"say \"hi\" \\ <x@y>" <j@example.com>', r'say "hi" \ <x@y>', "j@example.com"),
        ("o'brien@example.ie", "", "o'brien@example.ie"),
        ("x@müller.de", "", "x@xn--mller-kva.de"),
        ("x@xn--mller-kva.de", "", "x@xn--mller-kva.de"),
        ("x@bücher.example", "", "x@xn--bcher-kva.example"),
        ("jörg@müller.de", "", "jörg@xn--mller-kva.de"),
        ("root@localhost", "", "root@localhost"),
        ("app@mail.localhost", "", "app@mail.localhost"),
        ("app@localhost.localdomain", "", "app@localhost.localdomain"),
        ("a@shop.test", "", "a@shop.test"),
        ("a@x.invalid", "", "a@x.invalid"),
        ("a@Shop.EXAMPLE", "", "a@shop.example"),
    ],
)
def test_reads_addresses(text: str, name: str, spec: str) -> None:
    assert parse_address(text, "to") == Address(name, spec)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "ann@",
        "@example.com",
        "ann@example",
        "ann@@example.com",
        "ann@exa mple.com",
        "an n@example.com",
        "ann..b@example.com",
        ".ann@example.com",
        "ann@example..com",
        "ann@-example.com",
        "ann@example.com.",
        "a@example.com, b@example.com",
        "a@example.com, Bob <b@example.com>",
        "Bob <b@example.com",
        "Bob b@example.com>",
        "Bob <>",
        "Bob <b@example.com> x",
        "ann@[127.0.0.1]",
        "x" * 65 + "@example.com",
        "x@" + "a" * 64 + ".com",
        "x@" + ".".join(["a" * 60] * 5) + ".com",
        "ann@example.com\r\nRCPT TO:<eve@example.com>",
        "ann@example.com\n",
        "Ann\r\nBcc: eve@example.com <ann@example.com>",
        "Ann\x00 <ann@example.com>",
        "Ann\u2028 <ann@example.com>",
        "ann@exam\tple.com",
        "\ud800 <ann@example.com>",
    ],
)
def test_anything_but_a_single_address_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_address(text, "cc[1]")
    assert caught.value.field == "cc[1]"
    assert "\r" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_a_local_part_beyond_ascii_needs_smtputf8() -> None:
    assert not parse_address("jörg@müller.de", "to").addr_spec.isascii()
    assert parse_address("Jörg <joerg@müller.de>", "to").addr_spec.isascii()
