"""What the parts of the client share: sending a document and reading what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from taskmill.client.http import Http
from taskmill.errors import BadUserInput, NotFound, TaskmillError
from taskmill.model.jsontext import json_text
from taskmill.model.state import Priority

T = TypeVar("T")
PAGE: Final = 100
"""Things that are asked for at once."""


class Calls:
    """A part of the client, one for each noun."""

    _http: Http

    async def _query(self, document: str, kind: type[T], *, wait: float = 0.0, **variables: Any) -> T:
        """`wait`: seconds that the API is asked to wait, beside the time-out."""
        return only(await self._http.run(document, variables, repeat=True, wait=wait), kind)

    async def _find(self, document: str, kind: type[T], **variables: Any) -> T | None:
        """As `_query`, for what may be null."""
        [value] = (await self._http.run(document, variables, repeat=True)).values()
        return None if value is None else read(value, kind)

    async def _mutate(
        self, document: str, kind: type[T], *, repeat: bool = False, wait: float = 0.0, **variables: Any
    ) -> T:
        """`repeat`: done twice is as good as done once. `wait`: as of `_query`."""
        return only(await self._http.run(document, variables, repeat=repeat, wait=wait), kind)

    async def _walk(
        self, page: Callable[[str | None], Awaitable[list[T]]], size: int, key: str = "id"
    ) -> AsyncIterator[T]:
        """All items, page after page; a page goes on behind the `key` of the last item."""
        after: str | None = None
        while items := await page(after):
            for item in items:
                yield item
            if len(items) < size:
                return
            after = getattr(items[-1], key)


def only(data: Mapping[str, Any], kind: type[T]) -> T:
    """Every document asks for one root field."""
    [value] = data.values()
    return read(value, kind)


def read(value: Any, kind: type[T]) -> T:
    """The value as its type; what a newer API adds is not looked at."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise TaskmillError(
            f"the API answered what this version of the client cannot read: {error}"
        ) from None


def there(found: T | None, what: str, id: str) -> T:
    """NotFound when it is not."""
    if found is None:
        raise NotFound(f"there is no {what} {id}")
    return found


def given(**values: Any) -> dict[str, Any]:
    """An input: what is UNSET is left out."""
    return {_camel(name): value for name, value in values.items() if value is not msgspec.UNSET}


def payload_json(payload: Any, name: str = "payload") -> Any:
    """A JSON value as it goes into an input. BadUserInput when it is not JSON, or too large; UNSET stays."""
    if payload is msgspec.UNSET:
        return payload
    try:
        return msgspec.Raw(json_text(payload).encode())
    except ValueError as error:
        raise BadUserInput(f"{name}: {error}") from None


def priority_name(priority: Priority | str | None) -> str | None:
    return priority.name if isinstance(priority, Priority) else priority


def time_text(name: str, at: datetime | None) -> str | None:
    """An aware datetime as the API takes it."""
    at = in_utc(name, at)
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def in_utc(name: str, at: datetime | None) -> datetime | None:
    """BadUserInput when it is not aware."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise BadUserInput(f"{name}: give a datetime with a time zone, for example datetime.now(UTC)")
    return at.astimezone(UTC)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
