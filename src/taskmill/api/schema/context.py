"""What a resolver finds in `info.context`: who asks, the parts of the process, and the loaders.

Loaders gather the keys of one moment into one statement and keep nothing: on a WebSocket a context lives for hours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from sqlalchemy.engine import Connection
from strawberry import Info as _Info
from strawberry.dataloader import DataLoader

from taskmill.api.auth import Session, Tokens
from taskmill.api.feed import Feed
from taskmill.api.keys import KeyInfo
from taskmill.api.limits import Limiter
from taskmill.api.options import ApiOptions
from taskmill.api.users import Accounts, Role, User, load_users
from taskmill.api.work import Desk
from taskmill.errors import Forbidden, Unauthenticated
from taskmill.sql.engine import Database
from taskmill.tasks import read, schedules
from taskmill.tasks.mill import Mill
from taskmill.tasks.read import LogRow, RunRow, TaskView, Texts
from taskmill.tasks.schedules import FireRow
from taskmill.tasks.submit import Submitter

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

LOG_IN: Final = "Log in first: send the header 'Authorization: Bearer <token>'."
LOG_IN_SOCKET: Final = (
    'Log in first: send the token with connection_init, as {"Authorization": "Bearer <token>"}.'
)


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the process that requests use."""

    mill: Mill
    submitter: Submitter
    feed: Feed
    accounts: Accounts
    tokens: Tokens
    options: ApiOptions
    limiter: Limiter
    desk: Desk


class Closer(Protocol):
    """A connection that a resolver may end."""

    async def close(self, code: int, reason: str) -> None: ...


class Context:
    """One HTTP request, or one WebSocket with all its operations."""

    def __init__(
        self, services: Services, request_id: str, session: Session | None = None, *, peer: str = ""
    ) -> None:
        self.services = services
        self.request_id = request_id
        self.peer = peer
        """The address that limits know the caller by."""
        self.session = session
        self.socket: Closer | None = None
        self.connection_params: object = None
        self.handshake: list[str] = []
        """The Authorization headers of a WebSocket's request."""
        self.streams = False
        """Whether the answer may be more than one result."""
        self.gone: Callable[[], Awaitable[bool]] | None = None
        """Whether the caller of a request that waits has gone away; None: nobody can tell."""
        self.loaders = Loaders(services.mill.db)

    def viewer(self) -> User:
        """Who asks, with the role that counts (an API key's is its own); or Unauthenticated."""
        if self.session is None:
            raise Unauthenticated(LOG_IN if self.socket is None else LOG_IN_SOCKET)
        if self.session.expired:
            raise Unauthenticated("The token has expired. Log in again.")
        return self.session.user

    def admit(self, name: str, roles: Collection[Role | None]) -> None:
        """Unauthenticated or Forbidden unless who asks has one of the roles that the field `name` is for."""
        role = self.viewer().role
        if role not in roles:
            needed = " or ".join(role.name for role in Role if role in roles) or "no role at all"
            raise Forbidden(f"{name} is for {needed}: this login has the role {role.name}.")

    @property
    def key(self) -> KeyInfo | None:
        """The API key that who asks signed in with; None: it logged in, or did not."""
        return None if self.session is None else self.session.key

    @property
    def bound(self) -> bool:
        """Whether who asks may use some queues only."""
        return self.key is not None and self.key.queues is not None

    def check_queue(self, queue: str) -> None:
        """Forbidden when who asks signed in with an API key that is bound to other queues."""
        if self.key is not None and self.key.queues is not None and queue not in self.key.queues:
            raise Forbidden(f"queue: this API key is for {', '.join(self.key.queues)} only.")

    def check_login(self, name: str) -> None:
        """Forbidden when who asks signed in with an API key: what only a person does, with a password."""
        if self.key is not None:
            raise Forbidden(f"{name} needs a login: an API key is not enough.")

    async def viewer_now(self) -> User:
        """Who asks, looked up again: for what lives longer than a request."""
        self.viewer()
        assert self.session is not None
        self.session = await self.services.tokens.recheck(self.session)
        return self.session.user


class Loaders:
    """One for each thing that hangs on tasks, made when it is first asked for: most requests ask for none, and all of
    them cost a tenth of a small one."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @cached_property
    def users(self) -> DataLoader[bytes, User | None]:
        return _loader(self._db, load_users)

    @cached_property
    def texts(self) -> DataLoader[bytes, Texts | None]:
        return _loader(self._db, read.texts)

    @cached_property
    def payloads(self) -> DataLoader[bytes, str | None]:
        return _loader(self._db, read.payloads)

    @cached_property
    def tasks(self) -> DataLoader[bytes, TaskView | None]:
        return _loader(self._db, read.tasks)

    @cached_property
    def schedule_payloads(self) -> DataLoader[bytes, str | None]:
        return _loader(self._db, schedules.payloads)

    @cached_property
    def tracebacks(self) -> DataLoader[tuple[bytes, int], str | None]:
        return _loader(self._db, read.tracebacks)

    @cached_property
    def _logs(self) -> DataLoader[tuple[bytes, int, bytes | None], list[LogRow]]:
        return DataLoader(lambda keys: _in_groups(self._db, keys, read_logs), cache=False)

    @cached_property
    def _runs(self) -> DataLoader[tuple[bytes, int, bytes | None], list[RunRow]]:
        return DataLoader(lambda keys: _in_groups(self._db, keys, read_runs), cache=False)

    @cached_property
    def _fires(self) -> DataLoader[tuple[bytes, int, bytes | None], list[FireRow]]:
        return DataLoader(lambda keys: _in_groups(self._db, keys, read_fires), cache=False)

    def logs(self, task_id: bytes, limit: int, after: bytes | None) -> Awaitable[list[LogRow]]:
        return self._logs.load((task_id, limit, after))

    def runs(self, task_id: bytes, limit: int) -> Awaitable[list[RunRow]]:
        return self._runs.load((task_id, limit, None))

    def fires(self, schedule_id: bytes, limit: int) -> Awaitable[list[FireRow]]:
        return self._fires.load((schedule_id, limit, None))


Info: TypeAlias = _Info[Context, None]


def read_logs(
    connection: Connection, ids: Sequence[bytes], limit: int, after: bytes | None
) -> dict[bytes, list[LogRow]]:
    return read.logs(connection, ids, limit=limit, after=after)


def read_runs(
    connection: Connection, ids: Sequence[bytes], limit: int, _after: bytes | None
) -> dict[bytes, list[RunRow]]:
    return read.runs(connection, ids, limit=limit)


def read_fires(
    connection: Connection, ids: Sequence[bytes], limit: int, _after: bytes | None
) -> dict[bytes, list[FireRow]]:
    return schedules.history(connection, ids, limit=limit)


def _loader(db: Database, load: Callable[[Connection, list[K]], Mapping[K, V]]) -> DataLoader[K, V | None]:
    async def batch(keys: list[K]) -> list[V | None]:
        distinct = list(dict.fromkeys(keys))
        found = await db.read(lambda connection: load(connection, distinct))
        return [found.get(key) for key in keys]

    return DataLoader(batch, cache=False)


async def _in_groups(
    db: Database,
    keys: Sequence[tuple[bytes, int, bytes | None]],
    load: Callable[[Connection, Sequence[bytes], int, bytes | None], Mapping[bytes, list[Any]]],
) -> list[list[Any]]:
    """A statement for each pair of limit and position: one document names few of them, whatever the number of tasks."""
    groups: dict[tuple[int, bytes | None], dict[bytes, None]] = {}
    for task_id, limit, after in keys:
        groups.setdefault((limit, after), {})[task_id] = None

    def work(connection: Connection) -> dict[tuple[int, bytes | None], Mapping[bytes, list[Any]]]:
        return {group: load(connection, list(ids), *group) for group, ids in groups.items()}

    found = await db.read(work)
    return [found[limit, after].get(task_id, []) for task_id, limit, after in keys]
