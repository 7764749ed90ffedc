"""What `@app.cron` declares, checked: the expression and zone at once, the payload as soon as the types are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar

import msgspec

from taskmill.app.draft import DESCRIPTION_LIMIT, TITLE_LIMIT, check_retries, checked_priority, checked_queue
from taskmill.app.handler import Handler
from taskmill.errors import ConfigError, InvalidPayload
from taskmill.model.state import Priority

if TYPE_CHECKING:  # a program without schedules loads no calendar
    from taskmill.model.cron import CronSpec

E = TypeVar("E", bound=IntEnum)

NAME_LIMIT: Final = 100


class CronWords(TypedDict, total=False):
    """What else may be said of the tasks of a schedule. Not given: as the handler says."""

    title: str
    description: str
    queue: str
    priority: Priority | str
    max_retries: int


@dataclass(frozen=True, slots=True)
class CronOptions:
    """As they were written at `@app.cron`."""

    cron: str
    timezone: str = "UTC"
    name: str | None = None
    payload: Mapping[str, Any] | None = None
    title: str | None = None
    description: str | None = None
    queue: str | None = None
    priority: Priority | str | None = None
    misfire: str = "ONCE"
    overlap: str = "ALLOW"
    max_retries: int | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """A schedule whose payload may wait for the types of its handler."""

    handler: Handler[..., Any, Any]
    spec: CronSpec
    payload: Mapping[str, Any]

    def checked(self) -> CronSpec:
        """ConfigError: the handler does not take the payload."""
        params = self.handler.params
        given = (self.payload,) if params.whole is not None else ()
        try:
            text = params.dump(given, {} if given else self.payload)
        except InvalidPayload as error:
            raise ConfigError(f"cron {self.spec.name!r}: {error.message}") from None
        canonical = msgspec.json.encode(msgspec.json.decode(text), order="deterministic")
        return replace(self.spec, payload=canonical.decode())


def declared(handler: Handler[..., Any, Any], given: CronOptions) -> Declared:
    """ConfigError says what is wrong, where it is written."""
    from taskmill.model.cron import CronSpec, Misfire, Overlap, parse

    base = handler.given
    name = given.name or handler.type or "default"
    what = f"cron {name!r}"

    def wrong(message: str) -> ConfigError:
        return ConfigError(f"{what}: {message}")

    if len(name) > NAME_LIMIT:
        raise wrong(f"a name has at most {NAME_LIMIT} characters")
    for field, text, most in (
        ("title", given.title, TITLE_LIMIT),
        ("description", given.description, DESCRIPTION_LIMIT),
    ):
        if text is not None and not len(text) <= most:
            raise wrong(f"{field}: at most {most:,} characters")
    try:
        parse(given.cron, given.timezone)
    except ValueError as error:
        raise wrong(str(error)) from None
    check_retries("max_retries", given.max_retries, wrong)
    spec = CronSpec(
        name=name,
        cron=given.cron,
        timezone=given.timezone,
        type=handler.type,
        title=given.title or name,
        description=given.description,
        priority=checked_priority(base.priority if given.priority is None else given.priority, wrong),
        queue=checked_queue(base.queue if given.queue is None else given.queue, wrong),
        misfire=_member(Misfire, "misfire", given.misfire, wrong),
        overlap=_member(Overlap, "overlap", given.overlap, wrong),
        max_retries=given.max_retries,
    )
    return Declared(handler, spec, given.payload or {})


def _member(kind: type[E], field: str, value: object, wrong: Any) -> E:
    if isinstance(value, kind):
        return value
    if not isinstance(value, str) or value not in kind.__members__:
        raise wrong(f"{field}={value!r}: {', '.join(kind.__members__)}")
    return kind[value]
