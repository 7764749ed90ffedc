"""Every error of Taskmill, one tree.

    TaskmillError
    ├── ConfigError            CONFIG              a setting is wrong: the process does not start (exit 2)
    ├── StartError             START               a server, schema or port stands in the way (exit 3)
    ├── RequestError                               what a caller asked for cannot be done
    │   ├── BadRequest         BAD_REQUEST
    │   ├── BadUserInput       BAD_USER_INPUT
    │   ├── Unauthenticated    UNAUTHENTICATED
    │   ├── Forbidden          FORBIDDEN
    │   ├── NotFound           NOT_FOUND
    │   ├── Conflict           CONFLICT
    │   ├── PayloadTooLarge    PAYLOAD_TOO_LARGE
    │   ├── QueryTooComplex    QUERY_TOO_COMPLEX
    │   └── RequestTimeout     TIMEOUT
    ├── Unavailable            UNAVAILABLE         SQL cannot answer now: try again
    │   ├── CommitUnknown      UNAVAILABLE         the reply to COMMIT was lost: the write may or may not stand
    │   └── IndexUnavailable   UNAVAILABLE         Redis cannot answer now: SQL goes on alone
    └── RunError                                   how one run of a handler ended
        ├── Retry              RETRY               raised by a handler: again after `after` seconds
        ├── Fail               FAILED              raised by a handler: no retry
        ├── ResultInvalid      RESULT_INVALID      the return value is not JSON, or too large
        ├── UnknownType        UNKNOWN_TYPE        no live worker has a handler for the type
        ├── RunTimeout         TIMEOUT             the handler's time was up
        ├── Crashed            CRASHED             the process that ran it died
        └── Poison             POISON              it killed its process too often

`code` is stable: clients, metrics and logs name it. `message` says what was wrong, where, and what to do, and is
shown to the caller, so it never holds a secret, SQL or a path of the server.
"""

from __future__ import annotations

from typing import ClassVar


class TaskmillError(Exception):
    """The root. `code` is the stable name of the kind of error, `message` is for the reader."""

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(TaskmillError):
    code = "CONFIG"


class StartError(TaskmillError):
    code = "START"


class RequestError(TaskmillError):
    code = "BAD_REQUEST"


class BadRequest(RequestError):
    code = "BAD_REQUEST"


class BadUserInput(RequestError):
    code = "BAD_USER_INPUT"


class Unauthenticated(RequestError):
    code = "UNAUTHENTICATED"


class Forbidden(RequestError):
    code = "FORBIDDEN"


class NotFound(RequestError):
    code = "NOT_FOUND"


class Conflict(RequestError):
    code = "CONFLICT"


class PayloadTooLarge(RequestError):
    code = "PAYLOAD_TOO_LARGE"


class QueryTooComplex(RequestError):
    code = "QUERY_TOO_COMPLEX"


class RequestTimeout(RequestError):
    code = "TIMEOUT"


class Unavailable(TaskmillError):
    code = "UNAVAILABLE"


class CommitUnknown(Unavailable):
    """The connection broke after COMMIT was sent: only a read by operation id can tell whether it stands."""


class IndexUnavailable(Unavailable):
    """The index did not answer, or refused to write. Nothing is lost: SQL is the record."""


class RunError(TaskmillError):
    """How a run ended when it did not complete. Its code is stored in `runs.error_type`."""

    code = "FAILED"


class Retry(RunError):
    """Raise it in a handler to run again later. It spends an attempt like any failure.

    `after`: seconds until the next run, at least 0; None takes the usual backoff.
    """

    code = "RETRY"

    def __init__(self, message: str = "the handler asked for a retry", *, after: float | None = None) -> None:
        super().__init__(message)
        if after is not None and not 0 <= after <= 366 * 86400:
            raise ValueError(f"Retry(after={after!r}): give seconds between 0 and 366 days")
        self.after = after


class Fail(RunError):
    """Raise it in a handler to fail the task at once, whatever attempts are left."""

    code = "FAILED"


class ResultInvalid(RunError):
    code = "RESULT_INVALID"


class UnknownType(RunError):
    code = "UNKNOWN_TYPE"


class RunTimeout(RunError):
    code = "TIMEOUT"


class Crashed(RunError):
    code = "CRASHED"


class Poison(RunError):
    code = "POISON"
