"""Users in GraphQL: register, login, me."""

from __future__ import annotations

from datetime import datetime
from typing import Self

import strawberry

from taskmill.api.schema.context import Info
from taskmill.api.schema.roles import ANYONE, SIGNED_IN, allow, allow_anyone, open_to
from taskmill.api.users import Role, spelled
from taskmill.api.users import User as UserRow
from taskmill.errors import BadUserInput, Unauthenticated
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
    disabled: bool = strawberry.field(description="Whether it is kept out.")

    @classmethod
    def of(cls, row: UserRow) -> Self:
        return cls(
            id=strawberry.ID(id_text(row.id)),
            email=row.email,
            name=row.name,
            role=row.role,
            created_at=row.created_at,
            disabled=row.disabled,
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


@strawberry.input
class ChangePasswordInput:
    current_password: str
    new_password: str = strawberry.field(description="8 to 72 bytes.")


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
        await services.limiter.register(_account(input.email), peer)
        return _entered(info, await services.accounts.register(input.email, input.password, input.name))

    @strawberry.mutation(metadata=allow_anyone())
    async def login(self, info: Info, input: LoginInput) -> AuthPayload:
        services, peer = info.context.services, info.context.peer
        async with services.limiter.login(_account(input.email), peer):
            user = await services.accounts.login(input.email, input.password)
        return _entered(info, user)

    @strawberry.mutation(
        description="Another password. All logins of before end; this is a new one.",
        metadata=allow(*SIGNED_IN),
    )
    async def change_password(self, info: Info, input: ChangePasswordInput) -> AuthPayload:
        context, services = info.context, info.context.services
        context.check_login("changePassword")
        viewer = context.viewer()
        try:
            # A token that was stolen must not be a way to guess the password.
            async with services.limiter.login(viewer.email, context.peer):
                user = await services.accounts.change_password(
                    viewer.id, input.current_password, input.new_password
                )
        except Unauthenticated as refused:
            raise BadUserInput(f"currentPassword: {refused.message}") from None
        return _entered(info, user)

    @strawberry.mutation(
        description="Ends every login of the caller, this one too, within seconds. API keys stay.",
        metadata=allow(*SIGNED_IN),
    )
    async def logout_everywhere(self, info: Info) -> bool:
        info.context.check_login("logoutEverywhere")
        await info.context.services.accounts.end_logins(info.context.viewer().id)
        return True


def _account(email: str) -> str:
    """What limits know an account by: the address that SQL is asked for. What is no address has one limit."""
    return spelled(email) or ""


def _entered(info: Info, user: UserRow) -> AuthPayload:
    return AuthPayload(access_token=info.context.services.tokens.issue(user), user=User.of(user))
