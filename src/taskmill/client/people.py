"""The client's calls about users."""

from __future__ import annotations

from taskmill.client import documents
from taskmill.client.core import Calls
from taskmill.client.types import Login, User


class PeopleCalls(Calls):
    async def login(self, email: str, password: str) -> Login:
        """Logs in. The client uses the token from now on. Unauthenticated when the two do not fit."""
        return self._keep(
            await self._mutate(
                documents.LOGIN, Login, repeat=True, input={"email": email, "password": password}
            )
        )

    async def register(self, email: str, password: str, name: str) -> Login:
        """A new user, logged in: the client uses the token from now on. Conflict when the address is taken."""
        values = {"email": email, "password": password, "name": name}
        return self._keep(await self._mutate(documents.REGISTER, Login, input=values))

    async def me(self) -> User:
        return await self._query(documents.ME, User)

    def _keep(self, login: Login) -> Login:
        self._http.token = login.access_token
        return login
