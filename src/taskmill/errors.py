"""Every error of Taskmill, one tree.

    TaskmillError
    ├── ConfigError            CONFIG              a setting is wrong: the process does not start (exit 2)
    ├── StartError             START               a server, schema or port stands in the way (exit 3)
    ├── RequestError                               what a caller asked for cannot be done
    │   ├── BadRequest         BAD_REQUEST
    │   ├── BadUserInput       BAD_USER_INPUT
    │   │   └── InvalidPayload INVALID_PAYLOAD     a parameter of a typed handler: at the submit, and at the run (no retry)
    │   ├── Unauthenticated    UNAUTHENTICATED
    │   ├── Forbidden          FORBIDDEN
    │   ├── NotFound           NOT_FOUND
    │   ├── Conflict           CONFLICT
    │   ├── Stale              STALE
    │   ├── PayloadTooLarge    PAYLOAD_TOO_LARGE
    │   ├── QueryTooComplex    QUERY_TOO_COMPLEX
    │   ├── RateLimited        RATE_LIMITED        too many calls: again after `retry_after` seconds
    │   └── RequestTimeout     TIMEOUT
    ├── Unavailable            UNAVAILABLE         SQL cannot answer now: try again
    │   ├── CommitUnknown      UNAVAILABLE         the reply to COMMIT was lost: the write may or may not stand
    │   └── IndexUnavailable   UNAVAILABLE         Redis cannot answer now: SQL goes on alone
    ├── TaskEnded                                  what `wait` raises for a task that did not complete
    │   ├── TaskFailed         TASK_FAILED
    │   └── TaskCancelled      TASK_CANCELLED
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
    """A setting, option or app is wrong: the process does not start (exit status 2)."""

    code = "CONFIG"


class StartError(TaskmillError):
    """A server, schema, lock or port stands in the way: the process does not start (exit status 3)."""

    code = "START"


class RequestError(TaskmillError):
    """What a caller asked for cannot be done."""

    code = "BAD_REQUEST"


class BadRequest(RequestError):
    """The request is not one: body, content type, document."""

    code = "BAD_REQUEST"


class BadUserInput(RequestError):
    """A value is outside of what is allowed; the message says which and what is expected."""

    code = "BAD_USER_INPUT"


class InvalidPayload(BadUserInput):
    """A parameter is not what the handler's annotation says. A run that gets it fails at once, without a retry."""

    code = "INVALID_PAYLOAD"


class Unauthenticated(RequestError):
    """No token, or one that does not hold (any more)."""

    code = "UNAUTHENTICATED"


class Forbidden(RequestError):
    """Signed in, and not allowed to."""

    code = "FORBIDDEN"


class NotFound(RequestError):
    """There is no such thing, or it is somebody else's: the two are told alike."""

    code = "NOT_FOUND"


class Conflict(RequestError):
    """The state of the task does not allow it; the message names the state."""

    code = "CONFLICT"


class Stale(RequestError):
    """The run that a worker writes for is not its own any more: another one has the task, or it is finished."""

    code = "STALE"


class PayloadTooLarge(RequestError):
    """A body over 4 MiB, or a payload over 256 KiB."""

    code = "PAYLOAD_TOO_LARGE"


class QueryTooComplex(RequestError):
    """The document is too large in one way or another, or the operation costs too much; the message says both numbers."""

    code = "QUERY_TOO_COMPLEX"


class RateLimited(RequestError):
    """Too many calls, or too many failed logins. `retry_after`: whole seconds, from 1, until it is worth trying again;
    `limit`: the name of the limit, for metrics."""

    code = "RATE_LIMITED"

    def __init__(self, message: str, retry_after: int, limit: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.limit = limit


class RequestTimeout(RequestError):
    """The request took too long to arrive or to answer."""

    code = "TIMEOUT"


class Unavailable(TaskmillError):
    """SQL cannot answer now. Nothing was lost: try again."""

    code = "UNAVAILABLE"


class CommitUnknown(Unavailable):
    """The connection broke after COMMIT was sent: only a read by operation id can tell whether it stands."""


class IndexUnavailable(Unavailable):
    """The index did not answer, or refused to write. Nothing is lost: SQL is the record."""


class TaskEnded(TaskmillError):
    """A task that somebody waits for has ended, and there is no result. `id` is the task's."""

    code = "TASK_FAILED"

    def __init__(self, message: str, *, id: str) -> None:
        super().__init__(message)
        self.id = id


class TaskFailed(TaskEnded):
    """No attempt is left, or it was not to be repeated; the message says what its last run said."""

    code = "TASK_FAILED"


class TaskCancelled(TaskEnded):
    """Somebody cancelled it."""

    code = "TASK_CANCELLED"


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
    """The return value is not JSON, or is larger than 256 KiB."""

    code = "RESULT_INVALID"


class UnknownType(RunError):
    """No live worker has a handler for the type."""

    code = "UNKNOWN_TYPE"


class RunTimeout(RunError):
    """The handler's time was up."""

    code = "TIMEOUT"


class Crashed(RunError):
    """The process that ran it died; others may have been in it."""

    code = "CRASHED"


class Poison(RunError):
    """It ran alone and its process died too often, or in its last attempt."""

    code = "POISON"
