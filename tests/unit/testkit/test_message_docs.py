from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from backline.errors import FailureClass
from backline.messages import registry
from backline.messages.run_conf import split_conf
from backline.messages.secrets import check_no_plaintext_secrets
from backline.rendering import catalog
from testkit import message_docs


def test_the_page_is_fresh() -> None:
    assert message_docs.PAGE.read_text(encoding="utf-8") == message_docs.render_page(), "run: ./backline generate"


def test_every_type_template_and_failure_class_is_on_it() -> None:
    text = message_docs.render_page()
    for kind in registry.all_types():
        assert f"### {kind.type_name}\n" in text
        assert f"backline.enqueue('{kind.type_name}'" in text
    for name in (*catalog.templates("email"), *catalog.templates("sms"), *FailureClass):
        assert f"| `{name}` |" in text


def test_the_confs_that_it_shows_are_accepted() -> None:
    confs = re.findall(r"conf of `send_(\w+)`:\n\n```json\n(.+)\n```", message_docs.render_page())
    assert [name for name, _ in confs] == [kind.type_name for kind in registry.all_types()]
    for name, conf in confs:
        kind = registry.get(name)
        check_no_plaintext_secrets(kind, split_conf(kind, json.loads(conf))[1])


def test_text_around_the_generated_part_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "messages.md"
    file.write_text(f"# Mine\n{message_docs.BEGIN}\n## Old\n{message_docs.END}\nAlso mine\n", encoding="utf-8")
    text = message_docs.render_page(file)
    assert text.startswith("# Mine\n")
    assert text.endswith("\nAlso mine\n")
    assert "Old" not in text
    file.write_text("# Mine\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks one of its markers"):
        message_docs.render_page(file)
