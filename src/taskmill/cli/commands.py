"""The commands and their options. What each runs is imported when it runs: `taskmill --help` needs none of it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from cyclopts import App

from taskmill import __version__
from taskmill.cli.fleet import queues, workers
from taskmill.cli.keys import keys
from taskmill.cli.loading import service_settings, tool_settings
from taskmill.cli.options import Flag, Terminal, Text
from taskmill.cli.schedules import schedules
from taskmill.cli.tasks import tasks
from taskmill.cli.users import users

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
for noun in (tasks, schedules, users, keys):
    app.command(noun)
app.command(queues)
app.command(workers)


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
    settings = service_settings(**flags, concurrency=concurrency, processes=processes, queues=queues)
    if reload:
        return _watch(settings, settings.app_name)
    from taskmill import compose

    return _until_stopped(compose.up(settings))


@app.command
def api(*, reload: Flag = False, host: Text = None, port: Text = None) -> int | Running:
    """The GraphQL API alone. Any number of them may run.

    Parameters
    ----------
    reload
        Restart when a source file changes; for development.
    host
        Address to listen at (TASKMILL_HOST).
    port
        Port to listen at (PORT).
    """
    settings = service_settings(host=host, port=port)
    if reload:
        return _watch(settings, "taskmill")
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
    settings = service_settings(**flags)
    if reload:
        return _watch(settings, settings.app_name)
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
    settings = service_settings(metrics_port=metrics_port)
    from taskmill import compose

    return _until_stopped(compose.scheduler(settings))


@app.command
async def migrate() -> int:
    """Brings the schema of the database up to date. Safe to run twice, and by two at once."""
    settings = tool_settings()
    from taskmill import compose

    changed = await compose.migrate(settings)
    print("the schema is up to date" if not changed else "the schema was brought up to date")
    return 0


@app.command
def probe(question: str = "live", /) -> int:
    """Asks the service in this container: status 0 when it is, 1 when it says that it is not, 3 when nothing answers.

    It asks at TASKMILL_METRICS_PORT (worker, scheduler), and at PORT (api, up) when nothing listens there.

    Parameters
    ----------
    question
        live: its event loop turns. ready: it can do its work.
    """
    from taskmill.cli import reading
    from taskmill.cli.probe import QUESTIONS
    from taskmill.cli.probe import probe as ask

    return ask(reading.one_of("question", question, (name.upper() for name in QUESTIONS)).lower())


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

    settings = tool_settings()
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


@app.command
def completion(shell: str, /) -> int:
    """Prints what makes a shell complete the words of `taskmill`: eval "$(taskmill completion bash)"

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    from taskmill.cli import reading

    name = reading.one_of("shell", shell, ("BASH", "ZSH", "FISH")).lower()
    print(app.generate_completion(shell=name))  # a name, no shell is started  # nosec B604
    return 0


# -- what they share -------------------------------------------------------------------------------------


def _watch(settings: Settings, app: str) -> int:
    """The parent of `--reload`: its child gets the same arguments without it. `app`: whose sources are watched, beside
    Taskmill's own."""
    from taskmill.cli.reload import Reloader, watched_folders
    from taskmill.errors import ConfigError

    if settings.production:
        raise ConfigError("--reload: expected in development only")
    arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
    command = [sys.executable, "-m", "taskmill", *arguments]
    return Reloader(command, watched_folders(app)).run()


async def _until_stopped(service: Awaitable[int | None]) -> int:
    """The exit status of a service: to be stopped is how it ends well, by whichever signal."""
    await service
    return 0
