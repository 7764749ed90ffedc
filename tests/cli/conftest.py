"""A `compose` that only remembers, so that the command line is tested alone."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

import taskmill.cli
from taskmill.settings import setting_names


class Compose(types.ModuleType):
    """What the commands call: it keeps the settings, and ends as a test says."""

    def __init__(self) -> None:
        super().__init__("taskmill.compose")
        self.calls: list[tuple[str, Any]] = []
        self.outcome: Any = None
        self.accounts: Any = None
        for name in ("up", "api", "worker", "remote_worker", "scheduler", "migrate"):
            setattr(self, name, self._service(name))

    def _service(self, name: str) -> Any:
        async def service(settings: Any) -> Any:
            self.calls.append((name, settings))
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome

        return service

    @asynccontextmanager
    async def users(self, settings: Any) -> Any:
        self.calls.append(("users", settings))
        yield self.accounts


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compose]:
    fake = Compose()
    monkeypatch.setitem(sys.modules, "taskmill.compose", fake)
    monkeypatch.setattr(taskmill, "compose", fake, raising=False)
    _forget_people()
    yield fake
    _forget_people()


def _forget_people() -> None:
    """It holds on to the compose that was there when it was imported."""
    sys.modules.pop("taskmill.cli.people", None)
    vars(taskmill.cli).pop("people", None)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    """No setting of the shell, an empty working folder, and the logging of the process as it was."""
    for names in setting_names().values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers, logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
