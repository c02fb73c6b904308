from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backline.settings import settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that attachments may come from; together they may weigh 1 MiB."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    monkeypatch.setenv("BACKLINE__EMAIL__ATTACHMENT_FOLDER", str(allowed))
    monkeypatch.setenv("BACKLINE__EMAIL__ATTACHMENT_MAX_MIB", "1")
    settings.cache_clear()
    yield allowed
    settings.cache_clear()
