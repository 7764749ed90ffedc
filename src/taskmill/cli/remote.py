"""How a command reaches the API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from taskmill.cli.loading import tool_settings
from taskmill.cli.options import Api
from taskmill.errors import StartError, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from taskmill.client import Client


def client_of(api: Api) -> Client:
    """As the options and the settings say. ConfigError."""
    from taskmill.client import Client

    settings = tool_settings(api_url=api.api_url, api_key=api.api_key)
    url = settings.api_url or f"http://localhost:{settings.port}"
    return Client(url, api_key=settings.api_key, patient=False)


@contextmanager
def told_apart() -> Iterator[None]:
    """An API that is away is what stands in the way; and who is not let in learns how to be."""
    try:
        yield
    except Unavailable as error:
        raise StartError(error.message) from None
    except Unauthenticated as error:
        raise Unauthenticated(
            f"{error.message.rstrip('.')} (give --api-key, or set TASKMILL_API_KEY)"
        ) from None


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[Client]:
    """A client for the length of the command. StartError when the API is away."""
    with told_apart():
        async with client_of(api) as client:
            yield client
