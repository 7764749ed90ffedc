"""A run without a runner: a context that keeps what a handler logs."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskmill.app import Context
from taskmill.handlers.options import HandlerOptions
from taskmill.model.ids import new_id
from taskmill.model.port import Draft


class Port:
    """The runner's side of a context."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.values: list[float] = []

    def log(self, ctx: Context, level: str, message: str, fields: dict[str, Any]) -> None:
        self.lines.append((level, message, fields))

    def progress(self, ctx: Context, value: float) -> None:
        self.values.append(value)

    def submit(self, ctx: Context, task: Draft) -> concurrent.futures.Future[str]:
        raise AssertionError("these handlers submit nothing")


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def ctx(port: Port) -> Context:
    return Context(port, new_id(), fence=1, attempt=1)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, media: Path) -> Callable[..., HandlerOptions]:
    """Sets the handlers' options, as a worker does for its runners."""

    def set_options(**options: Any) -> HandlerOptions:
        made = HandlerOptions(media=media, **options)
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        return made

    set_options()
    return set_options
