"""The client for programs without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from taskmill.client.client import Client

P = ParamSpec("P")
R = TypeVar("R")
_END = object()


class _Call(Generic[P, R]):
    """A method of the client, waited for."""

    def __init__(self, method: Callable[Concatenate[Client, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, owner: None, kind: type[object]) -> Self: ...
    @overload
    def __get__(self, owner: SyncClient, kind: type[object]) -> Callable[P, R]: ...
    def __get__(self, owner: SyncClient | None, kind: type[object]) -> Any:
        if owner is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            _refuse_on_loop()
            result: R = owner.portal.call(lambda: self._method(owner.client, *args, **kwargs))
            return result

        return call


class _Walk(Generic[P, R]):
    """An async iterator of the client, walked through."""

    def __init__(self, method: Callable[Concatenate[Client, P], AsyncIterator[R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, owner: None, kind: type[object]) -> Self: ...
    @overload
    def __get__(self, owner: SyncClient, kind: type[object]) -> Callable[P, Iterator[R]]: ...
    def __get__(self, owner: SyncClient | None, kind: type[object]) -> Any:
        if owner is None:
            return self

        def walk(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
            _refuse_on_loop()
            items = cast("AsyncGenerator[R, None]", self._method(owner.client, *args, **kwargs))
            try:
                while (item := owner.portal.call(_next, items)) is not _END:
                    yield cast("R", item)
            finally:
                owner.portal.call(items.aclose)

        return walk


async def _next(items: AsyncIterator[object]) -> object:
    return await anext(items, _END)


def _refuse_on_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("SyncClient would block the event loop: use `await` with Client")


class SyncClient:
    """`Client`, each call of which blocks until it is answered. From any thread, but not on an event loop: `with`.

    It keeps a thread with a loop of its own until it is closed. Make it after a fork, not before.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.client = Client(url, api_key=api_key, token=token, timeout=timeout)
        self._stack = ExitStack()
        self.portal: BlockingPortal = self._stack.enter_context(start_blocking_portal(name="taskmill-client"))
        self._stack.callback(self.portal.call, self.client.close)

    def close(self) -> None:
        """Closes its connections and ends its thread. Twice is once."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    create_task = _Call(Client.create_task)
    create_tasks = _Call(Client.create_tasks)
    update_task = _Call(Client.update_task)
    cancel_task = _Call(Client.cancel_task)
    retry_task = _Call(Client.retry_task)
    task = _Call(Client.task)
    tasks_page = _Call(Client.tasks_page)
    tasks = _Walk(Client.tasks)
    logs = _Call(Client.logs)
    runs = _Call(Client.runs)
    stats = _Call(Client.stats)
    wait = _Call(Client.wait)
    result = _Call(Client.result)
    watch = _Walk(Client.watch)
    create_schedule = _Call(Client.create_schedule)
    update_schedule = _Call(Client.update_schedule)
    delete_schedule = _Call(Client.delete_schedule)
    pause_schedule = _Call(Client.pause_schedule)
    resume_schedule = _Call(Client.resume_schedule)
    run_schedule_now = _Call(Client.run_schedule_now)
    schedule = _Call(Client.schedule)
    schedules_page = _Call(Client.schedules_page)
    schedules = _Walk(Client.schedules)
    next_fires = _Call(Client.next_fires)
    history = _Call(Client.history)
    execute = _Call(Client.execute)
    login = _Call(Client.login)
    register = _Call(Client.register)
    me = _Call(Client.me)
    change_password = _Call(Client.change_password)
    logout_everywhere = _Call(Client.logout_everywhere)
    users_page = _Call(Client.users_page)
    users = _Walk(Client.users)
    set_user_role = _Call(Client.set_user_role)
    disable_user = _Call(Client.disable_user)
    enable_user = _Call(Client.enable_user)
    create_api_key = _Call(Client.create_api_key)
    api_keys_page = _Call(Client.api_keys_page)
    api_keys = _Walk(Client.api_keys)
    revoke_api_key = _Call(Client.revoke_api_key)
    workers_page = _Call(Client.workers_page)
    workers = _Walk(Client.workers)
    queues_page = _Call(Client.queues_page)
    queues = _Walk(Client.queues)
    register_worker = _Call(Client.register_worker)
    deregister_worker = _Call(Client.deregister_worker)
    claim_tasks = _Call(Client.claim_tasks)
    cancel_signals = _Call(Client.cancel_signals)
    renew_tasks = _Call(Client.renew_tasks)
    complete_task = _Call(Client.complete_task)
    fail_task = _Call(Client.fail_task)
    release_task = _Call(Client.release_task)
    settle_tasks = _Call(Client.settle_tasks)
    append_logs = _Call(Client.append_logs)
    submit_tasks = _Call(Client.submit_tasks)
