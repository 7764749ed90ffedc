from __future__ import annotations

from pathlib import Path

import pytest

from taskmill.settings import setting_names


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the shell, and an empty working folder."""
    for names in setting_names().values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
