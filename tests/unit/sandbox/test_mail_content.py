"""Messages taken apart, however broken."""

from __future__ import annotations

from email.message import EmailMessage

from hypothesis import given
from hypothesis import strategies as st

from sandbox.mail.content import decode_header_text, parse_content


@given(
    st.binary(max_size=200),
    st.sampled_from(["base64", "quoted-printable", "x-uuencode", "8bit"]),
    st.sampled_from(["utf-8", "utf-7", "utf-16", "latin-1", "klingon", "", "é", "hex", "\0"]),
)
def test_nothing_in_a_message_raises(body: bytes, encoding: str, charset: str) -> None:
    kind = f'text/html; charset="{charset}"; name="{charset}"'
    head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    for raw in (body, head.encode() + body, b"Subject: =?utf-8?b?" + body + b"?=\r\n\r\n"):
        repr(parse_content(raw)).encode()


@given(st.text(max_size=60))
def test_header_text_survives_any_encoding(text: str) -> None:
    message = EmailMessage()
    clean = " ".join(text.split()).encode("utf-8", "replace").decode()
    message["Subject"] = "".join(letter for letter in clean if letter.isprintable())
    raw = message.as_bytes()
    assert dict(parse_content(raw).headers)["Subject"].split() == str(message["Subject"]).split()


def test_utf7_surrogates_and_unknown_charsets_are_tamed() -> None:
    lone = parse_content(b"Content-Type: text/plain; charset=utf-7\r\n\r\n+2AA-")
    assert lone.text.encode()
    assert parse_content(b"Content-Type: text/plain; charset=klingon\r\n\r\nnuqneH").text == "nuqneH"
    assert decode_header_text(b"=?klingon?q?abc?=") == "=?klingon?q?abc?="


def test_embedded_image_is_shown_in_the_html_and_links_are_listed() -> None:
    message = EmailMessage()
    message.set_content("text")
    message.add_alternative(
        '<img src="cid:logo"><a href="https://x.example/?a=1&amp;b=2">go</a><a href="#top">up</a>', "html"
    )
    message.get_payload()[1].add_related(b"\x89PNG", "image", "png", cid="<logo>")  # type: ignore[union-attr, index]
    content = parse_content(message.as_bytes())
    assert 'src="data:image/png;base64,iVBORw=="' in content.html
    assert content.links == ["https://x.example/?a=1&b=2"]
    assert [part.content_type for part in content.attachments] == ["image/png"]
