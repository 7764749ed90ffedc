"""`taskmill users …`: over the API, or straight on the database for who has no key yet."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from cyclopts import App

from taskmill.cli.options import API, ROLES, Api, Flag
from taskmill.errors import NotFound

if TYPE_CHECKING:
    from taskmill.cli.show import Column
    from taskmill.client import Client, User

WHERE: Final = (
    "`list` and `set-role` ask the API when --api-url or --api-key is given, or when TASKMILL_API_KEY is set and "
    "DATABASE_URL is not; else they work straight on the database, as `create` always does. `enable` and `disable` "
    "are of the API."
)
users = App(
    name="users",
    help=f"Users: the first ADMIN of a production installation is made here.\n\n{WHERE}",
)


@users.command
def create(
    email: str, /, *, name: str = "", role: str = "USER", password_stdin: Flag = False, json: Flag = False
) -> Coroutine[Any, Any, int]:
    """Makes a user, straight on the database. The password is asked for without showing it.

    Parameters
    ----------
    email
        E-mail address to log in with.
    name
        Name to show; what is before the @ when not given.
    role
        ADMIN, USER or WORKER.
    password_stdin
        Read the password from standard input, up to the first line break.
    json
        JSON, for programs.
    """
    from taskmill.cli import people
    from taskmill.cli.loading import tool_settings

    settings, kind = tool_settings(), people.parse_role(role)
    # Before there is an event loop: a Ctrl-C at the prompt then ends the command at once.
    password = people.ask(password_stdin)

    async def make() -> int:
        user = await people.create(settings, email, name, kind, password)
        return _tell(user, f"created {user.email} ({user.role})", json=json)

    return make()


@users.command(name="list")
async def list_(*, api: Api = API) -> int:
    """All users, oldest first. For an ADMIN."""
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    settings = _on_the_record(api)
    if settings is not None:
        from taskmill.cli import people

        await show.rows(people.everyone(settings), _columns(), json=api.json)
        return 0
    async with connected(api) as client:
        await show.rows(client.users(), _columns(), json=api.json)
    return 0


def _columns() -> list[Column[User]]:
    from taskmill.cli.show import Column

    return [
        Column("ID", lambda u: u.id),
        Column("ROLE", lambda u: u.role),
        Column("STATE", lambda u: "disabled" if u.disabled else "active"),
        Column("CREATED", lambda u: u.created_at),
        Column("EMAIL", lambda u: u.email),
        Column("NAME", lambda u: u.name, flexible=True),
    ]


@users.command
async def set_role(user: str, role: str, /, *, api: Api = API) -> int:
    """Gives a user another role; it ends the user's logins. For an ADMIN.

    Parameters
    ----------
    user
        E-mail address, or the id over the API.
    role
        ADMIN, USER or WORKER.
    """
    from taskmill.cli import reading
    from taskmill.cli.remote import connected

    settings = _on_the_record(api)
    if settings is not None:
        from taskmill.cli import people

        changed = await people.set_role(settings, user, role)
    else:
        kind = reading.one_of("role", role, ROLES)
        async with connected(api) as client:
            changed = await client.set_user_role(await _id_of(client, user), kind)
    return _tell(changed, f"{changed.email} is {changed.role}", json=api.json)


@users.command
async def disable(user: str, /, *, api: Api = API) -> int:
    """Keeps a user out: logins and API keys end. For an ADMIN.

    Parameters
    ----------
    user
        E-mail address or id.
    """
    return await _switch(api, user, on=False)


@users.command
async def enable(user: str, /, *, api: Api = API) -> int:
    """Lets a user in again, to log in anew. For an ADMIN.

    Parameters
    ----------
    user
        E-mail address or id.
    """
    return await _switch(api, user, on=True)


async def _switch(api: Api, user: str, *, on: bool) -> int:
    from taskmill.cli.remote import connected

    async with connected(api) as client:
        known = await _id_of(client, user)
        changed = await (client.enable_user(known) if on else client.disable_user(known))
    state = "disabled" if changed.disabled else "active"
    return _tell(changed, f"{changed.email} is {state}", json=api.json)


def _tell(user: User, text: str, *, json: bool) -> int:
    from taskmill.cli import show

    show.put(show.as_json(user, indent=2) if json else show.word(text))
    return 0


def _on_the_record(api: Api) -> Any:
    """The settings, when the database is to be asked; None: the API is (see WHERE)."""
    from taskmill.cli.loading import tool_settings

    if api.api_url is not None or api.api_key is not None:
        return None
    settings = tool_settings()
    return None if settings.api_key is not None and settings.database is None else settings


async def _id_of(client: Client, user: str) -> str:
    if "@" not in user:
        return user
    async for one in client.users():
        if one.email.casefold() == user.casefold():
            return one.id
    raise NotFound(f"there is no user {user[:100]!r}")
