"""How the tasks of a program travel, by the settings: over HTTP to an API, or straight to SQL and Redis.

`handler.submit` comes here through model/port.py, by name: a program that submits nothing loads no settings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from taskmill.errors import ConfigError
from taskmill.model.ids import id_text
from taskmill.model.port import Draft, Port
from taskmill.runtime import logs
from taskmill.settings import Settings

if TYPE_CHECKING:
    from taskmill.tasks.mill import Mill
    from taskmill.tasks.submit import Submitter

T = TypeVar("T")


def connect() -> Port:
    """A port, not yet open. ConfigError says what has to be set. Any thread: it loads modules and settings."""
    logs.to_logging()
    settings = Settings.load()
    if settings.api_url is not None:
        if settings.api_key is None:
            raise ConfigError(
                "submit: TASKMILL_API_URL is set, but TASKMILL_API_KEY is not: `taskmill keys create` makes a key"
            )
        from taskmill.client.client import Client
        from taskmill.client.port import ClientPort

        return ClientPort(Client(settings.api_url, api_key=settings.api_key))
    if settings.database is None:
        raise ConfigError(
            "submit: set TASKMILL_API_URL and TASKMILL_API_KEY to submit over HTTP, "
            "or DATABASE_URL (and REDIS_URL) to submit straight to the database"
        )
    if settings.embedded:
        raise ConfigError(
            "submit: DATABASE_URL is a SQLite file, which only `taskmill up` may write: "
            "set TASKMILL_API_URL and TASKMILL_API_KEY"
        )
    return producer(settings)


def producer(settings: Settings) -> Port:
    """Straight to SQL and Redis, as the service user."""
    from taskmill.compose import Parts, open_record
    from taskmill.tasks.producer import Producer

    async def opener(stack: AsyncExitStack) -> tuple[Mill, Submitter]:
        db = await open_record(settings, stack, migrate=False)
        parts = Parts(settings, stack, db)
        await parts.open()
        return parts.mill, parts.submitter

    return Producer(opener, settings.service_user)


def submit_in(connection: object, draft: Draft, wrap: Callable[[str], T]) -> T | Awaitable[T]:
    """Writes the task in the transaction of `connection`; `wrap(id)`, or an awaitable of it for an async connection."""
    from taskmill.tasks.foreign import insert, within

    name = _service_name()
    return within(connection, lambda c: wrap(id_text(insert(c, [draft], name)[0])))


@lru_cache(maxsize=1)
def _service_name() -> str:
    """Read once: a request of the user's own may submit in each transaction."""
    return Settings.load().service_user
