"""The words of a task that somebody submits from Python, checked: title, type, queue, priority, times."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from taskmill.model.clock import to_utc
from taskmill.model.jsontext import json_text
from taskmill.model.port import Draft
from taskmill.model.state import Priority
from taskmill.model.task import MAX_RETRIES_LIMIT, QUEUE_NAME, TYPE_NAME

TYPE_PATTERN: Final = re.compile(TYPE_NAME)
QUEUE_PATTERN: Final = re.compile(QUEUE_NAME)
TITLE_LIMIT: Final = 255
DESCRIPTION_LIMIT: Final = 10_000


def draft(
    title: str,
    payload: str,
    type: str | None = None,
    queue: str = "default",
    priority: Priority | str = Priority.NORMAL,
    scheduled_at: datetime | None = None,
    max_retries: int | None = None,
    description: str | None = None,
) -> Draft:
    """The task. `payload` is JSON text, `scheduled_at` has a time zone. ValueError says what is wrong with a value."""
    if not isinstance(title, str) or not 1 <= len(title) <= TITLE_LIMIT:  # type: ignore[redundant-expr]  # callers may have no types
        raise ValueError(f"title: a text of 1 to {TITLE_LIMIT} characters")
    if type is not None and not (isinstance(type, str) and TYPE_PATTERN.fullmatch(type)):  # type: ignore[redundant-expr]  # callers may have no types
        raise ValueError(f"type {type!r}: {TYPE_PATTERN.pattern}")
    if description is not None and len(description) > DESCRIPTION_LIMIT:
        raise ValueError(f"description: at most {DESCRIPTION_LIMIT:,} characters")
    if scheduled_at is not None:
        if scheduled_at.tzinfo is None:
            raise ValueError("scheduled_at: give a datetime with a time zone, for example datetime.now(UTC)")
        scheduled_at = to_utc(scheduled_at)
    check_retries("max_retries", max_retries, ValueError)
    band = checked_priority(priority, ValueError)
    return Draft(
        title, payload, type, checked_queue(queue, ValueError), band, scheduled_at, max_retries, description
    )


def payload_text(payload: Any) -> str:
    """JSON text of a payload. ValueError when it is none, or too large."""
    try:
        return json_text(payload)
    except ValueError as error:
        raise ValueError(f"payload: {error}") from None


def checked_queue(queue: object, error: Callable[[str], Exception]) -> str:
    if not isinstance(queue, str) or not QUEUE_PATTERN.fullmatch(queue):
        raise error(f"queue {queue!r}: {QUEUE_PATTERN.pattern}")
    return queue


def checked_priority(priority: object, error: Callable[[str], Exception]) -> Priority:
    """By its name or its value."""
    if isinstance(priority, str):
        if priority not in Priority.__members__:
            raise error(f"priority {priority!r}: {', '.join(Priority.__members__)}")
        return Priority[priority]
    try:
        return Priority(priority)  # type: ignore[arg-type]  # any object: that is what is found out
    except ValueError:
        raise error(f"priority {priority!r}: {', '.join(Priority.__members__)}") from None


def check_retries(name: str, value: object, error: Callable[[str], Exception]) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and 0 <= value <= MAX_RETRIES_LIMIT):  # type: ignore[operator]
        raise error(f"{name}={value!r}: a whole number between 0 and {MAX_RETRIES_LIMIT}")
