"""The client's calls about users and their keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from taskmill.client import documents
from taskmill.client.core import PAGE, Calls, only, time_text
from taskmill.client.types import ApiKey, Login, NewKey, RoleName, User


class PeopleCalls(Calls):
    async def login(self, email: str, password: str) -> Login:
        """Logs in. The client uses the token from now on. Unauthenticated when the two do not fit."""
        return await self._enter(documents.LOGIN, {"email": email, "password": password}, repeat=True)

    async def register(self, email: str, password: str, name: str) -> Login:
        """A new user, logged in: the client uses the token from now on. Conflict when the address is taken."""
        values = {"email": email, "password": password, "name": name}
        return await self._enter(documents.REGISTER, values, repeat=False)

    async def me(self) -> User:
        """Whoever asks."""
        return await self._query(documents.ME, User)

    async def change_password(self, current: str, new: str) -> Login:
        """Ends all logins of before; the client uses the new token from now on."""
        values = {"currentPassword": current, "newPassword": new}
        return self._keep(await self._mutate(documents.CHANGE_PASSWORD, Login, input=values))

    async def logout_everywhere(self) -> None:
        """Ends every login of the caller, this one too, within seconds. API keys stay."""
        await self._mutate(documents.LOGOUT_EVERYWHERE, bool)

    # -- for an ADMIN ------------------------------------------------------------------------------------

    async def users_page(self, *, limit: int = PAGE, after: str | None = None) -> list[User]:
        """At most 100 users, oldest first, from the one after `after` on."""
        return await self._query(documents.USERS, list[User], limit=limit, after=after)

    def users(self) -> AsyncIterator[User]:
        """All users, oldest first, page by page."""
        return self._walk(lambda after: self.users_page(after=after), PAGE)

    async def set_user_role(self, id: str, role: RoleName) -> User:
        """Another role; it ends the user's logins. Conflict: the last ADMIN stays one."""
        return await self._mutate(documents.SET_USER_ROLE, User, id=id, role=role)

    async def disable_user(self, id: str) -> User:
        """Keeps a user out: its logins and API keys end. Conflict: not the last ADMIN."""
        return await self._mutate(documents.DISABLE_USER, User, repeat=True, id=id)

    async def enable_user(self, id: str) -> User:
        """Lets a user in again, to log in anew."""
        return await self._mutate(documents.ENABLE_USER, User, repeat=True, id=id)

    # -- keys --------------------------------------------------------------------------------------------

    async def create_api_key(
        self,
        name: str,
        role: RoleName,
        *,
        queues: Sequence[str] | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """A new key; its secret is shown this once. `queues`: the only ones it may use. Conflict: there are too many."""
        values = {
            "name": name,
            "role": role,
            "queues": None if queues is None else list(queues),
            "expiresAt": time_text("expires_at", expires_at),
        }
        return await self._mutate(documents.CREATE_API_KEY, NewKey, input=values)

    async def api_keys_page(self, *, limit: int = PAGE, after: str | None = None) -> list[ApiKey]:
        """At most 100 keys, newest first, from the one after `after` on."""
        return await self._query(documents.API_KEYS, list[ApiKey], limit=limit, after=after)

    def api_keys(self) -> AsyncIterator[ApiKey]:
        """The caller's keys (all for an ADMIN), newest first, page by page."""
        return self._walk(lambda after: self.api_keys_page(after=after), PAGE)

    async def revoke_api_key(self, id: str) -> ApiKey:
        """Ends a key within seconds. Again: nothing."""
        return await self._mutate(documents.REVOKE_API_KEY, ApiKey, repeat=True, id=id)

    async def _enter(self, document: str, values: dict[str, str], *, repeat: bool) -> Login:
        # Without the token of before: one that has ended would be refused, whatever is asked.
        data = await self._http.run(document, {"input": values}, repeat=repeat, signed=False)
        return self._keep(only(data, Login))

    def _keep(self, login: Login) -> Login:
        self._http.token = login.access_token
        return login
