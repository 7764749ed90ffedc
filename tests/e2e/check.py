"""The checker: after the drain it reads the record (tasks, the whole journal, runs, counts), the effect log and what
clients were told, and names each broken invariant of RELIABILITY.md, part 2.

    I1 no loss · I2 fenced completion · I3 fences grow · I5 one lease at a time · I6 no overlap of executions ·
    I7 terminal is final · I8 no phantom · I9 attempts add up · I10 payloads whole · I12 never early ·
    I13 cancel is honest · I17 all is terminal · I24 counts equal a recount
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.ids import id_text
from taskmill.model.state import TERMINAL, Status, Verb, allowed
from taskmill.sql import schema
from taskmill.sql.engine import SqlOptions, open_database
from taskmill.tasks.journal import Change, decode

CRASHED = ("CRASHED", "LEASE_LOST")
GIVEN_BACK = ("RELEASED", "UNKNOWN_TYPE")
CRASH_LIMIT = 3


@dataclass
class History:
    """What clients did and were told. Ids are texts."""

    created: dict[str, str] = field(default_factory=dict)
    """Acknowledged task → its payload, as canonical JSON text."""
    unsure: list[str] = field(default_factory=list)
    """Payloads of creations without an answer: they may be there or not."""
    cancelled: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Task → the status that the cancel was answered with, and when (CLOCK_BOOTTIME)."""
    paused: set[str] = field(default_factory=set)
    """Tasks whose worker was stopped in the middle: two executions of one may overlap (I6)."""
    gates: set[str] = field(default_factory=set)
    """Files that handlers wait for: a test that failed opens them at its end."""


@dataclass
class Effect:
    task: str
    fence: int
    attempt: int
    pid: int
    sha: str
    started: float
    wall: float
    ended: float | None = None


@dataclass
class Dump:
    tasks: dict[str, Any]
    payloads: dict[str, str]
    journal: list[tuple[int, Verb, list[Change]]]
    runs: dict[str, dict[int, Any]]
    counts: dict[tuple[str, str, int, int], int]
    """What clients see: counts plus what is not folded."""
    now: datetime


@dataclass
class Verdict:
    """What was found, for the test's own claims."""

    dump: Dump
    effects: dict[tuple[str, int], Effect]
    problems: list[str]
    default_retries: int

    def runs(self, task: str) -> list[str]:
        """The outcomes of the runs of a task that did not complete it, in order."""
        return [run.outcome for _, run in sorted(self.dump.runs.get(task, {}).items())]

    @cached_property
    def _by_task(self) -> dict[str, list[Effect]]:
        found: dict[str, list[Effect]] = defaultdict(list)
        for (task, _), e in sorted(self.effects.items(), key=lambda item: item[0][1]):
            found[task].append(e)
        return found

    def executions(self, task: str) -> list[Effect]:
        """The executions of a task, by fence."""
        return self._by_task.get(task, [])

    def verbs(self) -> Counter[Verb]:
        """How many task changes each verb made."""
        return _count_verbs(self.dump.journal)


def _count_verbs(journal: Sequence[tuple[int, Verb, list[Change]]]) -> Counter[Verb]:
    found: Counter[Verb] = Counter()
    for _, verb, changes in journal:
        found[verb] += len(changes)
    return found


async def check(
    url: str,
    effects: Path,
    histories: Sequence[History],
    *,
    user: str | None = None,
    default_retries: int = 3,
) -> Verdict:
    """Read everything (of one user) and judge it: AssertionError names the first broken invariants."""
    history = History()
    for part in histories:
        history.created |= part.created
        history.unsure += part.unsure
        history.cancelled |= part.cancelled
        history.paused |= part.paused
    seen = read_effects(effects)
    database = await open_database(SqlOptions(url=url))
    try:
        dump = await database.snapshot(lambda connection: _read(connection, user))
    finally:
        await database.close()
    if user is not None:  # whose a phantom would be is not known: the check of all users finds it
        seen = {key: e for key, e in seen.items() if key[0] in dump.tasks}
    verdict = Verdict(dump, seen, [], default_retries)
    _acknowledged(verdict, history)
    claims = _journal(verdict)
    _attempts(verdict)
    _effects(verdict, claims, history.paused)
    _cancels(verdict, history)
    _counts(verdict)
    problems = verdict.problems
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems[:25])
    return verdict


def read_effects(path: Path) -> dict[tuple[str, int], Effect]:
    """(task, fence) → its execution. A second start of one is an assertion: the fence was used twice."""
    found: dict[tuple[str, int], Effect] = {}
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        e = json.loads(line)
        key = e["task"], e["fence"]
        if e["phase"] == "start":
            assert key not in found, f"I3: {key} was started twice"
            found[key] = Effect(e["task"], e["fence"], e["attempt"], e["pid"], e["sha"], e["t"], e["at"])
        else:
            assert found[key].ended is None, f"I3: {key} ended twice"
            found[key].ended = e["t"]
    return found


def _read(connection: Connection, only: str | None) -> Dump:
    rows = {id_text(r.id): r for r in connection.execute(sa.select(schema.tasks))}
    tasks = {task: r for task, r in rows.items() if only in (None, id_text(r.user_id))}
    payloads = {id_text(r.id): r.payload for r in connection.execute(sa.select(schema.task_payloads))}
    journal: list[tuple[int, Verb, list[Change]]] = []
    counts: Counter[tuple[str, str, int, int]] = Counter()
    for r in connection.execute(sa.select(schema.counts)):
        if only in (None, id_text(r.user_id)):
            counts[id_text(r.user_id), r.queue, r.priority, r.status] += r.n
    for r in connection.execute(sa.select(schema.journal).order_by(schema.journal.c.seq)):
        changes = [c for c in decode(r.changes) if only in (None, id_text(c.user))]
        journal.append((r.seq, Verb(r.verb), changes))
        if not r.folded:
            for c in changes:
                user = id_text(c.user)
                if c.source is not None:
                    counts[user, c.queue, c.priority_before, c.source] -= 1
                if c.target is not None:
                    counts[user, c.queue, c.priority_after, c.target] += 1
    runs: dict[str, dict[int, Any]] = defaultdict(dict)
    for r in connection.execute(sa.select(schema.runs)):
        if id_text(r.task_id) in tasks:
            runs[id_text(r.task_id)][r.fence] = r
    now = datetime.now(UTC).replace(tzinfo=None)
    return Dump(tasks, payloads, journal, dict(runs), {k: n for k, n in counts.items() if n}, now)


def _acknowledged(v: Verdict, history: History) -> None:
    """I1, I8, I10, I17."""
    missing = history.created.keys() - v.dump.tasks.keys()
    v.problems += [f"I1: {task} was acknowledged and is gone" for task in sorted(missing)]
    unsure = Counter(history.unsure)
    for task in v.dump.tasks.keys() - history.created.keys():
        text = v.dump.payloads[task]
        if unsure[text] < 1:
            v.problems.append(f"I8: {task} was created by nobody: {text[:100]}")
        unsure[text] -= 1
    for task, text in history.created.items():
        if task in v.dump.payloads and v.dump.payloads[task] != text:
            v.problems.append(
                f"I10: the payload of {task} is {v.dump.payloads[task][:100]}, not {text[:100]}"
            )
    for task, row in v.dump.tasks.items():
        if row.status not in TERMINAL:
            v.problems.append(f"I17: {task} is still {Status(row.status).name}")


def _journal(v: Verdict) -> dict[str, list[int]]:
    """I2, I3, I5, I7: each task's changes are one chain through the table of states. Its claims' fences, by task."""
    state: dict[str, Status | None] = {}
    fence: Counter[str] = Counter()
    claims: dict[str, list[int]] = defaultdict(list)
    for seq, verb, changes in v.dump.journal:
        for c in changes:
            task, source = id_text(c.task), None if c.source is None else Status(c.source)
            where = f"{task} at journal {seq} ({verb} {source} to {c.target}, fence {c.fence})"
            if state.get(task) != source:
                v.problems.append(f"I5: {where}: it was {state.get(task)}")
            if verb is Verb.CLAIM:
                if c.fence != fence[task] + 1:
                    v.problems.append(f"I3: {where}: the fence before was {fence[task]}")
                fence[task] = c.fence
                claims[task].append(c.fence)
            elif c.fence != fence[task]:
                v.problems.append(f"I2: {where}: the fence in force is {fence[task]}")
            if c.target is None:
                state.pop(task, None)
                continue
            target = Status(c.target)
            if not (allowed(source, verb, target) or (source == target and source not in TERMINAL)):
                v.problems.append(f"{'I7' if source in TERMINAL else 'I5'}: {where}: no such transition")
            state[task] = target
    for task, row in v.dump.tasks.items():
        if state.get(task) != row.status or fence[task] != row.fence:
            v.problems.append(
                f"I2: {task} is {Status(row.status).name} with fence {row.fence}, "
                f"by the journal {state.get(task)!r} with {fence[task]}"
            )
    v.problems += [f"I1: {task} is in the journal and is gone" for task in state.keys() - v.dump.tasks.keys()]
    return claims


def _attempts(v: Verdict) -> None:
    """I9: attempts, crashes and rows in `runs` follow from the chain of claims, outcomes and redrives."""
    steps: dict[str, list[tuple[Verb, Change]]] = defaultdict(list)
    for _, verb, changes in v.dump.journal:
        for c in changes:
            if verb in (Verb.CLAIM, Verb.SETTLE, Verb.RESCUE, Verb.REDRIVE):
                steps[id_text(c.task)].append((verb, c))
    for task, row in v.dump.tasks.items():
        runs = v.dump.runs.get(task, {})
        attempts, crashes, recorded = _replayed(steps[task], runs)
        if recorded != set(runs):
            v.problems.append(f"I9: {task} has runs {sorted(runs)}, by the journal {sorted(recorded)}")
        if (attempts, crashes) != (row.attempts, row.crashes):
            v.problems.append(
                f"I9: {task} has {row.attempts} attempts and {row.crashes} crashes, by its runs {attempts} and {crashes}"
            )
        most = v.default_retries if row.max_retries is None else row.max_retries
        if attempts > most + 1:
            v.problems.append(f"I9: {task} had {attempts} attempts, with {most} retries")
        if crashes >= CRASH_LIMIT and row.status == Status.COMPLETED:
            v.problems.append(f"I9: {task} crashed {crashes} times and is not POISON")


def _replayed(steps: Iterable[tuple[Verb, Change]], runs: Mapping[int, Any]) -> tuple[int, int, set[int]]:
    """Attempts, crashes and the fences that have a row in `runs`."""
    attempts, crashes, suspect, recorded = 0, 0, False, set()
    for verb, c in steps:
        if verb is Verb.REDRIVE:
            attempts, crashes, suspect = 0, 0, False
        elif verb is Verb.CLAIM:
            attempts += 1
        elif c.target != Status.COMPLETED:
            recorded.add(c.fence)
            outcome = runs[c.fence].outcome if c.fence in runs else None
            attempts -= outcome in GIVEN_BACK
            if outcome in CRASHED:
                crashes, suspect = crashes + suspect, True
            elif outcome not in GIVEN_BACK:
                suspect = False
    return attempts, crashes, recorded


def _effects(v: Verdict, claims: Mapping[str, list[int]], paused: set[str]) -> None:
    """I6, I8, I10, I12, and that each completed task was executed to its end, under its last fence."""
    by_task: dict[str, list[Effect]] = defaultdict(list)
    for (task, fence), e in v.effects.items():
        by_task[task].append(e)
        if fence not in claims.get(task, ()):
            v.problems.append(f"I8: {task} was executed with fence {fence}, which no claim gave")
            continue
        row = v.dump.tasks.get(task)
        if hashlib.sha256(v.dump.payloads[task].encode()).hexdigest() != e.sha:
            v.problems.append(f"I10: a handler of {task} saw another payload")
        if row is not None and row.scheduled_at is not None:
            due = row.scheduled_at.replace(tzinfo=UTC).timestamp()
            if e.wall < due:
                v.problems.append(f"I12: {task} started {due - e.wall:.3f} s early")
    for task, row in v.dump.tasks.items():
        last = v.effects.get((task, row.fence))
        if row.status == Status.COMPLETED and (last is None or last.ended is None):
            v.problems.append(
                f"I2: {task} is COMPLETED by fence {row.fence}, whose execution has no end: {last}"
            )
    v.problems += _overlaps(e for task, e in by_task.items() if task not in paused)


def _overlaps(tasks: Iterable[list[Effect]]) -> list[str]:
    """An execution without an end was killed some time before the next: only ends that are known can be judged."""
    found = []
    for executions in tasks:
        ordered = sorted(executions, key=lambda e: e.started)
        for a, b in pairwise(ordered):
            if a.ended is not None and a.ended > b.started:
                found.append(f"I6: executions {a} and {b} overlap")
    return found


def _cancels(v: Verdict, history: History) -> None:
    """I13."""
    for task, (answer, at) in history.cancelled.items():
        row = v.dump.tasks[task]
        if row.status != Status.CANCELLED:
            v.problems.append(f"I13: {task} was cancelled ({answer}) and is {Status(row.status).name}")
        late = [e for e in v.executions(task) if e.started > at]
        if answer == Status.CANCELLED.name and late:
            v.problems.append(f"I13: {task} was started after its cancel was answered")


def _counts(v: Verdict) -> None:
    """I24."""
    recount = Counter(
        (id_text(row.user_id), row.queue, row.priority, row.status) for row in v.dump.tasks.values()
    )
    if dict(recount) != v.dump.counts:
        v.problems.append(f"I24: counts are {v.dump.counts}, a recount gives {dict(recount)}")
