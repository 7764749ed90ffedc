"""The index of ready tasks: typed calls of the scripts in lua/. It proposes, SQL decides.

Scores hold band and time in one double, exact until 2091: `band * 2^51 + µs since 2020`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError

from taskmill.errors import IndexUnavailable
from taskmill.index import scripts
from taskmill.index.breaker import Breaker
from taskmill.index.connect import LOST, Client, IndexOptions, connect, disconnect, words
from taskmill.index.policy import Policy, complaint
from taskmill.model.clock import boottime

BANDS = 4
EPOCH = 1_577_836_800_000_000  # 2020-01-01 in µs since the Unix epoch
_BAND = 2**51
# Entries or settlements of one call. Lua cannot unpack many thousands of values at once.
MOST = 1000
_LOOK = 30.0  # seconds between two looks at the policy of a server that runs


@dataclass(frozen=True, slots=True)
class Entry:
    """One ready task. `id`: 16 bytes. `fair`: whose share it takes (the user, 16 bytes). `band`: 0 first … 3 last.
    `at`: µs since the Unix epoch, UTC, by which it stands in its line."""

    id: bytes
    fair: bytes
    band: int
    at: int


@dataclass(frozen=True, slots=True)
class Reserved:
    """A proposal: the task is ours to claim until the reservation runs out. `token` proves whose it is."""

    id: bytes
    fair: bytes
    token: bytes


@dataclass(frozen=True, slots=True)
class Pushed:
    """`generation`: the one in force, None when the queue has none (then nothing was pushed). `added`: how many were
    not ready before."""

    generation: bytes | None
    added: int


@dataclass(frozen=True, slots=True)
class Next:
    """`generation` None or `filling`: the index is absent or incomplete, take from SQL too. `more`: ready work was
    left (a hint)."""

    generation: bytes | None
    filling: bool
    paused: bool
    reserved: list[Reserved] = field(default_factory=list)
    more: bool = False


class Index:
    """Calls to one index. Every one raises IndexUnavailable when the server cannot answer, at most `timeout` late,
    and at once while it is known to be gone; a probe in the background notices its return.

    A call is one script: it happens whole or not at all. A call whose reply was lost may have happened; all of them
    may be repeated.
    """

    def __init__(self, options: IndexOptions, client: Client | None = None) -> None:
        self._options = options
        self._client = connect(options) if client is None else client
        self._owned = client is None
        self._slots = asyncio.Semaphore(options.connections)
        self._breakers: dict[str, Breaker] = {}
        self._policy = Policy(refuse=options.refuse_evicting)
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    # -- what workers and producers call -------------------------------------------------------------------

    async def push(self, queue: str, entries: Sequence[Entry], generation: bytes | None = None) -> Pushed:
        """Makes the entries ready; an entry that is there gets the new score.

        Nothing happens while the queue has no generation, or another one than the given. Verify also simply pushes:
        that is as cheap as asking which ids are present, saves the second call, leaves no gap between, and `added`
        tells what was missing. At most 1,000 entries are one atomic script; more are pushed in several.
        """
        added, known = 0, generation
        for first in range(0, len(entries), MOST):
            arguments = self._pushed(queue, entries[first : first + MOST], generation)
            reply = await self._run(queue, "push", arguments, (entry.fair for entry in entries))
            known, count = reply if reply is not None else (None, 0)
            added += int(count)
            if known is None:
                break
        return Pushed(known, added)

    async def next(
        self,
        queue: str,
        *,
        n: int,
        worker: bytes = b"",
        wait: bool = False,
        confirm: Sequence[Reserved] = (),
        drop: Sequence[Reserved] = (),
        give_back: Sequence[Reserved] = (),
    ) -> Next:
        """One turn of a worker, one call: ends earlier reservations and reserves up to `n` tasks (its free slots).

        `confirm`: the row is PROCESSING, mine or another's. `drop`: it is not claimable. `give_back`: it goes back
        to ready with the score it had. Only reservations with their own token are touched, so a late call does no
        harm. With `wait` and nothing found the worker (its boot id) is rung at "worker:<hex>" when work comes.
        A worker that was woken and has no free slot calls with n = 0: that passes the wake on.
        A crash afterwards leaves reservations that run out by themselves.
        """
        token = secrets.token_bytes(16)
        arguments = self._turn(queue, token, n, worker, wait, (confirm, drop, give_back))
        return self._next(await self._run(queue, "next", arguments), token)

    async def next_many(
        self, wants: Mapping[str, int], *, worker: bytes = b"", wait: bool = False
    ) -> dict[str, Next]:
        """`next` on several queues in one round trip, for an idle worker: `wants` names how many from each, together
        no more than its free slots. With 0 the answer's `more` still tells whether there is work."""
        turns = {}
        for queue, n in wants.items():
            token = secrets.token_bytes(16)
            turns[queue] = token, self._turn(queue, token, n, worker, wait)
        script = scripts.load("next")
        for queue in turns:
            self._breaker(queue).check()
        replies: list[Any] = []
        try:
            async with asyncio.timeout(self._options.timeout), self._slots:
                pipeline = self._client.pipeline(transaction=False)
                for queue, (_, arguments) in turns.items():
                    pipeline.execute_command("EVALSHA", script.sha, 1, self._key(queue), *arguments)
                replies = await pipeline.execute(raise_on_error=False)
        except LOST as error:
            await self._lost(next(iter(turns)), error)
        answers = {}
        for (queue, (token, arguments)), first in zip(turns.items(), replies, strict=True):
            # NOSCRIPT and WRONGTYPE have their ways in _run.
            reply = await self._run(queue, "next", arguments) if isinstance(first, Exception) else first
            answers[queue] = self._next(reply, token)
        return answers

    async def take(self, queue: str, *, n: int, fair: bytes, place: int = 0) -> Next:
        """The pass over dead entries: reserves up to `n` tasks of one fair key, whatever their band, from `place` in
        its line on. Ask SQL, then `next(n=0, drop=…, give_back=…)`; go on at `place` + given back."""
        token = secrets.token_bytes(16)
        if not 0 <= n <= MOST:
            raise ValueError(f"take n={n}: between 0 and {MOST}")
        arguments = [self._now(), self._hold(), n, token, fair, place]
        return self._next(await self._run(queue, "take", arguments, [fair]), token)

    # -- what upkeep calls ---------------------------------------------------------------------------------

    async def reset(self, queue: str, generation: bytes) -> bytes:
        """The generation in force: the given one, marked as filling, if there was none."""
        for _ in range(2):  # None: it was damaged, and is gone now
            if (reply := await self._run(queue, "reset", [generation])) is not None:
                return bytes(reply)
        raise IndexUnavailable(f"the index of queue {queue!r} is damaged again and again")

    async def warm(self, queue: str, generation: bytes) -> bool:
        """Everything in SQL was pushed: ends the filling of that generation. False if another one is in force."""
        return bool(await self._run(queue, "warm", [generation]))

    async def fair_keys(self, queue: str, *, most: int = 1000) -> list[bytes]:
        """Fair keys that have ready tasks, at most `most` a band: where `take` looks for dead entries."""
        keys: dict[bytes, None] = {}
        for band in range(BANDS):
            name = self._key(queue).removesuffix("g") + f"a{band}"
            found = await self._command(queue, "ZRANGE", name, 0, most - 1)
            keys |= dict.fromkeys(found)
        return list(keys)

    async def run_id(self, queue: str = "") -> str:
        """The server's run id (in a cluster: of the node that holds the queue). A new one may have lost entries."""
        return str((await self._info(queue, "server"))["run_id"])

    # -- state ---------------------------------------------------------------------------------------------

    @property
    def clustered(self) -> bool:
        """Whether each queue may lie on a server of its own."""
        return isinstance(self._client, RedisCluster)

    @property
    def up(self) -> bool:
        """Whether every server of it answered when it was last asked: while one is away, SQL serves its queues alone."""
        return not any(breaker.open for breaker in self._breakers.values())

    async def inspect(self) -> None:
        """Looks at the server before anything depends on it. Evicting: it is refused. IndexUnavailable: it does not
        answer; SQL goes on alone, and a probe in the background looks for its return."""
        self._look_at = boottime() + _LOOK
        try:
            await self._probe("")
        except IndexUnavailable as error:
            if not self.clustered:
                self._breaker("").trip(error.message)
            raise

    async def health(self) -> dict[str, Any]:
        """A real script call, also while the breaker is open. IndexUnavailable (Evicting) when it fails, else `latency` (s),
        `server`, `version`, `maxmemory_policy` and `warnings`."""
        began = time.monotonic()
        memory, latency = await self._probe(""), time.monotonic() - began
        server = await self._info("", "server")
        return {
            "latency": round(latency, 6),
            "server": server.get("server_name", "redis"),
            "version": server.get("valkey_version") or server.get("redis_version"),
            "maxmemory_policy": memory.get("maxmemory_policy"),
            "warnings": [wrong] if (wrong := complaint(memory)) else [],
        }

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        for breaker in self._breakers.values():
            await breaker.aclose()
        if self._owned:
            await disconnect(self._client)

    # -- arguments and replies -----------------------------------------------------------------------------

    def _key(self, queue: str) -> str:
        if set(queue) & set("{}"):
            raise ValueError(f"queue name {queue!r}: no braces")
        return f"{{{self._options.prefix}/{queue}}}:g"

    def _now(self) -> int | str:
        return "" if self._options.clock is None else self._options.clock()

    def _hold(self) -> int:
        return int(self._options.hold * 1e6)

    def _ringing(self, queue: str) -> tuple[int, str, str]:
        return int(self._options.patience * 1e6), f"{self._options.prefix}/worker:", queue

    def _pushed(self, queue: str, entries: Sequence[Entry], generation: bytes | None) -> list[Any]:
        # Rows of fixed width: the driver and the server spend more on each argument than Lua on cutting them.
        rows: defaultdict[bytes, tuple[list[bytes], list[str], set[int]]] = defaultdict(
            lambda: ([], [], set())
        )
        for entry in entries:
            if len(entry.id) != 16 or not 0 <= entry.band < BANDS:
                raise ValueError(f"{entry!r}: an id has 16 bytes, a band is 0 to {BANDS - 1}")
            at = min(max(entry.at - EPOCH, 0), _BAND - 1)
            ids, scores, bands = rows[entry.fair]
            ids.append(entry.id)
            scores.append(f"{entry.band * _BAND + at:016d}")
            bands.add(entry.band)
        patience, channel, name = self._ringing(queue)
        arguments: list[Any] = [self._now(), generation or b"", patience, channel, name, len(rows)]
        for fair, (ids, scores, bands) in rows.items():
            arguments += (fair, "".join(map(str, bands)), b"".join(ids), "".join(scores))
        return arguments

    def _turn(
        self,
        queue: str,
        token: bytes,
        n: int,
        worker: bytes,
        wait: bool,
        ends: Sequence[Sequence[Reserved]] = ((), (), ()),
    ) -> list[Any]:
        if not 0 <= n <= MOST or any(len(group) > MOST for group in ends):
            raise ValueError(f"next: at most {MOST} of each in a call")
        if wait and not worker:
            raise ValueError("next: who waits needs a name")
        patience, channel, name = self._ringing(queue)
        arguments: list[Any] = [self._now(), self._hold(), n, token, worker.hex(), int(wait)]
        arguments += (patience, channel, name, *map(len, ends))
        row = b"".join(
            [part for group in ends for reserved in group for part in (reserved.id, reserved.token)]
        )
        if len(row) != 32 * sum(map(len, ends)):
            raise ValueError("next: an id and a token have 16 bytes each")
        arguments.append(row)
        return arguments

    def _next(self, reply: Any, token: bytes) -> Next:
        if reply is None or reply[0] is None:
            return Next(None, False, False)
        generation, fill, paused, more, *flat = reply
        reserved = [Reserved(one, fair, token) for one, fair in zip(flat[::2], flat[1::2], strict=True)]
        return Next(generation, bool(fill), bool(paused), reserved, bool(more))

    # -- the server ----------------------------------------------------------------------------------------

    def _breaker(self, queue: str) -> Breaker:
        # In a cluster one node may be down: the queues on the others go on. By node, not by queue: the first queue that
        # meets it waits for all, and users choose the names of queues.
        name = ""
        if isinstance(self._client, RedisCluster):
            nodes = self._client.nodes_manager.slots_cache.get(self._client.keyslot(self._key(queue)))
            name = str(nodes[0].name) if nodes else ""
        if name not in self._breakers:
            self._breakers[name] = Breaker(name or "index", lambda: self._probe(queue))
        return self._breakers[name]

    async def _run(self, queue: str, name: str, arguments: Sequence[Any], fairs: Iterable[bytes] = ()) -> Any:
        """The script's reply; None when a key had a wrong type: then the queue's index was wiped."""
        key = self._key(queue)
        self._breaker(queue).check()
        self._look(queue)
        try:
            async with asyncio.timeout(self._options.timeout), self._slots:
                try:
                    return await self._evaluate(name, key, arguments)
                except RedisError as error:
                    if "WRONGTYPE" not in str(error):
                        raise
                await self._evaluate("wipe", key, list(set(fairs)))
                return None
        except LOST as error:
            await self._lost(queue, error)

    async def _evaluate(self, name: str, key: str, arguments: Sequence[Any]) -> Any:
        script = scripts.load(name)
        try:
            return await self._client.execute_command("EVALSHA", script.sha, 1, key, *arguments)
        except NoScriptError:
            # EVAL loads it on that very node: a new server, a new cluster node, or SCRIPT FLUSH.
            return await self._client.execute_command("EVAL", script.source, 1, key, *arguments)

    async def _command(self, queue: str, *command: Any) -> Any:
        self._breaker(queue).check()
        try:
            async with asyncio.timeout(self._options.timeout), self._slots:
                return await self._client.execute_command(*command)
        except LOST as error:
            await self._lost(queue, error)

    async def _info(self, queue: str, section: str) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._options.timeout), self._slots:
                if not isinstance(self._client, RedisCluster):
                    return dict(await self._client.info(section))
                await self._client.initialize()
                slot = self._client.keyslot(self._key(queue))
                node = self._client.nodes_manager.get_node_from_slot(slot)
                return dict(await self._client.info(section, target_nodes=node))
        except LOST as error:
            raise IndexUnavailable(f"the index does not answer: {words(error)}") from error

    async def _probe(self, queue: str) -> dict[str, Any]:
        """A script must run, and the server must be fit. Its INFO about memory."""
        try:
            async with asyncio.timeout(self._options.timeout):
                await self._evaluate("probe", self._key(queue).removesuffix("g") + "probe", ())
        except LOST as error:
            raise IndexUnavailable(f"the index does not answer: {words(error)}") from error
        memory = await self._info(queue, "memory")
        self._policy.judge(memory)
        return memory

    def _look(self, queue: str) -> None:
        if boottime() >= self._look_at and self._looking is None:
            self._look_at = boottime() + _LOOK
            self._looking = asyncio.create_task(self._look_again(queue), name="index:look")

    async def _look_again(self, queue: str) -> None:
        try:
            await self._probe(queue)
        except IndexUnavailable as error:
            self._breaker(queue).trip(error.message)
        finally:
            self._looking = None

    async def _lost(self, queue: str, error: BaseException) -> Any:
        """Raises IndexUnavailable. The breaker opens unless the server is merely full: `next` still drains it then."""
        text = words(error)
        if not isinstance(error, OutOfMemoryError) and "OOM" not in text:
            self._breaker(queue).trip(text)
        if isinstance(error, ReadOnlyError) and not isinstance(self._client, RedisCluster):
            # A failover behind the same address: the idle connections still lead to the old primary.
            await self._client.connection_pool.disconnect(inuse_connections=False)
        raise IndexUnavailable(f"the index did not take part: {text}") from error
