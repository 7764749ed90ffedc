"""`taskmill probe`: asks the service in this container whether it is live or ready.

Every container asks itself every few seconds. So this imports neither options nor settings, which cost several times
the question, and reads three variables of the environment itself: what the process was started with, without .env.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from taskmill.errors import StartError, TaskmillError

QUESTIONS: Final = ("live", "ready")
SECONDS: Final = 4.0
"""For each step; the HEALTHCHECK of the image waits for 5."""
ANY: Final[Mapping[str, str]] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nosec B104
"""Listening at every address, it is reached at this one."""


class NotReady(TaskmillError):
    """The service answers, and says that it is not what was asked."""


def is_question(arguments: list[str]) -> bool:
    """Whether these are the arguments of a plain `taskmill probe`, to be answered without looking at options."""
    return arguments[:1] == ["probe"] and (
        len(arguments) == 1 or arguments[1:] in [[name] for name in QUESTIONS]
    )


def probe(question: str) -> int:
    """Prints what the service says."""
    print(ask(question, addresses(os.environ)))
    return 0


def addresses(environment: Mapping[str, str]) -> list[tuple[str, int]]:
    """Where a worker or scheduler would answer, and where an api would."""
    metrics, port = environment.get("TASKMILL_METRICS_PORT") or "0", environment.get("PORT") or "3000"
    hosts = [environment.get(name) or "127.0.0.1" for name in ("TASKMILL_METRICS_HOST", "TASKMILL_HOST")]
    found = [(ANY.get(host, host), number) for host, number in zip(hosts, (metrics, port), strict=True)]
    return [(host, int(number)) for host, number in found if number.isdecimal() and int(number)]


def ask(question: str, places: list[tuple[str, int]]) -> str:
    """What the first of the places that listens says, when it says yes."""
    for place in places:
        try:
            with socket.create_connection(place, SECONDS) as connection:
                return _answer(question, connection)
        except ConnectionRefusedError:
            continue
        except OSError as error:
            raise StartError(f"{_shown(place)} does not answer: {error}") from None
    raise StartError(f"nothing listens at {' or '.join(map(_shown, places)) or 'any port'}")


def _answer(question: str, connection: socket.socket) -> str:
    request = f"GET /{question} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    connection.sendall(request.encode())
    with connection.makefile("rb") as file:
        response = file.read(65536).decode("utf-8", "replace")
    head, _, body = response.partition("\r\n\r\n")
    status = head.split(maxsplit=2)[1:2]
    said = " ".join(body.split())[:300]
    if status != ["200"]:
        raise NotReady(said or f"not {question}: {head.partition(chr(13))[0] or 'no answer'}")
    return said


def _shown(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"
