"""A worker with a real runner process runs handlers and settles what they yield."""

from __future__ import annotations

from collections.abc import Callable

from tests.support import wait_until
from tests.worker.kit import FakeSource, working

MakeApp = Callable[[str], str]


async def test_async_and_plain_handlers_run(source: FakeSource, make_app: MakeApp) -> None:
    """An async handler and a plain one both run in the child, and their results are settled."""
    app = make_app(
        """
        @app.task("ASYNC")
        async def a(ctx, payload):
            await asyncio.sleep(0)
            return {"got": payload, "pid": os.getpid(), "thread": threading.current_thread().name}

        @app.task("PLAIN")
        def b(ctx, payload):
            return [payload, ctx.attempt, ctx.fence]
        """
    )
    one, two = source.add("ASYNC", {"x": 1}), source.add("PLAIN", "y")
    async with working(source, app):
        await wait_until(lambda: len(source.outcomes) == 2)
    assert source.ended(one) == ["SUCCEEDED"]
    assert '"got":{"x":1}' in (source.of(one)[0].result or "")
    assert source.of(two)[0].result == '["y",1,1]'
