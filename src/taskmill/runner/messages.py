"""What a supervisor and a runner say to each other. A run is named by a number that the supervisor gives it."""

from __future__ import annotations

from typing import Final

import msgspec

from taskmill.model.cron import CronSpec
from taskmill.model.task import Ended, HandlerSpec, Outcome


class Message(msgspec.Struct, array_like=True, tag_field="kind", gc=False):
    """Arrays on the wire, and nothing for the garbage collector to follow: there are thousands a second."""


# -- to the runner ---------------------------------------------------------------------------------------


class Job(Message, tag=1):
    """Run this. Answered by exactly one `Done`, unless the runner dies."""

    run: int
    id: bytes
    fence: int
    attempt: int
    type: str | None
    payload: str
    timeout: float
    """Seconds from now until the supervisor ends the run."""


class Cancel(Message, tag=2):
    """Stop it: an async handler is cancelled, a thread sees `ctx.cancelled`. Answered by its `Done` all the same."""

    run: int
    reason: str


class Answer(Message, tag=3):
    """To a `Submit`: the id of the task, or why there is none."""

    call: int
    id: str | None = None
    code: str | None = None
    message: str | None = None


class Stop(Message, tag=4):
    """Cancel what still runs, wait for it `grace` seconds, run the shutdown hooks and end. Nothing follows it."""

    grace: float = 0.0


Down = Job | Cancel | Answer | Stop

CANCEL: Final = "cancel"
TIMEOUT: Final = "timeout"
LOST: Final = "lost"
DRAIN: Final = "drain"


# -- to the supervisor -----------------------------------------------------------------------------------


class Handler(Message):
    type: str | None
    timeout: float | None
    max_retries: int | None
    isolated: bool
    threaded: bool

    def spec(self) -> HandlerSpec:
        return HandlerSpec(self.type, self.timeout, self.max_retries, self.isolated)


class Hello(Message, tag=11, gc=True):
    """The app is loaded, its startup hooks have run."""

    handlers: list[Handler]
    crons: list[CronSpec] = []


class Refused(Message, tag=12):
    """The app cannot be used: the runner ends."""

    code: str
    message: str


class Done(Message, tag=13):
    """A run has ended: its outcome, field by field."""

    run: int
    ended: Ended
    result: str | None = None
    error_type: str | None = None
    message: str | None = None
    traceback: str | None = None
    retry: bool = True
    after: float | None = None

    def outcome(self) -> Outcome:
        return Outcome(
            self.ended, self.result, self.error_type, self.message, self.traceback, self.retry, self.after
        )


class Logged(Message, tag=14):
    run: int
    level: str
    message: str
    fields: str | None
    at: int
    """Microseconds since 1970."""


class Progress(Message, tag=15):
    run: int
    value: float


class Submit(Message, tag=16):
    """A handler's new task. Checked by the runner; the supervisor adds the user."""

    call: int
    run: int
    title: str
    payload: str
    description: str | None
    type: str | None
    queue: str
    priority: int
    scheduled_at: int | None
    """Microseconds since 1970."""
    max_retries: int | None


class Dropped(Message, tag=17):
    """Log lines that found no room."""

    lines: int


Up = Hello | Refused | Done | Logged | Progress | Submit | Dropped

DOWN: Final = msgspec.msgpack.Decoder(list[Down])
UP: Final = msgspec.msgpack.Decoder(list[Up])
