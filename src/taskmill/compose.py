"""READ FIRST. Settings → the parts of a process, and the order in which they start and stop.

    up         record + index + API + scheduler + worker, one process, one command
    api        record + index + API
    worker     record + index + worker (its handlers run in runner children)
    remote     worker alone: the API of a Taskmill elsewhere, over HTTP, is all that it needs
    scheduler  record + index + scheduler

Start: lock the record, bind the ports, then start anything. Stop: in reverse, each part when the one after it has
ended; so a worker drains while everything that it needs still runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from random import Random
from typing import TYPE_CHECKING

import structlog

from taskmill import __version__
from taskmill.errors import IndexUnavailable, RequestError, StartError, Unavailable
from taskmill.index.connect import IndexOptions
from taskmill.index.embedded import EmbeddedValkey, find_binary
from taskmill.index.index import Index
from taskmill.index.keeper import EmbeddedIndex
from taskmill.index.policy import Evicting
from taskmill.index.wake import Bell, LocalBell, RedisBell
from taskmill.model.backoff import OUTAGES, loop_delay
from taskmill.runtime.probes import Probes, ProbeServer
from taskmill.runtime.service import Service, run_services
from taskmill.sql import migrate as schema
from taskmill.sql.engine import Database, open_database
from taskmill.tasks import declared
from taskmill.tasks.mill import Mill
from taskmill.tasks.submit import Submitter
from taskmill.upkeep.leader import vacate
from taskmill.upkeep.rescue import expire_leases

if TYPE_CHECKING:
    from taskmill.api.server import ApiServer
    from taskmill.api.users import Accounts
    from taskmill.model.cron import CronSpec
    from taskmill.settings import Settings
    from taskmill.worker.supervisor import Supervisor

log = structlog.get_logger(__name__)


async def up(settings: Settings) -> int:
    """Everything in one process, until a signal. The number of that signal."""
    async with AsyncExitStack() as stack:
        db = await open_record(settings, stack, migrate=True)
        listener = _bind(settings, stack)
        parts = Parts(settings, stack, db)
        valkey = await parts.open()
        server = await parts.api(listener)
        worker = await parts.worker()
        if settings.embedded:
            # We hold the file's lock: after a kill -9 there is nobody to wait for.
            await vacate(db)
            await expire_leases(parts.mill)
        services = [*([valkey] if valkey else []), *parts.api_services(server), parts.scheduler(), worker]
        greeting = asyncio.create_task(_greet(settings, parts, server, worker, valkey))
        stack.callback(greeting.cancel)
        declaring = asyncio.create_task(_declare(settings, parts, worker))
        stack.callback(declaring.cancel)
        return await run_services(services, grace=worker.longest_stop)


async def api(settings: Settings) -> int:
    """The API alone, until a signal."""
    async with AsyncExitStack() as stack:
        db = await open_record(settings, stack, migrate=False)
        listener = _bind(settings, stack)
        parts = Parts(settings, stack, db)
        valkey = await parts.open()
        server = await parts.api(listener)
        log.info(
            "api",
            url=f"http://{settings.api_host}:{server.port}/graphql",
            database=db.kind,
            index=parts.where,
        )
        return await run_services([*([valkey] if valkey else []), *parts.api_services(server)])


async def worker(settings: Settings) -> int:
    """A worker alone, until a signal."""
    async with AsyncExitStack() as stack:
        db = await open_record(settings, stack, migrate=False)
        parts = Parts(settings, stack, db)
        valkey = await parts.open()
        supervisor = await parts.worker()
        probes = await parts.probe_server(lambda: _loading(supervisor))
        log.info(
            "worker", queues=settings.queues, slots=settings.concurrency, database=db.kind, index=parts.where
        )
        services: list[Service] = [*([valkey] if valkey else []), *probes, supervisor]
        return await run_services(services, grace=supervisor.longest_stop)


async def remote_worker(settings: Settings) -> int:
    """A worker without record and index, until a signal: its tasks come from an API elsewhere."""
    from taskmill.worker.remote import RemoteSource
    from taskmill.worker.supervisor import Supervisor

    remote, options = settings.remote_options(), settings.worker_options()
    probes, rng = _probes(), Random()
    os.environ.update(settings.handler_options().environment())  # runners inherit it
    async with AsyncExitStack() as stack:
        source = RemoteSource(remote, rng=rng)
        stack.push_async_callback(source.disconnect)
        options = replace(options, lease=await source.connect())
        supervisor = Supervisor(source, options, rng=rng, probes=probes)
        servers = await _probe_server(settings, probes, lambda: _loading(supervisor))
        log.info("worker", queues=settings.queues, slots=settings.concurrency, api=remote.url)
        return await run_services([*servers, supervisor], grace=supervisor.longest_stop)


async def scheduler(settings: Settings) -> int:
    """A scheduler alone, until a signal."""
    async with AsyncExitStack() as stack:
        db = await open_record(settings, stack, migrate=False)
        parts = Parts(settings, stack, db)
        valkey = await parts.open()
        probes = await parts.probe_server(lambda: None)
        log.info("scheduler", database=db.kind, index=parts.where)
        return await run_services([*([valkey] if valkey else []), *probes, parts.scheduler()])


async def migrate(settings: Settings) -> bool:
    """Bring the schema up to date; whether there was something to do."""
    async with AsyncExitStack() as stack:
        if settings.embedded:
            settings.data_folder()
        db = await open_database(settings.sql_options())
        stack.push_async_callback(db.close)
        return await schema.migrate(db)


@asynccontextmanager
async def users(settings: Settings) -> AsyncIterator[Accounts]:
    """The accounts, for the command line. Migrates an embedded record, as `up` does."""
    from taskmill.api.users import Accounts

    async with AsyncExitStack() as stack:
        db = await open_record(settings, stack, migrate=settings.embedded)
        accounts = Accounts(db, rounds=settings.bcrypt_rounds)
        stack.callback(accounts.close)
        yield accounts


class Parts:
    """What the processes are made of, built once each, closed in reverse by the stack."""

    def __init__(self, settings: Settings, stack: AsyncExitStack, db: Database) -> None:
        self.settings = settings
        self.probes = _probes()
        db.show(self.probes)
        self.rng = Random()
        self._stack = stack
        self._db = db
        self._feed: Service | None = None
        self._desk: Service | None = None
        self._index_options: IndexOptions | None = None
        self.where = "none: tasks are dispatched from SQL alone"

    async def open(self) -> EmbeddedIndex | None:
        """The index, the mill, the submitter. The embedded Valkey as a service, when there is one."""
        valkey = None
        url = self.settings.redis_url
        if url is None and self.settings.embedded_index:
            valkey = await self._start_valkey()
            url = valkey.url if valkey else None
        index: Index | None = None
        bell: Bell = LocalBell()
        if url is not None:
            options = self._index_options = self.settings.index_options(url)
            index = Index(options)  # it closes its own client
            self._stack.push_async_callback(index.aclose)
            self.probes.index_up.set_function(lambda index=index: index.up)  # type: ignore[misc]
            await _inspect(index)
            bell = RedisBell(options)
            self.where = "embedded Valkey" if valkey else _without_password(url)
        self._stack.push_async_callback(bell.aclose)
        self.mill = Mill(self._db, index, bell, self.settings.task_options(), self.probes, self.rng)
        self._stack.push_async_callback(self.mill.flush)
        self.submitter = Submitter(self.mill)
        self._stack.push_async_callback(self.submitter.drain)
        return valkey

    async def _start_valkey(self) -> EmbeddedIndex | None:
        binary = await asyncio.to_thread(find_binary)
        if binary is None:
            log.info("no Valkey or Redis program here: tasks are dispatched from SQL alone")
            return None
        valkey = EmbeddedIndex(EmbeddedValkey(binary), self.settings.data_folder(), self.rng)
        await valkey.start()
        self._stack.push_async_callback(valkey.close)
        return valkey

    async def api(self, listener: object) -> ApiServer:
        from taskmill.api.app import create_app
        from taskmill.api.feed import Feed
        from taskmill.api.limits import Limiter
        from taskmill.api.server import ApiServer
        from taskmill.api.users import Accounts
        from taskmill.api.work import Desk

        auth = self.settings.auth_options()
        options = self.settings.api_options()
        accounts = Accounts(self._db, rounds=auth.bcrypt_rounds, first_admin=auth.first_admin)
        self._stack.callback(accounts.close)
        feed = Feed(self._db, self.mill.bell, self.probes, buffer=options.feed_buffer)
        self._feed = feed
        limiter = Limiter(options.limits, self._index_options, probes=self.probes, rng=self.rng)
        self._stack.push_async_callback(limiter.close)
        self._desk = desk = Desk(self.mill)
        app = create_app(self.mill, self.submitter, feed, accounts, options, auth, limiter, desk)
        return ApiServer(app, listener, head_timeout=options.head_timeout)  # type: ignore[arg-type]

    def api_services(self, server: ApiServer) -> list[Service]:
        if self._feed is None or self._desk is None:
            raise AssertionError("api first")
        # In this order: stopping ends subscriptions and waiting claims first, else the server would wait for them.
        return [server, self._feed, self._desk]

    async def worker(self) -> Supervisor:
        from taskmill.tasks.source import LocalSource, SourceOptions
        from taskmill.worker.supervisor import Supervisor

        options = self.settings.worker_options()
        os.environ.update(self.settings.handler_options().environment())  # runners inherit it
        source = LocalSource(
            self.mill,
            self.submitter,
            SourceOptions(
                queues=options.queues, slots=options.concurrency, name=options.name, version=__version__
            ),
        )
        return Supervisor(source, options, rng=self.rng, probes=self.probes)

    def scheduler(self) -> Service:
        from taskmill.upkeep.scheduler import Scheduler

        return Scheduler(self.mill, self.settings.upkeep_options())

    async def probe_server(self, ready: Callable[[], str | None]) -> list[ProbeServer]:
        return await _probe_server(self.settings, self.probes, ready)


def _probes() -> Probes:
    probes = Probes()
    probes.taskmill_info.labels(__version__).set(1)
    return probes


async def _probe_server(
    settings: Settings, probes: Probes, ready: Callable[[], str | None]
) -> list[ProbeServer]:
    """The small server of /metrics, /live and /ready; none when its port is 0."""
    if settings.metrics_port == 0:
        return []
    server = ProbeServer(probes, settings.metrics_host, settings.metrics_port, ready)
    await server.bind()
    return [server]


def _loading(worker: Supervisor) -> str | None:
    return None if worker.ready.is_set() else "the app is being loaded"


async def open_record(settings: Settings, stack: AsyncExitStack, *, migrate: bool) -> Database:
    """Open (for SQLite: lock) the record, and see that its schema is ours."""
    if settings.embedded:
        settings.data_folder()
    db = await open_database(settings.sql_options())
    stack.push_async_callback(db.close)
    if migrate:
        await schema.migrate(db)
    await schema.require(db)
    return db


async def _inspect(index: Index) -> None:
    """StartError when its server is not fit for production. One that is away is none: SQL dispatches until it is there,
    and it is looked at then."""
    try:
        await index.inspect()
    except Evicting as error:
        raise StartError(f"Redis: {error.message}") from None
    except IndexUnavailable as error:
        log.warning("no index for now: tasks are dispatched from SQL alone", reason=error.message)


def _bind(settings: Settings, stack: AsyncExitStack) -> object:
    from taskmill.api.server import bind

    listener = bind(settings.api_host, settings.port)
    stack.callback(listener.close)
    return listener


async def _greet(
    settings: Settings, parts: Parts, server: ApiServer, worker: Supervisor, valkey: EmbeddedIndex | None
) -> None:
    """What runs, where, and what to do next."""
    from taskmill.api.users import is_empty

    await server.started()
    await worker.ready.wait()
    url = f"http://localhost:{server.port}"
    types = ", ".join(worker.registry.types) or "none"
    log.info("taskmill is up", url=f"{url}/graphql", database=parts.mill.db.kind, index=parts.where)
    first = ""
    if not settings.production and await is_empty(parts.mill.db):
        log.info("the first user who registers becomes the ADMIN of this installation")
        first = " The first user becomes ADMIN."
    if not sys.stdout.isatty() and settings.log_format != "console":
        return
    sys.stdout.write(
        f"""
  Taskmill {__version__} is up ({settings.environment})

    GraphQL   {url}/graphql
    Health    {url}/health
    Metrics   {url}/metrics
    Record    {parts.mill.db.kind} {parts.mill.db.version} ({settings.data if settings.embedded else "server"})
    Index     {parts.where}
    Worker    {settings.concurrency} tasks at a time, queues: {", ".join(settings.queues)}
    Handlers  {settings.app_name} (types: {types})

  Next: open {url}/graphql, register, create a task.{first}
        Or: python3 examples/first_task.py {url}
  Ctrl-C stops; nothing accepted is lost.
"""
    )
    sys.stdout.flush()


async def _declare(settings: Settings, parts: Parts, worker: Supervisor) -> None:
    """Register the schedules that the app declares, once its runner has told them."""
    await worker.ready.wait()
    app, specs, failures = settings.app_name, worker.registry.crons, 0
    while True:
        try:
            done = await declared.sync(
                parts.mill.db, settings.service_user, app, specs, parts.mill.options.schedules
            )
        except Unavailable as error:
            failures += 1
            log.warning("the app's schedules are not registered yet", error=error.message)
            await asyncio.sleep(loop_delay(failures, parts.rng, OUTAGES))
        except RequestError as error:
            log.error("the app's schedules are not registered", app=app, error=error.message)  # noqa: TRY400 (told whole)
            return
        else:
            if done != declared.Synced():
                log.info("schedules", app=app, **{name: list(v) for name, v in asdict(done).items() if v})
            return


async def sync_schedules(settings: Settings, specs: Sequence[CronSpec]) -> declared.Synced:
    """Make the record's schedules of this app what `specs` say: `taskmill schedules sync`."""
    async with AsyncExitStack() as stack:
        db = await open_record(settings, stack, migrate=settings.embedded)
        return await declared.sync(db, settings.service_user, settings.app_name, specs, settings.schedules)


def _without_password(url: str) -> str:
    """Where the index is, for logs."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
