"""The scheduler: the jobs of this package, each in a loop of its own, while this process leads.

Any number of schedulers may run; one leads, the others wait. With two that both believe to lead nothing goes wrong:
each job locks what it changes and looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from taskmill.errors import IndexUnavailable, Unavailable
from taskmill.index.wake import Subscription
from taskmill.model.clock import boottime
from taskmill.model.ids import new_id
from taskmill.model.state import Status
from taskmill.runtime.loop import loop
from taskmill.tasks import workers
from taskmill.tasks.fire import Late
from taskmill.tasks.mill import Mill
from taskmill.tasks.schedules import Fired
from taskmill.upkeep.fire import fire_due, release_waiting, retain_fires, retime
from taskmill.upkeep.fold import fold_journal, trim_journal
from taskmill.upkeep.leader import Leadership
from taskmill.upkeep.measure import measure, report
from taskmill.upkeep.options import UpkeepOptions
from taskmill.upkeep.promote import promote_due
from taskmill.upkeep.rescue import rescue_lost
from taskmill.upkeep.retain import note_retained, retain_batch, retained_until
from taskmill.upkeep.verify import Verifier, drop_dead

log = structlog.get_logger(__name__)

TURN: Final = 60.0
"""Seconds that one turn of a loop may take: each of its statements has its own, shorter limit."""
FOLLOWING: Final = 1.0
"""Seconds between two looks of a scheduler that does not lead."""
TRIM: Final = 30.0
DEAD: Final = 60.0
FORGET: Final = 10.0
"""A worker's row goes after so many times its time to live."""

Job = Callable[[], Awaitable[float]]


class Scheduler:
    """A service: `run` until `stop`."""

    name = "scheduler"

    def __init__(self, mill: Mill, options: UpkeepOptions) -> None:
        self._mill = mill
        self._options = options
        self._stop = asyncio.Event()
        self._due = asyncio.Event()
        self._changed = asyncio.Event()
        self._low = 0
        self._reported = boottime()
        self._retained: datetime | None = None
        self._dead_after = ""
        self._late = Late(options.misfire_after, options.misfire_grace)
        self._timed = False
        self.leadership = Leadership(mill.db, new_id(), options.leader_ttl)
        for outcome in Fired:
            mill.probes.schedule_fires.labels(outcome.name)
        mill.probes.scheduler_leading.set_function(lambda: self.leadership.held)
        self.verifier = Verifier(mill, mill.index, options) if mill.index is not None else None

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        jobs: list[tuple[str, Job, asyncio.Event | None]] = [
            ("promote", self._promote, self._due),
            ("fire", self._fire, None),
            ("waiting", self._waiting, None),
            ("rescue", self._rescue, None),
            ("fold", self._fold, self._changed),
            ("trim", self._trim, None),
            ("retain", self._retain, None),
        ]
        if self.verifier is not None:
            jobs += [("verify", self._verify, None), ("dead", self._dead, None)]
        async with AsyncExitStack() as stack:
            due = await stack.enter_async_context(self._mill.bell.listen("due"))
            changed = await stack.enter_async_context(self._mill.bell.listen("journal"))
            async with asyncio.TaskGroup() as group:
                hearing = [
                    group.create_task(_hear(due, self._due)),
                    group.create_task(_hear(changed, self._changed)),
                ]
                group.create_task(self._loop("leader", self.leadership.run_once, None))
                loops = [group.create_task(self._loop(n, self._led(job), wake)) for n, job, wake in jobs]
                loops.append(group.create_task(self._loop("measure", self._measure, None)))
                await self._stop.wait()
                await asyncio.wait(loops)
                for task in hearing:
                    task.cancel()
        await self._mill.flush()
        try:
            await self.leadership.resign()
        except Unavailable as error:
            log.info("leader.not_resigned", error=error.message)

    async def _loop(self, name: str, job: Job, wake: asyncio.Event | None) -> None:
        failures = self._mill.probes.loop_failures.labels(loop=name)  # from 0: a rate would not see the first
        await loop(
            name,
            job,
            self._stop,
            timeout=TURN,
            wake=wake,
            failed=lambda _: failures.inc(),
            rng=self._mill.rng,
        )

    def _led(self, job: Job) -> Job:
        async def turn() -> float:
            return await job() if self.leadership.held else min(FOLLOWING, self._options.leader_ttl / 3)

        return turn

    async def _promote(self) -> float:
        return await promote_due(self._mill, self._options.batch, self._options.poll)

    async def _fire(self) -> float:
        if not self._timed:
            await retime(self._mill)
            self._timed = True
        return await fire_due(self._mill, self._late, self._options.poll)

    async def _waiting(self) -> float:
        return await release_waiting(self._mill, self._options.poll)

    async def _rescue(self) -> float:
        done = await rescue_lost(self._mill, self._options.batch)
        return 0.0 if done >= self._options.batch else self._options.rescue

    async def _fold(self) -> float:
        done = await fold_journal(self._mill, self._options.batch)
        if done >= self._options.batch:
            return 0.0
        # Nothing hurries: what is not folded is counted too. Idle, the poll behind the bell is slow.
        await asyncio.sleep(self._options.fold)
        return self._options.poll * 2

    async def _trim(self) -> float:
        options = self._options
        low = await trim_journal(
            self._mill, self._low, age=options.journal_age, rows=options.journal_rows, n=options.batch
        )
        if low is None:
            return TRIM
        self._low = low
        return 0.0

    async def _measure(self) -> float:
        if not self.leadership.held:
            self._mill.probes.forget_measured()
            return min(FOLLOWING, self._options.leader_ttl / 3)
        health = await measure(self._mill)
        if boottime() - self._reported >= self._options.report:
            self._reported = boottime()
            report(health)
        return self._options.measure

    async def _retain(self) -> float:
        last = _last_retention(datetime.now(UTC), self._options.retain_hour)
        if last == self._retained:
            return 30.0
        # A machine that sleeps at that hour makes up for it; a new installation waits for its first.
        done = await self._mill.db.read(retained_until)
        if done is not None and done < last:
            if await retain_once(self._mill, self._options):
                return 0.05
            days = self._options.keep_fires_days
            if await self._mill.db.write(lambda c: retain_fires(c, days)):
                return 0.05
            await self._mill.db.write(
                lambda c: workers.forget_dead(c, self._mill.options.worker_ttl * FORGET)
            )
            log.info("retain.done", day=last.isoformat())
        if done is None or done < last:
            await self._mill.db.write(lambda c: note_retained(c, last))
        self._retained = last
        self._low = 0  # rows of the journal that became visible behind it
        return 30.0

    async def _verify(self) -> float:
        """A turn of verify. The breaker tells an outage of the index and probes for its end, which must be seen at once
        and not after the loop's backoff: until the index is filled again, workers ask SQL."""
        if self.verifier is None:
            return DEAD
        try:
            return await self.verifier.run_once()
        except IndexUnavailable:
            self._mill.probes.index_errors.inc()
            return self._options.verify

    async def _dead(self) -> float:
        """Queue by queue, in parts: what a turn has no time for, or fails at, does not keep the next one from the rest."""
        if self._mill.index is None or self.verifier is None:
            return DEAD
        began, dropped = boottime(), 0
        queues = self.verifier.queues
        for queue in [q for q in queues if q > self._dead_after]:
            if boottime() - began > TURN / 4:
                return 1.0
            self._dead_after = queue
            dropped += await drop_dead(self._mill, self._mill.index, queue)
        self._dead_after = ""
        if dropped:
            log.info("verify.dead", dropped=dropped)
        return DEAD


async def retain_once(mill: Mill, options: UpkeepOptions) -> int:
    """One batch of each state that is retained for a time; how many tasks went."""
    gone = await retain_batch(mill, Status.COMPLETED, options.retain_completed_days)
    gone += await retain_batch(mill, Status.CANCELLED, options.retain_completed_days)
    if options.retain_failed_days is not None:
        gone += await retain_batch(mill, Status.FAILED, options.retain_failed_days)
    return gone


def _last_retention(now: datetime, hour: int) -> datetime:
    """The latest daily retention time that is not in the future."""
    today = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    return today if today <= now else today - timedelta(days=1)


async def _hear(bell: Subscription, event: asyncio.Event) -> None:
    while True:
        if await bell.wait(60.0) is not None:
            event.set()
