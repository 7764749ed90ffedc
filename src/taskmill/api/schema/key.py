"""API keys in GraphQL: made, listed, revoked."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Self

import strawberry

from taskmill.api.identity import Role
from taskmill.api.keys import KeyRow, NewKey
from taskmill.api.schema.context import Info
from taskmill.api.schema.roles import SIGNED_IN, allow, open_to
from taskmill.api.schema.task import checked_limit, checked_queue, position
from taskmill.api.schema.user import User
from taskmill.errors import BadUserInput, NotFound
from taskmill.model.ids import id_text, parse_id

QUEUES_MOST: Final = 100


@open_to(*SIGNED_IN)
@strawberry.type(description="What a program signs in with: a role of its own, for some queues or for all.")
class ApiKey:
    row: strawberry.Private[KeyRow]
    id: strawberry.ID
    name: str
    role: Role
    queues: list[str] | None = strawberry.field(description="The only ones it may use; null: all.")
    prefix: str = strawberry.field(description="How the key begins.")
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = strawberry.field(description="To the minute.")
    revoked_at: datetime | None

    @strawberry.field(description="Whose it is.")
    async def user(self, info: Info) -> User | None:
        row = await info.context.loaders.users.load(self.row.user_id)
        return None if row is None else User.of(row)

    @classmethod
    def of(cls, row: KeyRow) -> Self:
        return cls(
            row=row,
            id=strawberry.ID(id_text(row.id)),
            name=row.name,
            role=row.role,
            queues=None if row.queues is None else list(row.queues),
            prefix=row.prefix,
            created_at=row.created_at,
            expires_at=row.expires_at,
            last_used_at=row.last_used_at,
            revoked_at=row.revoked_at,
        )


@open_to(*SIGNED_IN)
@strawberry.type(description="A new key. Nobody can read its text again.")
class CreatedApiKey:
    key: str = strawberry.field(description="To be sent as 'Authorization: Bearer <key>'.")
    api_key: ApiKey


@strawberry.input
class CreateApiKeyInput:
    name: str = strawberry.field(description="1 to 100 characters.")
    role: Role = strawberry.field(
        description="An ADMIN may give any; others only their own. By this role alone the key is judged."
    )
    queues: list[str] | None = strawberry.field(
        default=None, description="1 to 100 queues, the only ones it may use. Not given: all."
    )
    expires_at: datetime | None = strawberry.field(
        default=None, description="Not given: it holds until it is revoked."
    )


@strawberry.type
class KeyQueries:
    @strawberry.field(
        description="The caller's API keys (all for an ADMIN), newest first, with those that ended within 30 days.",
        metadata=allow(*SIGNED_IN),
    )
    async def api_keys(
        self,
        info: Info,
        limit: int = 20,
        after: Annotated[
            strawberry.ID | None, strawberry.argument(description="The last key of the page before.")
        ] = None,
    ) -> list[ApiKey]:
        _no_worker_key(info, "apiKeys")
        owner, most, start = info.context.viewer().owner, checked_limit(limit), position(after)
        rows = await info.context.services.accounts.keys.list(owner, limit=most, after=start)
        return [ApiKey.of(row) for row in rows]


@strawberry.type
class KeyMutations:
    @strawberry.mutation(
        description="A new key, shown this once. A key that makes one cannot go beyond itself. At most 100 a user.",
        metadata=allow(*SIGNED_IN),
    )
    async def create_api_key(self, info: Info, input: CreateApiKeyInput) -> CreatedApiKey:
        context = info.context
        _no_worker_key(info, "createApiKey")
        viewer, new = context.viewer(), _new_key(input)
        text, row = await context.services.accounts.keys.create(viewer, new, context.key)
        return CreatedApiKey(key=text, api_key=ApiKey.of(row))

    @strawberry.mutation(
        description="Ends a key of the caller (of anyone, for an ADMIN) within seconds. Again: nothing.",
        metadata=allow(*SIGNED_IN),
    )
    async def revoke_api_key(self, info: Info, id: strawberry.ID) -> ApiKey:
        _no_worker_key(info, "revokeApiKey")
        owner, key_id = info.context.viewer().owner, parse_id(id)
        if key_id is None:
            raise NotFound("There is no such API key.")
        return ApiKey.of(await info.context.services.accounts.keys.revoke(key_id, owner))


def _no_worker_key(info: Info, name: str) -> None:
    """A worker's machine runs the code of others: its key works, and makes, shows and ends no keys."""
    if info.context.viewer().role is Role.WORKER:
        info.context.check_login(name)


def _new_key(given: CreateApiKeyInput) -> NewKey:
    queues = None
    if given.queues is not None:
        if not 1 <= len(given.queues) <= QUEUES_MOST:
            raise BadUserInput(f"queues: 1 to {QUEUES_MOST} names are expected, or null for all")
        queues = tuple(dict.fromkeys(checked_queue(queue) or queue for queue in given.queues))
    return NewKey(given.name, given.role, queues, given.expires_at)
