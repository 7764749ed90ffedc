"""Where a remote worker's tasks come from: the API, over HTTP. No SQL, no Redis, nothing listens here.

It satisfies the port in source.py. A claim has an operation id; when its answer was lost, the next claim asks under the
same one, and gets what the lost answer brought. Everything else may be sent again as it is.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from random import Random
from typing import Final

import httpx2
import msgspec
import structlog

from taskmill.client.work import Lease
from taskmill.client.work import LogLine as Line
from taskmill.client.work import Outcome as Outgoing
from taskmill.errors import (
    BadUserInput,
    ConfigError,
    Forbidden,
    PayloadTooLarge,
    StartError,
    TaskmillError,
    Unauthenticated,
    Unavailable,
)
from taskmill.model.backoff import Backoff
from taskmill.model.clock import boottime, iso
from taskmill.model.ids import id_text, parse_id
from taskmill.model.state import Priority
from taskmill.model.task import Claimed, Ended, LogLine, NewTask, Outcome, Registry, Renewal, Renewed
from taskmill.worker import remote_api as api
from taskmill.worker.remote_api import Api

TIMEOUT: Final = 10.0
"""Seconds for an answer, beside what a claim waits."""
SUBMIT: Final = 15.0
REACH: Final = 30.0
"""Seconds in which the API must be reached at the start."""
LONGEST_WAIT: Final = 20.0
CLAIM_MOST: Final = 100
BATCH: Final = 500
BYTES: Final = 3 * 1024 * 1024
"""Of outcomes in one call: the API takes bodies of 4 MiB."""
BACKOFF: Final = Backoff(base=0.2, cap=3.0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Which API, and who asks it."""

    url: str
    key: str = field(repr=False)
    queues: tuple[str, ...] = ("default",)
    slots: int = 5
    name: str = ""
    version: str = ""


class RemoteSource:
    """One worker's source. `connect` first: it tells how long leases hold; `disconnect` last."""

    def __init__(
        self,
        options: RemoteOptions,
        *,
        rng: Random | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.boot_id = str(uuid.uuid4())
        self._options = options
        self._rng = rng or Random()
        self._api = Api(options.url, options.key, f"taskmill-worker/{options.version}", transport)
        self._host = socket.gethostname()
        self._registry = Registry()
        self._lease = 30.0
        self._claiming = asyncio.Lock()
        self._poked = asyncio.Event()
        self._halted = False
        self._lost: str | None = None
        """The operation of a claim that was not answered: it may have brought something."""

    async def connect(self) -> float:
        """Seconds that a lease holds. ConfigError: the key is not taken. StartError: no API there within REACH."""
        return await self._reach()

    async def start(self, registry: Registry) -> None:
        """Tells the API what this worker knows. Errors as those of `connect`."""
        self._registry = registry
        await self._reach()

    async def _reach(self) -> float:
        until, tries = boottime() + REACH, 0
        while True:
            tries += 1
            try:
                return await self._register()
            except (Unauthenticated, Forbidden) as error:
                raise ConfigError(f"TASKMILL_API_KEY: {self._api.endpoint} says: {error.message}") from None
            except Unavailable as error:
                wait = 0.1 + BACKOFF.delay(tries, self._rng)
                if boottime() + wait > until:
                    raise StartError(f"TASKMILL_API_URL: {error.message}") from None
                if tries == 1:
                    log.warning("the API cannot be reached yet", error=error.message)
                await asyncio.sleep(wait)
            except TaskmillError as error:
                raise StartError(f"TASKMILL_API_URL: {error.message}") from None

    async def _register(self) -> float:
        answer = await self._api.ask(api.REGISTER, TIMEOUT, input=self._me())
        self._lease = answer.register_worker.lease_seconds
        return self._lease

    def _me(self) -> api.Registering:
        types, retries = _known(self._registry)
        return api.Registering(
            self.boot_id,
            self._options.name or self._host,
            self._options.queues,
            types,
            retries,
            self._host,
            self._options.slots,
            self._options.version,
        )

    # -- claim -------------------------------------------------------------------------------------------

    async def claim(self, n: int, *, suspects: int, wait: float) -> list[Claimed]:
        """Up to n tasks (100 at once), as soon as there are any; [] after `wait` seconds, when poked or halted."""
        async with self._claiming:
            if self._halted:
                return []
            self._poked.clear()
            again, self._lost = self._lost, self._lost or str(uuid.uuid4())
            operation = self._lost
            given = self._claim(min(n, CLAIM_MOST), suspects, min(wait, LONGEST_WAIT), operation)
            asking = asyncio.create_task(self._ask_claim(given), name="claim:ask")
            poked = asyncio.create_task(self._poked.wait(), name="claim:poked")
            try:
                await asyncio.wait((asking, poked), return_when=asyncio.FIRST_COMPLETED)
            finally:
                poked.cancel()
                if not asking.done():
                    asking.cancel()
                await asyncio.wait((asking, poked))
            if asking.cancelled():
                # It waited, and somebody wants it back. What it may have brought all the same comes with this.
                given = msgspec.structs.replace(given, again=True, wait_seconds=0.0)
                claimed = await self._ask_claim(given)
            else:
                claimed = asking.result()
            self._lost = None
            if again is not None and claimed:
                log.info("tasks of a claim whose answer was lost", tasks=len(claimed))
            return claimed

    def _claim(self, n: int, suspects: int, wait: float, operation: str) -> api.Claiming:
        return api.Claiming(
            **msgspec.structs.asdict(self._me()),
            max=n,
            suspects=min(suspects, n),
            wait_seconds=wait,
            operation_id=operation,
            again=False,
        )

    async def _ask_claim(self, given: api.Claiming) -> list[Claimed]:
        sent = boottime()
        answer = (await self._api.ask(api.CLAIM, given.wait_seconds + TIMEOUT, input=given)).claim_tasks
        # The leases began at the API, after the request had come there and waited: not before this.
        began = sent + answer.waited_seconds
        return [_claimed(run, began + run.lease_seconds) for run in answer.tasks]

    def poke(self) -> None:
        self._poked.set()

    async def halt(self) -> None:
        """The claim in flight is ended, and what it has brought all the same is returned by it. What came with an answer
        that was lost goes back unstarted."""
        self._halted = True
        self._poked.set()
        async with self._claiming:
            if self._lost is None:
                return
            given = self._claim(1, 0, 0.0, self._lost)
            try:
                claimed = await self._ask_claim(msgspec.structs.replace(given, again=True))
                if claimed:
                    await self.settle([(run, Outcome(Ended.RELEASED)) for run in claimed])
                self._lost = None
            except TaskmillError as error:  # then their leases run out
                log.warning("a claim whose answer was lost could not be undone", error=error.message)

    # -- what runs bring ---------------------------------------------------------------------------------

    async def renew(self, leases: Sequence[Renewal]) -> Renewed:
        sent = boottime()
        found: dict[str, set[tuple[bytes, int]]] = {"HELD": set(), "CANCELLED": set(), "LOST": set()}
        granted = self._lease
        for part in (leases[i : i + BATCH] for i in range(0, len(leases), BATCH)):
            given = api.Renewing(self.boot_id, [Lease(id_text(r.id), r.fence, r.progress) for r in part])
            answer = await self._api.ask(api.RENEW, min(TIMEOUT, max(self._lease / 3, 1.0)), input=given)
            for renewal, state in zip(part, answer.renew_tasks, strict=True):
                found.get(state.state, found["LOST"]).add((renewal.id, renewal.fence))
                if state.state != "LOST":
                    granted = state.lease_seconds
        held, cancelled, lost = (frozenset(found[name]) for name in ("HELD", "CANCELLED", "LOST"))
        if granted != self._lease:  # the API was restarted with another setting
            log.warning(
                "leases hold for another time now: restart this worker", before=self._lease, now=granted
            )
            self._lease = granted
        return Renewed(held, cancelled, lost, sent + granted)

    async def settle(self, batch: Sequence[tuple[Claimed, Outcome]]) -> list[bool]:
        """In calls of a bounded size. Unavailable: those that were recorded are answered so when they are sent again.

        What is no fault of an outcome, such as a key that is not taken now, is Unavailable too: outcomes are kept, as long
        as their leases hold. TaskmillError: the API broke over it.
        """
        answers: list[bool] = []
        for part in _parts([_outcome(run, outcome) for run, outcome in batch]):
            given = api.Settling(self.boot_id, part)
            try:
                answer = await self._api.ask(api.SETTLE, TIMEOUT, input=given)
            except api.Broken as error:  # perhaps by one of these: each is tried alone then
                raise TaskmillError(error.message) from None
            except (BadUserInput, PayloadTooLarge, Unavailable):
                raise
            except TaskmillError as error:
                raise Unavailable(error.message) from None
            answers += [state.state == "RECORDED" for state in answer.settle_tasks]
        return answers

    async def log(self, lines: Sequence[LogLine]) -> None:
        given = [
            Line(
                id_text(line.task_id),
                line.fence,
                line.message,
                line.level,
                None if line.fields is None else msgspec.Raw(line.fields.encode()),
                line.at.replace(tzinfo=UTC),
            )
            for line in lines
        ]
        await self._api.ask(api.LOG, 5.0, input=api.Logging(self.boot_id, str(uuid.uuid4()), given))

    async def submit(self, tasks: Sequence[NewTask], run: tuple[bytes, int]) -> list[bytes]:
        """In the name of the run's user, whom the API knows: `user_id` is not sent. Tried for SUBMIT seconds."""
        inputs = [
            api.Task(
                task.title,
                task.description,
                task.type,
                task.queue,
                task.priority.name,
                msgspec.Raw(task.payload.encode()),
                None if task.scheduled_at is None else iso(task.scheduled_at),
                task.max_retries,
            )
            for task in tasks
        ]
        given = api.Submitting(self.boot_id, id_text(run[0]), run[1], str(uuid.uuid4()), inputs)
        until, tries = boottime() + SUBMIT, 0
        while True:  # the operation makes it safe
            tries += 1
            try:
                answer = await self._api.ask(api.SUBMIT, TIMEOUT, input=given)
            except Unavailable:
                wait = BACKOFF.delay(tries, self._rng)
                if boottime() + wait > until:
                    raise
                await asyncio.sleep(wait)
                continue
            return [_id(text) for text in answer.submit_tasks]

    async def cancels(self) -> list[tuple[bytes, int]]:
        """Waits at the API for cancel signals, as long as it lets us."""
        answer = await self._api.ask(
            api.CANCELS, LONGEST_WAIT + TIMEOUT, worker=self.boot_id, waitSeconds=LONGEST_WAIT
        )
        return [(_id(signal.id), signal.fence) for signal in answer.cancel_signals]

    async def close(self) -> None:
        """A failure is logged: the worker's row ages out."""
        try:
            await self._api.ask(api.LEAVE, 3.0, input=api.Leaving(self.boot_id))
        except TaskmillError as error:
            log.warning("worker.row_left", error=error.message)

    async def disconnect(self) -> None:
        """End the connections."""
        await self._api.close()


def _known(registry: Registry) -> tuple[list[str], list[api.Retries]]:
    types = [handler.type or "" for handler in registry.handlers]
    retries = [
        api.Retries(handler.type, handler.max_retries)
        for handler in registry.handlers
        if handler.max_retries is not None
    ]
    return types, retries


def _claimed(run: api.Run, deadline: float) -> Claimed:
    # What only the record needs to know of a run stays there: its user, crashes and releases.
    return Claimed(
        id=_id(run.id),
        fence=run.fence,
        user_id=b"",
        queue=run.queue,
        priority=Priority[run.priority],
        type=run.type,
        title=run.title,
        payload=bytes(run.payload).decode(),
        attempts=run.attempt,
        max_retries=run.max_retries,
        crashes=0,
        suspect=run.suspect,
        releases=0,
        deadline=deadline,
    )


def _id(text: str) -> bytes:
    raw = parse_id(text)
    if raw is None:
        raise TaskmillError("the API answered with an id that is none")
    return raw


def _outcome(run: Claimed, outcome: Outcome) -> Outgoing:
    return Outgoing(
        id_text(run.id),
        run.fence,
        outcome.ended,
        None if outcome.result is None else msgspec.Raw(outcome.result.encode()),
        outcome.message,
        outcome.error_type,
        outcome.traceback,
        outcome.retry,
        outcome.after,
    )


def _parts(outcomes: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Bounded by number and by bytes."""
    part: list[Outgoing] = []
    size = 0
    for outcome in outcomes:
        bytes_ = 500 + sum(
            len(text.encode(errors="replace"))
            for text in (outcome.message, outcome.traceback, outcome.error_type)
            if text
        )
        bytes_ += len(bytes(outcome.result)) if outcome.result is not None else 0
        if part and (len(part) >= BATCH or size + bytes_ > BYTES):
            yield part
            part, size = [], 0
        part.append(outcome)
        size += bytes_
    if part:
        yield part
