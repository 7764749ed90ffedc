"""The pytest plug-in: the fixture `taskmill` is a Bench for the app that `taskmill_app` names. Loaded by every pytest
run of who has Taskmill installed, so it imports nothing until a fixture is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from taskmill.app import Taskmill
    from taskmill.testing.bench import Bench


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("taskmill_app", "the app of the fixture `taskmill`: module:attribute", default="")


@pytest.fixture
def taskmill_app(request: pytest.FixtureRequest) -> Taskmill:
    """The app that the fixture `taskmill` runs: what the ini option of this name says. Yours may take its place."""
    from taskmill.runner.load import load_app

    name = str(request.config.getini("taskmill_app"))
    if not name:
        raise pytest.UsageError(
            "the fixture `taskmill` needs an app: set taskmill_app = module:attribute in pytest's ini options, "
            "or define a fixture `taskmill_app` that returns it"
        )
    return load_app(name)


@pytest.fixture
def taskmill(taskmill_app: Taskmill) -> Iterator[Bench]:
    """A Bench of its own for each test: what is submitted is kept, and runs with `drain` or `drain_sync`."""
    from taskmill.testing.bench import Bench

    with Bench(taskmill_app) as bench:
        yield bench
