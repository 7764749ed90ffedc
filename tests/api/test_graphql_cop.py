"""What scanners of GraphQL servers look for, asked of ours, and of a server that is open on purpose.

The open one shows that each check can find something: it has to be found there for its silence to mean anything here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import httpx2
import pytest
import strawberry
from graphql import GraphQLError, execute, parse, specified_rules, validate
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from taskmill.api.options import ApiOptions
from tests.api.kit import running
from tests.databases import MigratedStores

PAGES: Final = ("/", "/graphql", "/graphiql", "/playground", "/console")
MARKS: Final = ("graphiql", "graphql playground", "graphql-playground", "apollo sandbox")


class Target:
    """A server, and the credentials that go with each request."""

    def __init__(self, http: httpx2.AsyncClient, headers: Mapping[str, str]) -> None:
        self._http = http
        self._headers = dict(headers)

    async def sent(self, method: str, path: str = "/graphql", **given: Any) -> Any:
        """The JSON of the answer, or its text, whatever its status."""
        given["headers"] = self._headers | given.pop("headers", {})
        response = await self._http.request(method, path, **given)
        try:
            return response.json()
        except ValueError:
            return response.text

    async def run(self, query: str) -> Any:
        return await self.sent("POST", json={"query": query})


def data_of(answer: Any) -> dict[str, Any]:
    """The data, an empty object when there is none."""
    return (answer.get("data") or {}) if isinstance(answer, dict) else {}


def errors_of(answer: Any) -> list[Any]:
    return (answer.get("errors") or []) if isinstance(answer, dict) else []


async def aliases(target: Target) -> bool:
    """Runs 101 aliases of a field."""
    query = "query cop { " + " ".join(f"alias{i}: __typename" for i in range(101)) + " }"
    return "alias100" in data_of(await target.run(query))


async def batch(target: Target) -> bool:
    """Runs ten operations of one request."""
    answer = await target.sent("POST", json=[{"query": "query cop { __typename }"}] * 10)
    return isinstance(answer, list) and len(answer) >= 10


async def circles(target: Target) -> bool:
    """Lets introspection come back to itself."""
    query = "query cop { __schema { types { fields { type { fields { type { fields { type { fields { type { name } } } } } } } } } } }"
    return bool(data_of(await target.run(query)))


async def directives(target: Target) -> bool:
    """Looks at each of ten directives."""
    return len(errors_of(await target.run("query cop { __typename " + "@aa" * 10 + " }"))) == 10


async def repetition(target: Target) -> bool:
    """Runs the same field 500 times."""
    return "__typename" in data_of(await target.run("query cop { " + "__typename " * 500 + "}"))


async def suggestions(target: Target) -> bool:
    """Tells names that are near to a wrong one."""
    wrong = [
        "{ __schema { directive } }",
        "{ __typenam }",
        "{ mee { id } }",
        "{ a: __type(nam: 1) { name } }",
    ]
    answers = [await target.run(f"query cop {query}") for query in wrong]
    return any("did you mean" in str(error).lower() for answer in answers for error in errors_of(answer))


async def introspection(target: Target) -> bool:
    """Tells its schema."""
    return "types" in data_of(
        await target.run("query cop { __schema { types { name fields { name } } } }")
    ).get("__schema", {})


async def get_query(target: Target) -> bool:
    """Runs queries that come by GET."""
    return "__typename" in data_of(await target.sent("GET", params={"query": "query cop { __typename }"}))


async def get_mutation(target: Target) -> bool:
    """Runs mutations that come by GET."""
    return "__typename" in data_of(await target.sent("GET", params={"query": "mutation cop { __typename }"}))


async def page(target: Target) -> bool:
    """Serves a page to try documents on."""
    answers = [await target.sent("GET", path, headers={"Accept": "text/html"}) for path in PAGES]
    return any(mark in str(answer).lower() for answer in answers for mark in MARKS)


async def form(target: Target) -> bool:
    """Runs what a page of another site can send from its visitor's browser."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await target.sent("POST", data={"query": "query cop { __typename }"}, headers=kind)
    return "__typename" in data_of(answer)


async def tracing(target: Target) -> bool:
    """Tells how long each field took."""
    answer = await target.run("query cop { __typename }")
    return "tracing" in json.dumps(answer)


async def traceback(target: Target) -> bool:
    """Tells its insides with an error."""
    text = json.dumps([await target.run("qwerty cop { abc }"), await target.run("query cop { me { id } }")])
    return any(mark in text for mark in ("exception", "stacktrace", "Traceback", 'File \\"'))


Check = Callable[[Target], Awaitable[bool]]
CHECKS: Final[tuple[Check, ...]] = (
    aliases,
    batch,
    circles,
    directives,
    repetition,
    suggestions,
    introspection,
    get_query,
    get_mutation,
    page,
    form,
    tracing,
    traceback,
)
every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


# ---- ours --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["production", "development"])
async def served(
    request: pytest.FixtureRequest,
    migrated_stores: MigratedStores,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[str, httpx2.AsyncClient, str]]:
    """The kind of installation, its client, and a token."""
    with migrated_stores.lend("sqlite", tmp_path_factory.mktemp("cop")) as url:
        async with running(url, options=ApiOptions(development=request.param == "development")) as api:
            yield request.param, api.http, await api.register("user")


@every_check
@pytest.mark.parametrize("signed_in", [False, True], ids=["anonymous", "signed_in"])
async def test_ours(served: tuple[str, httpx2.AsyncClient, str], check: Check, signed_in: bool) -> None:
    """Nothing is found in production, with a login or without; in development only what is there on purpose."""
    kind, http, token = served
    target = Target(http, {"Authorization": f"Bearer {token}"} if signed_in else {})
    assert data_of(await target.run("query cop { __typename }")) == {"__typename": "Query"}, "it is alive"
    on_purpose = (introspection, page) if kind == "development" else ()
    assert await check(target) == (check in on_purpose)


# ---- the open one ------------------------------------------------------------------------------------------------


@strawberry.type
class Query:
    @strawberry.field
    def me(self) -> str:
        return "anybody"


@strawberry.type
class Mutation:
    @strawberry.mutation
    def change(self) -> str:
        return "done"


OPEN: Final = strawberry.Schema(Query, Mutation)._schema
RULES: Final = [rule for rule in specified_rules if rule.__name__ != "MaxIntrospectionDepthRule"]


def ran(query: str) -> dict[str, Any]:
    """Everything is run, and everything is told."""
    try:
        document = parse(query)
        errors = validate(OPEN, document, RULES)
        result = None if errors else execute(OPEN, document)
    except GraphQLError as error:
        return {"errors": [{"message": error.message, "extensions": {"exception": repr(error)}}]}
    if errors or result is None:
        return {"errors": [{"message": error.message} for error in errors]}
    return {"data": result.data, "extensions": {"tracing": {"duration": 1}}}  # type: ignore[union-attr]  # no promise


async def answered(request: Request) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse("<title>GraphiQL</title>")
    if request.method == "GET":
        return JSONResponse(ran(request.query_params["query"]))
    body = await request.body()
    if "urlencoded" in request.headers["content-type"]:
        return JSONResponse(ran(parse_qs(body.decode())["query"][0]))
    given = json.loads(body)
    operations = given if isinstance(given, list) else [given]
    answers = [ran(operation["query"]) for operation in operations]
    return JSONResponse(answers if isinstance(given, list) else answers[0])


@every_check
async def test_open_server(check: Check) -> None:
    """Each check finds something in a server that is open."""
    app = Starlette(routes=[Route("/graphql", answered, methods=["GET", "POST"])])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://open") as http:
        assert await check(Target(http, {}))
