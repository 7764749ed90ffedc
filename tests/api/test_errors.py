"""What is refused, how, and in which form: the error contract over real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from taskmill.api.options import ApiOptions
from taskmill.api.server import bind
from taskmill.errors import StartError, Unavailable
from taskmill.tasks import read
from tests.api.kit import TASK, Api, running

DEEP = b'{"query":"{me{id}}","variables":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
QUERY = b'"query":"{me{id}}"'

BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "truncated": b'{"query":"{me',
    "not an object": b"[]",
    "a batch": b'[{"query":"{me{id}}"},{"query":"{me{id}}"}]',
    "a string": b'"{me{id}}"',
    "null": b"null",
    "query of another type": b'{"query":123}',
    "no query": b'{"variables":{}}',
    "variables of another type": b'{"query":"{me{id}}","variables":"x"}',
    "operationName of another type": b'{"query":"{me{id}}","operationName":[]}',
    "extensions of another type": b'{"query":"{me{id}}","extensions":[]}',
    "invalid UTF-8": b'{"query":"\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"query":"{me{id}}"}',
    "half a surrogate": b'{"query":"{me{id}}","variables":{"a":"\\ud800"}}',
    "nested 100,000 deep": DEEP,
    "a number beyond double": b"{" + QUERY + b',"variables":{"a":1e999}}',
    "NaN": b"{" + QUERY + b',"variables":{"a":NaN}}',
    "a million digits": b"{" + QUERY + b',"variables":{"a":' + b"9" * 1_000_000 + b"}}",
    "a key twice": b"{" + QUERY + b',"variables":{"a":{"b":1,"b":2}}}',
    "two operations and no name": b'{"query":"query a{me{id}} query b{me{id}}"}',
    "an unknown operation": b'{"query":"query a{me{id}}","operationName":"c"}',
    "a subscription without SSE": b'{"query":"subscription{taskUpdated{id}}"}',
}


@pytest.mark.parametrize("name", list(BAD_BODIES))
async def test_bad_body(api: Api, name: str) -> None:
    """A body that is no single GraphQL operation is BAD_REQUEST, with status 400 and the body of every error."""
    response = await api.post(BAD_BODIES[name])
    code, message, request_id = told(response)
    assert (response.status_code, code) == (400, "BAD_REQUEST")
    assert message
    assert response.headers["x-request-id"] == request_id


def told(response: Any) -> tuple[str, str, str]:
    """Code, message and request id of the only error of a response."""
    body = response.json()
    assert set(body) == {"errors", "data"}
    [error] = body["errors"]
    return error["extensions"]["code"], error["message"], error["extensions"]["requestId"]


async def test_long_names(api: Api) -> None:
    """The answer repeats no megabytes of what was sent."""
    response = await api.post({"query": "{ __typename }", "operationName": "x" * 1_000_000})
    assert response.status_code == 400
    assert len(response.content) < 2000


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_content_type(api: Api, kind: str) -> None:
    """What a browser's form could send is not executed."""
    response = await api.post({"query": "{me{id}}"}, Content_Type=kind)
    assert response.status_code == 415
    assert told(response)[0] == "BAD_REQUEST"


async def test_content_encoding(api: Api) -> None:
    """A compressed body is refused: its size would not be known."""
    assert (await api.post({"query": "{me{id}}"}, Content_Encoding="gzip")).status_code == 415


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "PATCH"])
async def test_methods(api: Api, method: str) -> None:
    """Operations come by POST alone."""
    response = await api.http.request(method, "/graphql", params={"query": "{__typename}"})
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


async def test_unknown_path(api: Api) -> None:
    """An unknown path is NOT_FOUND in the form of every error."""
    response = await api.http.get("/nothing")
    assert (response.status_code, told(response)[0]) == (404, "NOT_FOUND")


async def test_own_request_id(api: Api) -> None:
    """A request id of the caller's is never taken over."""
    response = await api.post({"query": "{me{id}}"}, X_Request_Id="chosen")
    assert response.headers["x-request-id"] != "chosen"


HEAD = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def connection(api: Api) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection, for what no client library would send."""
    return await asyncio.open_connection("127.0.0.1", int(api.base.rpartition(":")[2]))


class TestBodyLimit:
    async def test_announced(self, store_url: str) -> None:
        """A body that is announced as too large is refused before it is read."""
        async with running(store_url, options=ApiOptions(body_limit=1000)) as api:
            response = await api.post(b" " * 1001)
            assert (response.status_code, told(response)[0]) == (413, "PAYLOAD_TOO_LARGE")

    async def test_sent_whole_before_the_answer_is_read(self, store_url: str) -> None:
        """A client that reads only after it has sent everything is told too: the connection is not reset."""
        async with running(store_url, options=ApiOptions(body_limit=1000)) as api:
            port = int(api.base.rpartition(":")[2])

            def all_then_read(head: bytes) -> bytes:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    closing = head + b"Connection: close\r\nContent-Length: 20000000\r\n\r\n"
                    client.sendall(closing + b" " * 20_000_000)
                    return client.recv(15)

            assert b" 413 " in await asyncio.to_thread(all_then_read, HEAD)
            assert b" 401 " in await asyncio.to_thread(all_then_read, HEAD + b"Authorization: Bearer x\r\n")
            other = HEAD.replace(b"application/json", b"text/plain")
            assert b" 415 " in await asyncio.to_thread(all_then_read, other)

    async def test_chunked(self, store_url: str) -> None:
        """A body that grows beyond the limit is refused while it comes in: this one never ends."""
        async with running(store_url, options=ApiOptions(body_limit=100_000)) as api:
            reader, writer = await connection(api)
            writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            writer.write((b"2710\r\n" + b" " * 10_000 + b"\r\n") * 11)
            async with asyncio.timeout(5):
                assert b" 413 " in await reader.readline()
            writer.close()

    async def test_up_to_it(self, store_url: str) -> None:
        """A body of exactly the limit is read."""
        async with running(store_url, options=ApiOptions(body_limit=1000)) as api:
            body = b'{"query":"{__typename}"}'
            response = await api.post(body + b" " * (1000 - len(body)))
            assert response.json() == {"data": {"__typename": "Query"}}

    async def test_slow(self, store_url: str) -> None:
        """A body that does not come in time is given up, with 408."""
        async with running(store_url, options=ApiOptions(body_timeout=0.1)) as api:
            reader, writer = await connection(api)
            writer.write(HEAD + b"Content-Length: 10\r\n\r\n{")
            async with asyncio.timeout(5):
                assert b" 408 " in await reader.readline()
            writer.close()


class TestDocuments:
    """Errors of the document are found before anything runs."""

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("{", "GRAPHQL_PARSE_FAILED"),
            ("{" * 3000, "GRAPHQL_PARSE_FAILED"),
            ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
            ("{ task { id } }", "GRAPHQL_VALIDATION_FAILED"),
            ('{ tasks(priority: "high") { id } }', "GRAPHQL_VALIDATION_FAILED"),
            ("{ tasks(priority: URGENT) { id } }", "GRAPHQL_VALIDATION_FAILED"),
            (
                "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }",
                "GRAPHQL_VALIDATION_FAILED",
            ),
            ("{ me { " + "id " * 1000 + "} }", "QUERY_TOO_COMPLEX"),
            ("{ " + " ".join(f"a{i}: me {{ id }}" for i in range(16)) + " }", "QUERY_TOO_COMPLEX"),
            (
                "{ ...f ...g } fragment f on Query { "
                + " ".join(f"a{i}: me {{ id }}" for i in range(8))
                + " } fragment g on Query { ...f ...f }",
                "QUERY_TOO_COMPLEX",
            ),
            ("{ " + "x { " * 10 + "x" + " }" * 11, "QUERY_TOO_COMPLEX"),
        ],
        ids=lambda value: str(value)[:30],
    )
    async def test_refused(self, api: Api, query: str, code: str) -> None:
        """The status is 400 for clients that know application/graphql-response+json, 200 for older ones."""
        body = {"query": query, "variables": {}}
        old = await api.post(body)
        assert old.status_code == 200
        assert {e["extensions"]["code"] for e in old.json()["errors"]} >= {code}
        assert "Did you mean" not in old.text
        assert (await api.post(body, Accept="application/graphql-response+json")).status_code == 400

    async def test_variables(self, api: Api) -> None:
        """A wrong value in a variable is the user's input, not the document."""
        query = "query($p: TaskPriority, $n: Int!) { tasks(priority: $p, limit: $n) { id } }"
        for variables in ({"p": "URGENT", "n": 1}, {"n": "many"}, {}):
            code, message = await api.fails(query, **variables)
            assert code == "BAD_USER_INPUT", message

    async def test_words_of_ours_in_a_value(self, api: Api) -> None:
        """A value that says again and again what errors are searched for costs no more than another of its size."""
        query = "query($p: TaskPriority) { tasks(priority: $p) { id } }"
        code, message = await api.fails(query, p=" Did you mean " * 250_000)
        assert code == "BAD_USER_INPUT"
        assert len(message) <= 1000

    @pytest.mark.parametrize(
        ("query", "variables"),
        [
            ("query($n: Int) { tasks(limit: $n) { id } }", {"n": None}),
            ("query($i: ID = 1) { task(id: $i) { id } }", {"i": None}),
            ("query($b: Boolean = true) { me { id @include(if: $b) } }", {"b": None}),
            ("query($b: Boolean = true) { me @skip(if: $b) { id } }", {"b": None}),
            ('mutation($t: String = "t") { createTask(input: { title: $t }) { id } }', {"t": None}),
        ],
    )
    async def test_null_where_there_is_a_default(
        self, api: Api, query: str, variables: dict[str, Any]
    ) -> None:
        """A default lets a variable that may be null into a place that may not: a null is then the user's input too."""
        code, message = await api.fails(query, **variables)
        assert code == "BAD_USER_INPUT"
        assert "null" in message or "None" in message

    async def test_at_most_five(self, api: Api) -> None:
        """A document full of errors is answered with five of them."""
        response = await api.post({"query": "{ a b c d e f g h }"})
        assert len(response.json()["errors"]) == 5

    async def test_fragment_bomb(self, api: Api) -> None:
        """Fragments that double at each level are measured once each."""
        parts = [f"fragment f{i} on Query {{ ...f{i + 1} ...f{i + 1} }}" for i in range(60)]
        query = "{ ...f0 } " + " ".join(parts) + " fragment f60 on Query { a: me { id } }"
        async with asyncio.timeout(5):
            response = await api.post({"query": query})
        assert "QUERY_TOO_COMPLEX" in response.text

    async def test_variables_are_not_tokens(self, api: Api) -> None:
        """The same payload is refused in the document and taken as a variable."""
        numbers = list(range(2000))
        query = 'mutation($p: JSON) { createTask(input: {title: "t", payload: $p}) { payload } }'
        created = await api.ok(query, p={"numbers": numbers})
        assert created["createTask"]["payload"] == {"numbers": numbers}
        code, _ = await api.fails(query.replace("($p: JSON)", "").replace("$p", f"{{numbers: {numbers}}}"))
        assert code == "QUERY_TOO_COMPLEX"

    async def test_no_introspection_in_production(self, store_url: str) -> None:
        """The schema is told in development only."""
        async with running(store_url, options=ApiOptions(development=False)) as api:
            body = await api.call("{ __schema { queryType { name } } }")
            assert body["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
        async with running(store_url) as api:
            await api.ok("{ __schema { queryType { name } } }")

    async def test_graphiql(self, api: Api) -> None:
        """GraphiQL is served beside the page in development, and speaks to /graphql."""
        answer = await api.http.get("/graphiql")
        assert answer.status_code == 200
        assert 'new URL("/graphql", window.location.href)' in answer.text

    async def test_page_schema_query(self, api: Api) -> None:
        """The page's own introspection passes the limits of documents."""
        page = (await api.http.get("/graphql", headers={"Accept": "text/html"})).text
        query = page.split("const query = `")[1].split("`;")[0]
        named = page.split('const named = "')[1].split('";')[0]
        data = await api.ok(query.replace("${named}", named).replace("${named}", named))
        assert data["__schema"]["queryType"] == {"name": "Query"}


async def test_internals_are_masked(api: Api, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """A bug is INTERNAL to the caller; the log has it, under the request's id."""

    def broken(*_: Any) -> None:
        raise RuntimeError("secret detail of /srv/app.py")

    monkeypatch.setattr(read, "task", broken)
    response = await api.post({"query": '{ task(id: "01990000-0000-7000-8000-000000000000") { id } }'})
    code, message, request_id = told(response)
    assert code == "INTERNAL"
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    assert response.json()["errors"][0]["path"] == ["task"]
    out, err = capfd.readouterr()
    assert request_id in out + err
    assert message


async def test_bug_outside_graphql(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in any endpoint is 500 in the form of every error, masked."""

    def broken() -> bytes:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(api.mill.probes, "render", broken)
    response = await api.http.get("/metrics")
    assert (response.status_code, told(response)[0]) == (500, "INTERNAL")
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == told(response)[2]


class TestOutage:
    """The database does not answer."""

    async def away(self, *_: Any, **__: Any) -> None:
        raise Unavailable("The database does not answer. Try again.")

    async def test_operation(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """An operation is UNAVAILABLE, and says so."""
        await api.ok("{ me { id } }")
        monkeypatch.setattr(api.db, "read", self.away)
        monkeypatch.setattr(api.db, "write", self.away)
        assert (await api.fails("{ tasks { id } }"))[0] == "UNAVAILABLE"
        code, message = await api.fails('mutation { createTask(input: {title: "t"}) { id } }')
        assert (code, message) == ("UNAVAILABLE", "The database does not answer. Try again.")

    async def test_token(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """A token that cannot be checked is 503, not 401: the client need not log in again."""
        api.accounts._known.clear()
        monkeypatch.setattr(api.db, "read", self.away)
        response = await api.post({"query": "{ me { id } }"})
        assert (response.status_code, told(response)[0]) == (503, "UNAVAILABLE")
        assert response.headers["retry-after"]


def test_port_is_taken() -> None:
    """A taken port is one line that says what to do."""
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with pytest.raises(StartError, match=f"PORT={port + 1} taskmill up"):
        bind("127.0.0.1", port)
    listener.close()
    bind("127.0.0.1", port).close()


async def test_answers_at_once() -> None:
    """A connection sends what is written without waiting for more of it."""
    seen: list[int] = []

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = bind("127.0.0.1", 0)
    async with await asyncio.start_server(accepted, sock=listener):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        await reader.read()
        writer.close()
    assert seen[0] != 0


def test_address_of_another_machine() -> None:
    """Another port would not help: the settings are named."""
    with pytest.raises(StartError, match="see TASKMILL_HOST and PORT"):
        bind("192.0.2.1", 0)


ABSENT_IDS = ["01990000-0000-7000-8000-000000000000", "task-id-here", "' OR 1=1", "x" * 10_000, ""]


class TestForeignIsAbsent:
    """A foreign task, an absent one and a malformed id cannot be told apart."""

    async def test_queries(self, api: Api) -> None:
        """They are null."""
        foreign = (await api.create(token=await api.register("other")))["id"]
        for task_id in [foreign, *ABSENT_IDS]:
            assert await api.ok("query($id: ID!) { task(id: $id) { id } }", id=task_id) == {"task": None}

    @pytest.mark.parametrize(
        "mutation",
        ["cancelTask(id: $id)", "retryTask(id: $id)", 'updateTask(id: $id, input: {title: "x"})'],
    )
    async def test_mutations(self, api: Api, mutation: str) -> None:
        """They are NOT_FOUND, word for word the same."""
        foreign = (await api.create(token=await api.register("other")))["id"]
        answers = {
            await api.fails(f"mutation($id: ID!) {{ {mutation} {{ id }} }}", id=task_id)
            for task_id in [foreign, *ABSENT_IDS]
        }
        [(code, _)] = answers
        assert code == "NOT_FOUND"


async def test_conflicts(api: Api) -> None:
    """What a state does not allow is CONFLICT and says the state."""
    task = await api.create()
    code, message = await api.fails("mutation($id: ID!) { retryTask(id: $id) { id } }", id=task["id"])
    assert code == "CONFLICT"
    assert "QUEUED" in message
    await api.ok("mutation($id: ID!) { cancelTask(id: $id) { id } }", id=task["id"])
    again = await api.ok("mutation($id: ID!) { cancelTask(id: $id) { status } }", id=task["id"])
    assert again["cancelTask"]["status"] == "CANCELLED"
    update = 'mutation($id: ID!) { updateTask(id: $id, input: {title: "x"}) { id } }'
    assert (await api.fails(update, id=task["id"]))[0] == "CONFLICT"


async def test_partial_answer(api: Api) -> None:
    """One field's error names its path and leaves the others' data."""
    body = await api.call(f'{{ me {{ id }} task(id: "x") {{ {TASK} }} a: tasks(limit: 0) {{ id }} }}')
    assert body["errors"][0]["path"] == ["a"]
    assert body["data"] is None  # `tasks` may not be null, so its error takes the parent with it
    body = await api.call("{ me { id } }", token="")
    assert json.dumps(body["errors"][0]["extensions"]["code"]) == '"UNAUTHENTICATED"'
