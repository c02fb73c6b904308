"""`./backline preview`: the sample of each type, or a payload, without sending anything."""

from __future__ import annotations

import json
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest

from backline.cli.__main__ import run
from backline.messages import registry

Preview = Callable[..., int]


@pytest.fixture
def preview(monkeypatch: pytest.MonkeyPatch) -> Preview:
    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["backline", "preview", *arguments])
        return run()

    return call


@pytest.mark.parametrize("name", [kind.type_name for kind in registry.all_types() if "webhook" not in kind.channels])
def test_every_type_has_a_preview(preview: Preview, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert preview(name, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["type"] == name
    assert shown["text"]
    if "email" in registry.get(name).channels:
        assert shown["subject"]
        assert shown["bytes"]["message"] > shown["bytes"]["html"] == len((shown["html"] or "").encode())


def test_headers_attachments_and_sizes_are_shown(preview: Preview, capsys: pytest.CaptureFixture[str]) -> None:
    assert preview("newsletter") == 0
    assert preview("payment_receipt", "--language", "de") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "List-Unsubscribe-Post: List-Unsubscribe=One-Click" in lines
    assert "Subject: Ihr Beleg: 72,80 € für Order 1042" in lines
    assert "Attached: Invoice R-2026-0311.pdf (application/pdf, 1.0 kB)" in lines
    assert len([line for line in lines if line.startswith("Size: text ") and " kB, whole message " in line]) == 2


def test_fields_change_the_sample_and_a_payload_replaces_it(
    preview: Preview, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preview("order_status", "--set", "status=cancelled", "--text") == 0
    assert "your order has been cancelled" in capsys.readouterr().out
    assert preview("welcome", "--payload", '{"name": "Zoë"}', "--text") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Hi Zoë,\n")
    assert "shop.example" not in printed


@pytest.mark.parametrize("token", ['{"$ref": "password_reset_token", "id": 17}', "gAAAAAB-sealed"])
def test_a_secret_is_fake(preview: Preview, capsys: pytest.CaptureFixture[str], token: str) -> None:
    assert preview("password_reset", "--set", f"token={token}", "--text") == 0
    assert registry.get("password_reset").fake_secret("token") in capsys.readouterr().out


def test_the_html_is_written_and_opened(
    preview: Preview, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert preview("welcome", "--html", str(tmp_path / "x.html"), "--open") == 0
    written = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert written.startswith("<!DOCTYPE html>")
    assert Path(opened[0].removeprefix("file://")).read_text(encoding="utf-8") == written
    assert "Hi Ann," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nope"], "type: 'nope' is not a message type"),
        (["sms", "--open"], "--open: sms does not go by email, so it has no HTML part"),
        (["push", "--html", "x.html"], "--html: push does not go by email"),
        (["webhook"], "type: webhook is not rendered, so there is nothing to show"),
        (["email", "--language", "de"], "--language: email has no language"),
        (["email", "--html", "x.html"], "--html: this message has no HTML part"),
        (["welcome", "--html", "/no/such/x.html"], "--html: cannot write '/no/such/x.html': No such file"),
        (["welcome", "--payload", "{}"], "name: is required; add it"),
        (["welcome", "--language", "german"], "language: "),
    ],
)
def test_bad_input_is_one_line(
    preview: Preview, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    assert preview(*arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"backline: {error}")
    assert printed.err.count("\n") == 1


def test_an_sms_is_shown_with_its_segments(preview: Preview, capsys: pytest.CaptureFixture[str]) -> None:
    assert preview("sms", "--set", "body=Grüße 😀") == 0
    assert capsys.readouterr().out == "Size: 1 x SMS in UCS-2, 7 characters\n\nGrüße 😀\n"
    assert preview("order_shipped", "--language", "de") == 0
    printed = capsys.readouterr().out
    assert "Subject: Ihre Bestellung 1042 ist unterwegs" in printed
    assert "By SMS:\nSize: 1 x SMS in GSM-7, " in printed
    assert preview("push", "--text") == 0
    assert capsys.readouterr().out == "Parcel Post brings it on Thursday.\n"
