"""A Taskmill over HTTP, from Python: typed and async.

async with Client("http://localhost:3000") as client:
    await client.login("john@example.com", "securepassword")
    task = await client.create_task("Process user video", type="VIDEO_PROCESSING", payload={"videoId": "abc123"})
    task = await client.wait(task.id, timeout=60)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

from taskmill.client.fleet import FleetCalls
from taskmill.client.http import Http
from taskmill.client.people import PeopleCalls
from taskmill.client.schedules import ScheduleCalls
from taskmill.client.tasks import TaskCalls
from taskmill.client.watch import WatchCalls
from taskmill.client.work import WorkCalls
from taskmill.errors import ConfigError

URL_VARIABLE, KEY_VARIABLE = "TASKMILL_API_URL", "TASKMILL_API_KEY"


class Client(TaskCalls, ScheduleCalls, PeopleCalls, FleetCalls, WatchCalls, WorkCalls):
    """Every query and mutation of an API. Use it from one event loop, and close it: `async with`, or `await close()`.

    Errors are those of taskmill.errors, by their code; the message is the API's. A call takes at most `timeout`
    seconds, tries again included: what was not sent is sent again, what is only a question is asked again, and
    RATE_LIMITED is tried again when it says, if that is within the time.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        patient: bool = True,
    ) -> None:
        """`url` and `api_key`: when not given, what TASKMILL_API_URL and TASKMILL_API_KEY say. `token`: of a login.

        `patient=False`: an API that cannot be reached at first is Unavailable at once; one that has answered is sought
        again as ever.
        """
        # A program of the user's own: it may have no settings of ours but these two.
        found = url or os.environ.get(URL_VARIABLE)
        if not found:
            raise ConfigError(f"where is the API? Give Client(url=...), or set {URL_VARIABLE}")
        if api_key and token:
            raise ConfigError("Client takes an api_key or a token, not both")
        self._http = Http(found, timeout)
        self._http.patient = patient
        self._http.token = token or api_key or os.environ.get(KEY_VARIABLE) or None

    @property
    def token(self) -> str | None:
        """What it shows to the API: an API key, or the token of the last login."""
        return self._http.token

    @property
    def endpoint(self) -> str:
        """Where it sends to: `…/graphql`."""
        return self._http.endpoint

    async def execute(
        self, document: str, variables: Mapping[str, Any] | None = None, *, repeat: bool = False
    ) -> dict[str, Any]:
        """The data of a GraphQL document of your own. `repeat`: it may be sent again when it got no answer."""
        return await self._http.run(document, variables or {}, repeat=repeat)

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
