"""An app that cannot be used ends the start with one line; later it only delays."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from taskmill.errors import ConfigError, StartError
from taskmill.worker.options import WorkerOptions
from taskmill.worker.supervisor import Supervisor
from tests.support import wait_until
from tests.worker.conftest import MakeApp
from tests.worker.kit import FakeSource, working

BAD = [
    ("1 / 0", ConfigError, "ZeroDivisionError: division by zero"),
    ("import no_such_module", ConfigError, "No module named 'no_such_module'"),
    ("sys.exit(4)", ConfigError, "SystemExit: 4"),
    ("os._exit(4)", StartError, "its runner ended while starting, with exit code 4"),
    (
        "@app.on_startup\ndef f(): raise OSError('no pool')",
        StartError,
        "a startup hook failed: OSError: no pool",
    ),
    (
        "@app.task('T')\nasync def f(ctx, a: 'Nowhere', b: int): ...",
        ConfigError,
        "name 'Nowhere' is not defined",
    ),
    ("", StartError, "registers no handler"),
]


@pytest.mark.parametrize(("body", "kind", "text"), BAD, ids=[body[:20] for body, _, _ in BAD])
async def test_an_app_that_cannot_be_used_is_one_line(
    source: FakeSource, make_app: MakeApp, body: str, kind: type[Exception], text: str
) -> None:
    """The first start does not try again: the process ends with the reason."""
    supervisor = Supervisor(source, WorkerOptions(app=make_app(body)))
    with pytest.raises(kind) as caught:
        await asyncio.wait_for(supervisor.run(), 20)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert source.calls["claim"] == 0


async def test_an_app_that_is_not_there(source: FakeSource) -> None:
    """The message names it."""
    supervisor = Supervisor(source, WorkerOptions(app="no_such_module_at_all:app"))
    with pytest.raises(ConfigError, match="there is no module 'no_such_module_at_all'"):
        await asyncio.wait_for(supervisor.run(), 20)


async def test_an_app_that_is_slow_to_start(source: FakeSource, make_app: MakeApp) -> None:
    """After start_timeout the worker gives up."""
    supervisor = Supervisor(source, WorkerOptions(app=make_app("time.sleep(60)"), start_timeout=0.3))
    with pytest.raises(StartError, match=r"was not ready after 0\.3 s"):
        await asyncio.wait_for(supervisor.run(), 20)


async def test_an_app_that_breaks_later_is_tried_again_with_backoff(
    source: FakeSource, make_app: MakeApp, tmp_path: Path
) -> None:
    """The file was changed under a running worker: it claims nothing until a runner comes up again."""
    app = make_app(
        f"""
        open({str(tmp_path / "starts")!r}, "a").write("x")
        if os.path.exists({str(tmp_path / "broken")!r}):
            raise RuntimeError("broken now")

        @app.task("T")
        async def t(ctx, payload): return 1
        """
    )
    async with working(source, app) as worker:
        (tmp_path / "broken").touch()
        os.kill(worker.supervisor.runners._main[0].link.pid, signal.SIGKILL)
        await wait_until(lambda: (tmp_path / "starts").read_text() == "xxx", 20)
        task = source.add("T", suspect=False)
        await asyncio.sleep(0.3)
        assert set(source.ended(task)) <= {"RELEASED"}
        assert len((tmp_path / "starts").read_text()) <= 6
        (tmp_path / "broken").unlink()
        await wait_until(lambda: source.ended(task)[-1:] == ["SUCCEEDED"], 20)
        assert not worker.task.done()


async def test_the_registry_reaches_the_source(source: FakeSource, make_app: MakeApp) -> None:
    """Types, timeouts, retries."""
    app = make_app(
        """
        @app.task("B", timeout=3, max_retries=7, isolated=True)
        async def b(ctx, payload): ...
        @app.default
        def d(ctx, payload): ...
        """
    )
    async with working(source, app):
        assert source.registry is not None
        spec = source.registry.get("B")
        assert spec is not None
        assert (spec.timeout, spec.max_retries, spec.isolated) == (3.0, 7, True)
        assert source.registry.get(None) is not None
        assert source.registry.types == ("B",)
