"""How a command reaches the API."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from taskmill.cli.options import Api
from taskmill.errors import StartError, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from taskmill.client import Client
    from taskmill.settings import Settings


def client_of(api: Api) -> Client:
    """As the options and the settings say. ConfigError."""
    from taskmill.client import Client

    settings = load_settings(api)
    url = settings.api_url or f"http://localhost:{settings.port}"
    return Client(url, api_key=settings.api_key, patient=False)


def load_settings(api: Api) -> Settings:
    """For a command whose output is its result: logs go to standard error, from WARNING on."""
    from taskmill.runtime import logs
    from taskmill.settings import Settings

    settings = Settings.load(api_url=api.api_url, api_key=api.api_key)
    logs.configure(settings.log_format, "WARNING", stream=sys.stderr)
    return settings


@contextmanager
def told_apart() -> Iterator[None]:
    """An API that is away is what stands in the way; and who is not let in learns how to be."""
    try:
        yield
    except Unavailable as error:
        raise StartError(error.message) from None
    except Unauthenticated as error:
        raise Unauthenticated(f"{error.message} (give --api-key, or set TASKMILL_API_KEY)") from None


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[Client]:
    """A client for the length of the command. StartError when the API is away."""
    with told_apart():
        async with client_of(api) as client:
            yield client
