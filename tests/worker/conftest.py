from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.kit import FakeSource, write_app

MakeApp = Callable[[str], str]


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeApp:
    """Writes a user's module that runner processes find on PYTHONPATH."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda body: write_app(tmp_path, body, name=f"user_{secrets.token_hex(4)}")


@pytest.fixture
async def source() -> FakeSource:
    return FakeSource()
