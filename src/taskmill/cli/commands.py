"""The commands and their options. What each runs is imported when it runs: `taskmill --help` needs none of it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from cyclopts import App

from taskmill import __version__
from taskmill.cli.options import Flag, Terminal, Text
from taskmill.cli.tasks import tasks

if TYPE_CHECKING:
    from taskmill.settings import Settings

Running = Coroutine[Any, Any, int]


app = App(
    name="taskmill",
    console=Terminal(),
    help="A self-hosted, durable, distributed task queue. Settings come from the environment and a .env file; an "
    "option wins over the setting of the same meaning.",
    version=__version__,
    help_format="plaintext",
)
users = App(name="users", help="Users: the first ADMIN of a production installation is made here.")
app.command(tasks)
app.command(users)
schedules = App(
    name="schedules", help="Schedules: those that an app declares are registered by a step of its deploy."
)
app.command(schedules)


@app.command
def up(
    *,
    app: Text = None,
    reload: Flag = False,
    host: Text = None,
    port: Text = None,
    concurrency: Text = None,
    processes: Text = None,
    queues: Text = None,
) -> int | Running:
    """All of Taskmill in one process: API, scheduler and worker; with nothing configured, embedded.

    Parameters
    ----------
    app
        module:attribute of the handlers (TASKMILL_APP).
    reload
        Restart when a source file changes; for development.
    host
        Address of the API (TASKMILL_HOST).
    port
        Port of the API (PORT).
    concurrency
        Tasks at a time (QUEUE_CONCURRENCY).
    processes
        Runner processes (TASKMILL_PROCESSES).
    queues
        Queues to take tasks from, separated by commas (TASKMILL_QUEUES).
    """
    flags = {"app": app, "host": host, "port": port}
    settings = _service(**flags, concurrency=concurrency, processes=processes, queues=queues)
    if reload:
        return _watch(settings)
    from taskmill import compose

    return _until_stopped(compose.up(settings))


@app.command
def api(*, host: Text = None, port: Text = None) -> Running:
    """The GraphQL API alone. Any number of them may run.

    Parameters
    ----------
    host
        Address to listen at (TASKMILL_HOST).
    port
        Port to listen at (PORT).
    """
    settings = _service(host=host, port=port)
    from taskmill import compose

    return _until_stopped(compose.api(settings))


@app.command
def worker(  # noqa: PLR0913 (its options)
    *,
    app: Text = None,
    reload: Flag = False,
    concurrency: Text = None,
    processes: Text = None,
    queues: Text = None,
    name: Text = None,
    metrics_port: Text = None,
    api_url: Text = None,
    api_key: Text = None,
) -> int | Running:
    """A worker: claims tasks and runs handlers. Any number of them may run.

    With --api-url (or with TASKMILL_API_URL and no DATABASE_URL) it needs neither database nor Redis: all that it asks
    for, it asks the API of a Taskmill elsewhere.

    Parameters
    ----------
    app
        module:attribute of the handlers (TASKMILL_APP).
    reload
        Restart when a source file changes; for development.
    concurrency
        Tasks at a time (QUEUE_CONCURRENCY).
    processes
        Runner processes (TASKMILL_PROCESSES).
    queues
        Queues to take tasks from, separated by commas (TASKMILL_QUEUES).
    name
        Its name, shown with its runs (TASKMILL_WORKER_NAME).
    metrics_port
        Port of /metrics, /live and /ready (TASKMILL_METRICS_PORT).
    api_url
        The API to get tasks from (TASKMILL_API_URL).
    api_key
        A key of it, of the role WORKER (TASKMILL_API_KEY). Others on this machine can read options: the variable is better.
    """
    flags = {"app": app, "concurrency": concurrency, "processes": processes, "queues": queues}
    flags |= {"worker_name": name, "metrics_port": metrics_port, "api_url": api_url, "api_key": api_key}
    settings = _service(**flags)
    if reload:
        return _watch(settings)
    from taskmill import compose

    remote = api_url is not None or settings.remote
    return _until_stopped(compose.remote_worker(settings) if remote else compose.worker(settings))


@app.command
def scheduler(*, metrics_port: Text = None) -> Running:
    """The scheduler: due tasks, rescue, upkeep. Any number of them may run; one at a time works.

    Parameters
    ----------
    metrics_port
        Port of /metrics, /live and /ready (TASKMILL_METRICS_PORT).
    """
    settings = _service(metrics_port=metrics_port)
    from taskmill import compose

    return _until_stopped(compose.scheduler(settings))


@app.command
async def migrate() -> int:
    """Brings the schema of the database up to date. Safe to run twice, and by two at once."""
    settings = _tool()
    from taskmill import compose

    changed = await compose.migrate(settings)
    print("the schema is up to date" if not changed else "the schema was brought up to date")
    return 0


@app.command(name="load-test")
async def load_test(
    *,
    tasks: Text = None,
    concurrency: Text = None,
    url: Text = None,
    type: Text = None,
    payload: Text = None,
    timeout: Text = None,
    allow_remote: Flag = False,
) -> int:
    """Creates tasks over HTTP as a new user, waits for them, and tells how fast that was. Fails when a task did.

    Parameters
    ----------
    tasks
        How many; 1000 when not given.
    concurrency
        Requests at a time; 10 when not given.
    url
        The API; http://localhost:PORT when not given.
    type
        Type of the tasks; none when not given: the default handler takes them.
    payload
        Payload of each task, as JSON.
    timeout
        Seconds to wait for the end after the last task is created; 300 when not given.
    allow_remote
        Needed for an API on another machine: it gets a new user and all these tasks.
    """
    from taskmill.cli.loadtest import Plan, run

    settings = _tool()
    plan = Plan.parse(
        tasks=tasks,
        concurrency=concurrency,
        url=url or f"http://localhost:{settings.port}",
        type=type,
        payload=payload,
        timeout=timeout,
        allow_remote=allow_remote,
    )
    return await run(plan)


@users.command
def create(
    email: str,
    /,
    *,
    name: str = "",
    role: str = "USER",
    password_stdin: Flag = False,
) -> Running:
    """Makes a user. The password is asked for without showing it.

    Parameters
    ----------
    email
        E-mail address to log in with.
    name
        Name to show; what is before the @ when not given.
    role
        ADMIN, USER or WORKER.
    password_stdin
        Read the password from standard input, up to the first line break.
    """
    from taskmill.cli import people

    settings, kind = _tool(), people.parse_role(role)
    return people.create(settings, email, name, kind, people.ask(password_stdin))


@users.command
async def set_role(email: str, role: str, /) -> int:
    """Gives a user another role. Tokens issued before hold the old one no longer.

    Parameters
    ----------
    email
        Who.
    role
        ADMIN, USER or WORKER.
    """
    from taskmill.cli import people

    return await people.set_role(_tool(), email, role)


@users.command(name="list")
async def list_() -> int:
    """All users, one a line."""
    from taskmill.cli import people

    return await people.show(_tool())


@schedules.command
async def sync(*, app: Text = None) -> int:
    """Makes the schedules of an app what its @app.cron say: creates, changes, and deletes what it no longer declares.

    A step of a deploy, once, when the new code is there; safe to run twice. What was paused stays paused.

    Parameters
    ----------
    app
        module:attribute of the handlers (TASKMILL_APP).
    """
    from taskmill.cli import schedules as commands

    return await commands.sync(_tool(app=app))


# -- what they share -------------------------------------------------------------------------------------


def _service(**flags: str | None) -> Settings:
    """Settings and logs of a command that runs until it is stopped."""
    from taskmill.runtime import logs
    from taskmill.settings import Settings

    settings = Settings.load(**flags)
    colors = False if settings.no_color else None
    logs.configure(settings.log_format, settings.log_level.upper(), colors=colors)
    for warning in settings.warnings():
        logs.get_logger(__name__).warning(warning)
    return settings


def _tool(**flags: str | None) -> Settings:
    """As `_service`, for a command whose output is its result: logs go to standard error, from WARNING on."""
    from taskmill.runtime import logs
    from taskmill.settings import Settings

    settings = Settings.load(**flags)
    logs.configure(settings.log_format, "WARNING", stream=sys.stderr)
    return settings


def _watch(settings: Settings) -> int:
    """The parent of `--reload`: its child gets the same arguments without it."""
    from taskmill.cli.reload import Reloader, watched_folders
    from taskmill.errors import ConfigError

    if settings.production:
        raise ConfigError("--reload: expected in development only")
    arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
    command = [sys.executable, "-m", "taskmill", *arguments]
    return Reloader(command, watched_folders(settings.app_name)).run()


async def _until_stopped(service: Awaitable[int | None]) -> int:
    """The exit status of a service: to be stopped is how it ends well, by whichever signal."""
    await service
    return 0
