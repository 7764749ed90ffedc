"""Users in GraphQL: register, login, me."""

from __future__ import annotations

from datetime import datetime
from typing import Self

import strawberry

from taskmill.api.schema.context import Info
from taskmill.api.schema.roles import ANYONE, SIGNED_IN, allow, allow_anyone, open_to
from taskmill.api.users import Role
from taskmill.api.users import User as UserRow
from taskmill.model.ids import id_text

strawberry.enum(Role, name="Role", description="What a user may do.")


@open_to(*ANYONE)  # `register` shows it to whom it has just made
@strawberry.type
class User:
    id: strawberry.ID
    email: str
    name: str
    role: Role
    created_at: datetime

    @classmethod
    def of(cls, row: UserRow) -> Self:
        return cls(
            id=strawberry.ID(id_text(row.id)),
            email=row.email,
            name=row.name,
            role=row.role,
            created_at=row.created_at,
        )


@open_to(*ANYONE)
@strawberry.type(description="A token, to be sent as 'Authorization: Bearer <accessToken>', and whose it is.")
class AuthPayload:
    access_token: str
    user: User


@strawberry.input
class RegisterInput:
    email: str
    password: str = strawberry.field(description="8 to 72 bytes.")
    name: str


@strawberry.input
class LoginInput:
    email: str
    password: str


@strawberry.type
class UserQueries:
    @strawberry.field(description="Whoever asks.", metadata=allow(*SIGNED_IN))
    async def me(self, info: Info) -> User:
        return User.of(info.context.viewer())


@strawberry.type
class UserMutations:
    @strawberry.mutation(description="A new user, logged in.", metadata=allow_anyone())
    async def register(self, info: Info, input: RegisterInput) -> AuthPayload:
        services, peer = info.context.services, info.context.peer
        await services.limiter.register(input.email, peer)
        return _entered(info, await services.accounts.register(input.email, input.password, input.name))

    @strawberry.mutation(metadata=allow_anyone())
    async def login(self, info: Info, input: LoginInput) -> AuthPayload:
        services, peer = info.context.services, info.context.peer
        async with services.limiter.login(input.email, peer):
            user = await services.accounts.login(input.email, input.password)
        return _entered(info, user)


def _entered(info: Info, user: UserRow) -> AuthPayload:
    return AuthPayload(access_token=info.context.services.tokens.issue(user), user=User.of(user))
