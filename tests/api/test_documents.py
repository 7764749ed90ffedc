"""Documents of every kind, over real HTTP: the code, the status and the one error that each is answered with."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from taskmill.api.options import ApiOptions
from taskmill.api.schema import guard
from taskmill.errors import Unavailable
from taskmill.tasks import cancel as cancelling
from taskmill.tasks import read
from tests.api.kit import Api, Socket, running
from tests.databases import MigratedStores
from tests.support import wait_until

COMPLEX, INVALID = "QUERY_TOO_COMPLEX", "GRAPHQL_VALIDATION_FAILED"
UNPARSED, INPUT, REQUEST = "GRAPHQL_PARSE_FAILED", "BAD_USER_INPUT", "BAD_REQUEST"
INTERNALS = re.compile(r'Traceback|sqlalchemy|pymysql|aiosqlite|File "|SELECT |Did you mean|site-packages')


@dataclass(frozen=True)
class Case:
    """One request. `row`: of the matrix of bad inputs."""

    row: int
    query: str
    code: str
    rest: dict[str, Any] = field(default_factory=dict)
    says: str = ""

    @property
    def body(self) -> dict[str, Any]:
        return {"query": self.query, **self.rest}

    def __str__(self) -> str:
        return f"{self.row} {re.sub(r'[^A-Za-z0-9@]+', ' ', self.query)[:30]}"


def spread(names: str, *fragments: str) -> str:
    """A query of fragments on Query, each given as 'name: selections'."""
    parts = (f"fragment {f.partition(': ')[0]} on Query {{ {f.partition(': ')[2]} }}" for f in fragments)
    return f"{{ {names} }} {' '.join(parts)}"


def aliases(n: int, selection: str = "__typename", name: str = "a") -> str:
    return " ".join(f"{name}{i}: {selection}" for i in range(n))


LOGIN = 'login(input: {email: "user@example.com", password: "securepassword"}) { accessToken }'
REGISTER = (
    'register(input: {email: "new@example.com", password: "securepassword", name: "N"}) { accessToken }'
)
CANCEL = 'cancelTask(id: "x") { id }'
NEST = "... on Query { " * 9
BOMB = [f"f{i}: ...f{i + 1} ...f{i + 1}" for i in range(20)]
CIRCLES = [f"c{i}: " + " ".join(f"...c{j}" for j in range(9)) for i in range(9)]
VARIABLE = "query($p: TaskPriority, $n: Int!) { tasks(priority: $p, limit: $n) { id } }"
SUBSCRIPTION = "subscription { taskUpdated { id } }"

CASES = [
    Case(22, "{", UNPARSED),
    Case(22, "}{", UNPARSED),
    Case(22, "qwerty cop { abc }", UNPARSED),
    Case(22, '{ me { id } } "', UNPARSED),
    Case(22, "# nothing", UNPARSED),
    Case(22, "{ me { id } } \x00", UNPARSED),
    Case(23, "{ nn }", INVALID),
    Case(23, "{ me { emial } }", INVALID),
    Case(23, "{ task(id: 1) { idd titel statsu } }", INVALID),
    Case(23, "mutation { cancelTsk(id: 1) { id } }", INVALID),
    Case(24, "{ task { id } }", INVALID),
    Case(24, "{ tasks(limit: true) { id } }", INVALID),
    Case(24, '{ tasks(limit: "10") { id } }', INVALID),
    Case(24, "{ tasks(limit: 1.5) { id } }", INVALID),
    Case(24, "{ tasks(priority: URGENT) { id } }", INVALID),
    Case(24, '{ tasks(priority: "high") { id } }', INVALID),
    Case(24, "{ tasks(other: 1) { id } }", INVALID),
    Case(24, "{ me }", INVALID),
    Case(24, "{ me { id { x } } }", INVALID),
    Case(24, f"{{ tasks(limit: {'9' * 5000}) {{ id }} }}", INVALID),
    Case(25, "{ " + "x { " * 10 + "x" + " }" * 11, COMPLEX, says="nested 11 levels"),
    Case(25, spread("...a", "a: " + "x { " * 10 + "x" + " }" * 10), COMPLEX, says="nested 11 levels"),
    Case(26, "{ x " * 3000, UNPARSED, says="nested too deeply"),
    Case(26, "{" * 3000, UNPARSED),
    Case(27, f"{{ {aliases(101)} }}", COMPLEX, says="101 aliases"),
    Case(27, f"{{ {aliases(16, 'me { id }')} }}", COMPLEX, says="16 aliases"),
    Case(27, spread("...f ...f", f"f: {aliases(8, 'me { id }')}"), COMPLEX, says="16 aliases"),
    Case(27, f"{{ me {{ {aliases(8, 'id')} }} ... {{ {aliases(8, 'me { id }', 'b')} }} }}", COMPLEX),
    Case(27, f"{{ __schema {{ {aliases(16, 'queryType { name }')} }} }}", COMPLEX, says="16 aliases"),
    Case(28, "{ " + "__typename " * 500 + "}", COMPLEX, says="500 selections"),
    Case(28, "{ " + "__typename " * 101 + "}", COMPLEX, says="101 selections"),
    Case(28, "{ " + "id " * 3000 + "}", COMPLEX, says="token"),
    Case(28, "{ me { " + "id " * 101 + "} }", COMPLEX, says="101 selections"),
    Case(28, spread("...f ...f ...f", "f: " + "__typename " * 34), COMPLEX, says="102 selections"),
    Case(28, "{ " + ("... { " + "__typename " * 51 + "} ") * 2 + "}", COMPLEX, says="102 selections"),
    Case(29, "{ __typename " + "@aa " * 10 + "}", COMPLEX, says="10 directives"),
    Case(29, "{ __typename " + "@skip(if: false) " * 60 + "}", COMPLEX, says="60 directives"),
    Case(29, "query " + "@aa " * 6 + "{ __typename }", COMPLEX, says="6 directives"),
    Case(29, "query(" + " ".join(f"$a{i}: Int @aa" for i in range(6)) + ") { __typename }", COMPLEX),
    Case(29, spread("...f ...f", "f: " + "__typename @skip(if: true) " * 3), COMPLEX, says="6 directives"),
    Case(29, "{ __typename @aa }", INVALID),
    Case(30, spread("...a", "a: ...b", "b: ...a"), INVALID),
    Case(30, spread("...c0", *CIRCLES), INVALID),
    Case(30, spread("__typename", "unused: __typename"), INVALID),
    Case(30, spread("...absent"), INVALID),
    Case(30, spread("...f0", *BOMB, "f20: __typename"), COMPLEX, says="more than 1,000,000 selections"),
    Case(30, spread("...f0", *BOMB, "f20: me @skip(if: true) { id }"), COMPLEX),
    Case(31, "{ " + " ".join(f"... {{ me {{ {'id ' * 100} }} }}" for _ in range(200)) + " }", COMPLEX),
    Case(32, "{ me { " + "id " * 1000 + "} }", COMPLEX, says="token"),
    Case(32, "{ me { id } } #" + "x" * 15_000, COMPLEX, says="15015 characters"),
    Case(32, "{ me { id } }" + " " * 3_000_000, COMPLEX, says="characters"),
    Case(32, "query A { me { id } }" + " " * 15_000, COMPLEX, {"operationName": "A"}, says="characters"),
    Case(33, "{ tasks(limit: 100) { logs(limit: 100) { id } } }", COMPLEX, says="costs 10,101"),
    Case(35, "query a { me { id } } query b { me { id } }", REQUEST),
    Case(35, "query a { me { id } }", REQUEST, {"operationName": "c"}),
    Case(35, "{ me { id } }", REQUEST, {"operationName": ""}),
    Case(35, "query a { me { id } } query b { me { id } }", REQUEST, {"operationName": "c"}),
    Case(35, "query a { me { id } } query a { me { id } }", INVALID, {"operationName": "a"}),
    Case(35, "fragment f on Query { me { id } }", REQUEST),
    Case(35, "type T { id: ID }", REQUEST),
    Case(36, SUBSCRIPTION, REQUEST),
    Case(37, "mutation { " + CANCEL * 20 + " }", COMPLEX, says="20 mutations"),
    Case(37, "mutation { " + CANCEL * 6 + " }", COMPLEX, says="6 mutations"),
    Case(37, f"mutation {{ ...m ...m }} fragment m on Mutation {{ {CANCEL * 3} }}", COMPLEX, says="6 mutations"),
    Case(37, f"mutation {{ a: {LOGIN} b: {LOGIN} }}", COMPLEX, says="2 passwords"),
    Case(37, f"mutation {{ {aliases(15, LOGIN)} }}", COMPLEX),
    Case(37, f"mutation {{ {LOGIN} {REGISTER} }}", COMPLEX, says="2 passwords"),
    Case(37, f"mutation {{ a: {LOGIN} ...m }} fragment m on Mutation {{ b: {LOGIN} }}", COMPLEX),
    Case(37, f"mutation A {{ {LOGIN} }} mutation B {{ {LOGIN} }}", COMPLEX, {"operationName": "A"}),
    Case(38, VARIABLE, INPUT, {"variables": {}}),
    Case(38, VARIABLE, INPUT, {"variables": {"n": None}}),
    Case(38, VARIABLE, INPUT, {"variables": {"n": "many"}}),
    Case(38, VARIABLE, INPUT, {"variables": {"n": 1.5}}),
    Case(38, VARIABLE, INPUT, {"variables": {"n": 2**40}}),
    Case(38, VARIABLE, INPUT, {"variables": {"n": 1, "p": "URGENT"}}),
    Case(38, "{ tasks(limit: $n) { id } }", INVALID, {"variables": {"n": 1}}),
    Case(38, "query($n: Int) { me { id } }", INVALID, {"variables": {"n": 1}}),
    Case(38, "query($n: String) { tasks(limit: $n) { id } }", INVALID, {"variables": {"n": "1"}}),
    Case(38, "query($n: Nothing) { tasks(limit: $n) { id } }", INVALID, {"variables": {"n": 1}}),
]  # fmt: skip


@pytest.fixture(scope="module")
async def production(
    migrated_stores: MigratedStores, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    """An API in production, with one user. Nothing of what is sent to it here changes anything."""
    with migrated_stores.lend("sqlite", tmp_path_factory.mktemp("production")) as url:
        async with running(url, options=ApiOptions(development=False)) as api:
            await api.register("user")
            yield api


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_refused(production: Api, case: Case) -> None:
    """A bad document has the code that is promised, 400 where the client knows it, and one error when it is too much."""
    old = await production.post(case.body)
    errors = old.json()["errors"]
    assert {error["extensions"]["code"] for error in errors} == {case.code}
    assert case.says in errors[0]["message"]
    assert not INTERNALS.search(old.text)
    assert len(errors) == 1 if case.code == COMPLEX else 1 <= len(errors) <= 5
    assert old.json()["data"] is None
    assert old.status_code == (400 if case.code == REQUEST else 200)
    new = await production.post(case.body, Accept="application/graphql-response+json")
    assert new.status_code == 400
    assert [error["message"] for error in new.json()["errors"]] == [error["message"] for error in errors]


PASSED: dict[str, str] = {
    "ten levels": "{ __typename " + "... { " * 9 + "me { id }" + " }" * 10,
    "fifteen aliases": f"{{ {aliases(15, 'me { id }')} }}",
    "a hundred selections": "{ " + "__typename " * 100 + "}",
    "five directives": f"{{ me {{ {' '.join(['id @include(if: true)'] * 5)} }} }}",
    "fragments in fragments": "{ " + f"... on Query {{ {NEST}me {{ id }}{' }' * 10} " * 12 + " }",
    "five mutations": f"mutation {{ {aliases(5, CANCEL)} }}",
}


@pytest.mark.parametrize("name", PASSED)
async def test_up_to_the_bounds(production: Api, name: str) -> None:
    """What is exactly within a bound runs."""
    body = await production.call(PASSED[name])
    assert {e["extensions"]["code"] for e in body.get("errors", ())} <= {"NOT_FOUND"}


async def test_extra_variable(api: Api) -> None:
    """A variable that the operation does not declare is ignored, as GraphQL says."""
    assert (await api.ok("{ me { email } }", other=1))["me"]["email"] == "user@example.com"


async def test_same_answer_again(api: Api) -> None:
    """What was found of a document is kept, and told alike each time, beside documents that run."""
    for _ in range(3):
        assert (await api.fails("{ nn }"))[0] == INVALID
        assert (await api.fails(f"{{ {aliases(16)} }}"))[0] == COMPLEX
        assert (await api.ok("{ me { email } }"))["me"]["email"] == "user@example.com"


async def test_more_documents_than_are_kept(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that push each other out of the cache are answered like the first ones."""
    monkeypatch.setattr(guard, "CACHED", 4)
    for n in [*range(12), *range(12)]:
        assert await api.ok(f"{{ a{n}: __typename }}") == {f"a{n}": "Query"}


INTROSPECTION = [
    "{ __schema { queryType { name } } }",
    '{ __type(name: "Task") { name } }',
    '{ me { id } __type(name: "Task") { fields { name } } }',
    spread("...f", "f: __schema { types { name } }"),
    "{ ... { a: __schema { types { name } } } }",
]


@pytest.mark.parametrize("query", INTROSPECTION)
@pytest.mark.parametrize("signed_in", [True, False])
async def test_introspection(production: Api, query: str, signed_in: bool) -> None:
    """Production tells its schema to nobody; __typename is no secret."""
    body = await production.call(query, token=None if signed_in else "")
    assert {e["extensions"]["code"] for e in body["errors"]} == {INVALID}
    assert body["data"] is None
    assert await production.ok("{ __typename }", token="") == {"__typename": "Query"}


class TestWallClock:
    """An operation that takes too long."""

    @pytest.fixture
    async def quick(self, store_url: str) -> AsyncIterator[Api]:
        options = ApiOptions(development=True, request_timeout=0.3)
        async with running(store_url, options=options) as api:
            await api.register("user")
            yield api

    @pytest.fixture
    def gate(self, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
        """cancelTask waits for it before it begins its work."""
        gate, cancel = asyncio.Event(), cancelling.cancel

        async def waiting(*arguments: Any) -> Any:
            await gate.wait()
            return await cancel(*arguments)

        monkeypatch.setattr(cancelling, "cancel", waiting)
        return gate

    async def test_query(self, quick: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """A query is given up: TIMEOUT, with 200, and the next one runs."""

        gate, page = threading.Event(), read.page

        def waiting(*arguments: Any, **given: Any) -> Any:
            gate.wait(10)
            return page(*arguments, **given)

        monkeypatch.setattr(read, "page", waiting)
        response = await quick.post({"query": "{ tasks { id } }"}, Accept="application/graphql-response+json")
        gate.set()
        [error] = response.json()["errors"]
        assert (response.status_code, error["extensions"]["code"]) == (200, "TIMEOUT")
        assert error["message"] == "The operation took longer than 0.3 s."
        assert await quick.ok("{ tasks { id } }") == {"tasks": []}

    async def test_mutation_is_carried_out(self, quick: Api, gate: asyncio.Event) -> None:
        """A mutation that has begun ends though nobody waits any more; the next one of the document does not begin."""
        first, second = (await quick.create())["id"], (await quick.create())["id"]
        document = "mutation($a: ID!, $b: ID!) { a: cancelTask(id: $a) { id } b: cancelTask(id: $b) { id } }"
        code, message = await quick.fails(document, a=first, b=second)
        assert code == "TIMEOUT"
        assert "carried out all the same" in message
        assert await status(quick, first) == "QUEUED"
        gate.set()
        await wait_until(lambda: is_cancelled(quick, first))
        assert await status(quick, second) == "QUEUED"

    async def test_over_socket(self, quick: Api, gate: asyncio.Event) -> None:
        """The same over a WebSocket, whose connection goes on."""
        task = (await quick.create())["id"]
        async with quick.socket() as socket:
            await socket.subscribe("mutation($a: ID!) { cancelTask(id: $a) { id } }", a=task)
            message = await socket.receive()
            assert message["payload"][0]["extensions"]["code"] == "TIMEOUT"
            gate.set()
            await wait_until(lambda: is_cancelled(quick, task))
            await socket.subscribe("{ __typename }", id="2")
            assert await socket.next() == {"__typename": "Query"}

    async def test_client_gives_up(self, api: Api, gate: asyncio.Event) -> None:
        """A client that ends its operation on a WebSocket does not cut a mutation that has begun either."""
        task = (await api.create())["id"]
        async with api.socket() as socket:
            await socket.subscribe("mutation($a: ID!) { cancelTask(id: $a) { id } }", a=task)
            await begun(socket)
            await socket.send({"id": "1", "type": "complete"})
        gate.set()
        await wait_until(lambda: is_cancelled(api, task))

    async def test_subscription(self, quick: Api) -> None:
        """A subscription lives on."""
        async with quick.socket() as socket:
            await socket.subscribe(SUBSCRIPTION)
            await wait_until(lambda: quick.feed.following == 1)
            await asyncio.sleep(0.5)
            task = await quick.create()
            assert (await socket.next())["taskUpdated"]["id"] == task["id"]

    async def test_late_failure(self, quick: Api, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
        """How a mutation ended that nobody waited for is in the log."""
        gate = asyncio.Event()

        async def failing(*_: Any) -> None:
            await gate.wait()
            raise Unavailable("gone")

        monkeypatch.setattr(cancelling, "cancel", failing)
        task = (await quick.create())["id"]
        assert (await quick.fails("mutation($a: ID!) { cancelTask(id: $a) { id } }", a=task))[0] == "TIMEOUT"
        gate.set()
        seen: list[str] = []

        def logged() -> bool:
            seen.append("".join(capfd.readouterr()))
            return "mutation.late" in "".join(seen)

        await wait_until(logged)
        assert "Unavailable" in "".join(seen)


async def begun(socket: Socket) -> None:
    """The server has taken what was sent before: it answers messages in their order."""
    await socket.send({"type": "ping"})
    assert await socket.receive() == {"type": "pong"}
    await socket.subscribe("{ __typename }", id="later")
    assert await socket.next() == {"__typename": "Query"}


async def status(api: Api, task: str) -> str:
    return str((await api.ok("query($id: ID!) { task(id: $id) { status } }", id=task))["task"]["status"])


async def is_cancelled(api: Api, task: str) -> bool:
    return await status(api, task) == "CANCELLED"


async def test_five_errors_of_fields(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields that fail are told up to five times, like all errors."""

    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("The database does not answer. Try again.")

    await api.ok("{ me { id } }")
    monkeypatch.setattr(api.db, "read", away)
    body = await api.call("{ " + aliases(9, "task(id: 1) { id }") + " }")
    assert not body.get("errors"), "a malformed id is null without a look"
    body = await api.call("{ " + aliases(9, 'task(id: "01990000-0000-7000-8000-000000000000") { id }') + " }")
    assert [e["extensions"]["code"] for e in body["errors"]] == ["UNAVAILABLE"] * 5
