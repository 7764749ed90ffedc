"""`processes=0`: handlers run in the supervisor itself, over the same messages. For tests: nothing can be killed here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from taskmill.app import Taskmill
from taskmill.errors import ConfigError, StartError
from taskmill.runner import messages
from taskmill.runner.core import Core
from taskmill.runner.executor import message_of
from taskmill.runner.load import load_app
from taskmill.worker.options import WorkerOptions
from taskmill.worker.runners import MakeLink


class Inline:
    """In the place of a `Child`. What it is sent arrives in the next turn of the loop, as over a socket."""

    pid = 0

    def __init__(
        self,
        on_messages: Callable[[list[messages.Up]], None],
        on_gone: Callable[[str], None],
        app: Taskmill | None = None,
    ) -> None:
        self._on_messages = on_messages
        self._on_gone = on_gone
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._core: Core | None = None
        self._up: list[messages.Up] = []
        self._down: list[messages.Down] = []
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    def start(self, options: WorkerOptions, slots: int) -> None:
        self._starting = self._loop.create_task(self._start(options.app, slots))

    async def _start(self, name: str, slots: int) -> None:
        try:
            app = self._app or load_app(name)
            self._core = Core(app, slots, self._report, lambda: True)
            self._report(await self._core.start())
        except ConfigError as error:
            self._report(messages.Refused(error.code, error.message))
        except Exception as error:  # noqa: BLE001 (of a startup hook, as in a runner process)
            self._report(messages.Refused(StartError.code, f"a startup hook failed: {message_of(error)}"))

    def send(self, message: messages.Down) -> None:
        if not self._down:
            self._loop.call_soon(self._deliver)
        self._down.append(message)

    def _deliver(self) -> None:
        batch, self._down = self._down, []
        if self._core is not None:
            self._core.receive(batch)
        last = batch[-1]
        if isinstance(last, messages.Stop):
            self._stopping = self._stopping or self._loop.create_task(self._stop(last.grace))

    def _report(self, message: messages.Up) -> None:
        if not self._up:
            self._loop.call_soon(self._answer)
        self._up.append(message)

    def _answer(self) -> None:
        batch, self._up = self._up, []
        self._on_messages(batch)

    async def _stop(self, grace: float) -> None:
        if self._core is not None:
            await self._core.stop(grace)
        self._loop.call_soon(self._on_gone, "stop")

    def terminate(self) -> None:
        self.send(messages.Stop())

    def kill(self) -> None:
        self.send(messages.Stop())


def inline(app: Taskmill | None = None) -> MakeLink:
    """What makes them, for a `Supervisor`. `app`: this one, not the one that the options name."""
    return lambda on_messages, on_gone: Inline(on_messages, on_gone, app)
