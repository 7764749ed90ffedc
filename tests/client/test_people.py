"""Users and keys through the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from taskmill.client import Client
from taskmill.errors import Conflict, Forbidden, Unauthenticated
from tests.api.kit import PASSWORD, Api, running

pytestmark = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)


@pytest.fixture
async def api(store_url: str) -> AsyncIterator[Api]:
    async with running(store_url, first_admin=True) as api:
        yield api


@pytest.fixture
async def admin(api: Api) -> AsyncIterator[Client]:
    async with Client(api.base) as client:
        await client.register("ann@example.com", PASSWORD, "Ann")
        yield client


async def test_an_admin_sees_and_changes_users(api: Api, admin: Client) -> None:
    """Roles, keeping out and letting in; a USER may do none of it."""
    async with Client(api.base) as other:
        bob = (await other.register("bob@example.com", PASSWORD, "Bob")).user
        with pytest.raises(Forbidden):
            [user async for user in other.users()]
        assert [user.name async for user in admin.users()] == ["Ann", "Bob"]
        assert [user.id for user in await admin.users_page(limit=1, after=None)] == [(await admin.me()).id]
        assert (await admin.disable_user(bob.id)).disabled
        with pytest.raises(Unauthenticated):
            await other.login("bob@example.com", PASSWORD)
        assert not (await admin.enable_user(bob.id)).disabled
        assert (await admin.set_user_role(bob.id, "WORKER")).role == "WORKER"
    with pytest.raises(Conflict):
        await admin.set_user_role((await admin.me()).id, "USER")


async def test_a_key_signs_in(api: Api, admin: Client) -> None:
    """A key is shown once, used as `api_key=`, listed without its secret, and revoked."""
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    made = await admin.create_api_key("ci", "USER", queues=["bulk"], expires_at=ends)
    assert made.key not in repr(made)
    assert (made.api_key.queues, made.api_key.expires_at) == (["bulk"], ends)
    async with Client(api.base, api_key=made.key) as robot:
        assert (await robot.create_task("A task", queue="bulk")).queue == "bulk"
        with pytest.raises(Forbidden):
            await robot.create_task("A task", queue="other")
    assert [key.id async for key in admin.api_keys()] == [made.api_key.id]
    assert (await admin.revoke_api_key(made.api_key.id)).revoked_at is not None


async def test_a_password_is_changed_and_logins_end(api: Api, admin: Client) -> None:
    """`change_password` goes on with the new token; `logout_everywhere` ends that one too."""
    before = admin.token
    await admin.change_password(PASSWORD, "another password")
    assert admin.token != before
    assert (await admin.me()).name == "Ann"
    await admin.logout_everywhere()
    await admin.login("ann@example.com", "another password")
    assert (await admin.me()).name == "Ann"
