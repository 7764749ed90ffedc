"""Users in GraphQL: what an ADMIN does with them."""

from __future__ import annotations

from typing import Annotated

import strawberry

from taskmill.api.identity import Role
from taskmill.api.schema.context import Info
from taskmill.api.schema.roles import allow
from taskmill.api.schema.task import checked_limit, position
from taskmill.api.schema.user import User
from taskmill.errors import NotFound
from taskmill.model.ids import parse_id


@strawberry.type
class PeopleQueries:
    @strawberry.field(description="All users, oldest first.", metadata=allow(Role.ADMIN))
    async def users(
        self,
        info: Info,
        limit: int = 20,
        after: Annotated[
            strawberry.ID | None, strawberry.argument(description="The last user of the page before.")
        ] = None,
    ) -> list[User]:
        most, start = checked_limit(limit), position(after)
        rows = await info.context.services.accounts.list(limit=most, after=start)
        return [User.of(row) for row in rows]


@strawberry.type
class PeopleMutations:
    @strawberry.mutation(
        description="Another role; it ends the user's logins. CONFLICT: the last ADMIN stays one.",
        metadata=allow(Role.ADMIN),
    )
    async def set_user_role(self, info: Info, id: strawberry.ID, role: Role) -> User:
        return User.of(await info.context.services.accounts.change_role(_user(id), role))

    @strawberry.mutation(
        description="Keeps a user out: its logins and API keys end. CONFLICT: not the last ADMIN.",
        metadata=allow(Role.ADMIN),
    )
    async def disable_user(self, info: Info, id: strawberry.ID) -> User:
        return User.of(await info.context.services.accounts.disable(_user(id)))

    @strawberry.mutation(
        description="Lets a user in again, to log in anew; its API keys work again.",
        metadata=allow(Role.ADMIN),
    )
    async def enable_user(self, info: Info, id: strawberry.ID) -> User:
        return User.of(await info.context.services.accounts.enable(_user(id)))


def _user(given: str) -> bytes:
    found = parse_id(given)
    if found is None:
        raise NotFound("There is no such user.")
    return found
