"""`taskmill keys …`: what programs sign in with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cyclopts import App

from taskmill.cli.options import API, ROLES, Api, Text

if TYPE_CHECKING:
    from taskmill.cli.show import Column
    from taskmill.client import ApiKey

keys = App(name="keys", help="API keys: what programs sign in with.")


@keys.command(name="list")
async def list_(*, api: Api = API) -> int:
    """Your keys (everybody's for an ADMIN), newest first, with those that ended within 30 days."""
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    async with connected(api) as client:
        await show.rows(client.api_keys(), _columns(), json=api.json)
    return 0


def _columns() -> list[Column[ApiKey]]:
    from taskmill.cli.show import Column

    return [
        Column("ID", lambda k: k.id),
        Column("PREFIX", lambda k: k.prefix),
        Column("ROLE", lambda k: k.role),
        Column("STATE", _state),
        Column("USED", lambda k: k.last_used_at),
        Column("EXPIRES", lambda k: k.expires_at),
        Column("QUEUES", lambda k: k.queues or "all", flexible=True),
        Column("USER", lambda k: k.user.email if k.user else None, flexible=True),
        Column("NAME", lambda k: k.name, flexible=True),
    ]


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "active"


@keys.command
async def create(
    name: str, /, *, role: str = "USER", queues: Text = None, expires: Text = None, api: Api = API
) -> int:
    """Makes a key. It is printed this once: nobody can read it again.

    Parameters
    ----------
    name
        What it is for.
    role
        ADMIN, USER or WORKER; an ADMIN may give any, others only their own.
    queues
        The only ones that it may use, separated by commas; all when not given.
    expires
        2030-01-01T00:00:00Z, or 12h, 30d from now; when not given, it holds until it is revoked.
    """
    from taskmill.cli import reading, say, show
    from taskmill.cli.remote import connected

    kind = reading.one_of("--role", role, ROLES)
    end = reading.moment("--expires", expires)
    async with connected(api) as client:
        made = await client.create_api_key(name, kind, queues=reading.names(queues), expires_at=end)
    if api.json:
        show.put(show.as_json(made, indent=2))
        return 0
    show.put(made.key, flush=True)
    say(f"key {made.api_key.id} ({made.api_key.role}): keep it, it is not shown again")
    return 0


@keys.command
async def revoke(id: str, /, *, api: Api = API) -> int:
    """Ends a key within seconds.

    Parameters
    ----------
    id
        Of the key, or how the key begins (its prefix).
    """
    from taskmill.cli import show
    from taskmill.cli.remote import connected
    from taskmill.errors import NotFound

    async with connected(api) as client:
        if id.startswith("tm_"):
            found = [key.id async for key in client.api_keys() if id in (key.prefix, key.prefix.strip("_"))]
            if len(found) != 1:
                raise NotFound(f"there is no one key that begins with {id[:11]}")
        else:
            found = [id]
        key = await client.revoke_api_key(found[0])
    show.put(show.as_json(key) if api.json else f"{key.id}  {key.prefix}  revoked")
    return 0
