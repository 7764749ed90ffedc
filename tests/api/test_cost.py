"""What documents cost, and that one which costs too much is refused before it runs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import strawberry
from graphql import (
    GraphQLObjectType,
    get_named_type,
    get_nullable_type,
    is_leaf_type,
    is_list_type,
    parse,
)

from deploy.check import seed
from taskmill.api.options import ApiOptions
from taskmill.api.schema import cost as cost_module
from taskmill.api.schema.bounds import too_much
from taskmill.api.schema.build import build_schema
from taskmill.api.schema.cost import Plan, plans
from taskmill.client import documents
from tests.api.kit import Api, running

SCHEMA = build_schema(introspection=False)._schema
MAXIMUM = ApiOptions().max_cost


def cost(document: str, **variables: Any) -> int:
    return next(iter(plans(SCHEMA, parse(document)).values())).cost(variables)


PAGES = "query($n: Int = 7) { tasks(limit: $n) { id logs(limit: $n) { id } } }"
CREATE = "mutation($i: [CreateTaskInput!]!) { createTasks(inputs: $i) { id title user { email } } }"

COSTS: list[tuple[str, dict[str, Any], int]] = [
    ("{ me { id email } }", {}, 3),
    ("{ __typename }", {}, 1),
    # a list: itself, and its selection once for each
    ("{ tasks(limit: 10) { id title } }", {}, 1 + 10 * 2),
    ("{ tasks { id title } }", {}, 1 + 20 * 2),
    ("{ tasks(limit: 10) { user { email } } }", {}, 1 + 10 * 2),
    # lists in lists
    ("{ tasks(limit: 10) { logs(limit: 5) { id message } } }", {}, 1 + 10 * (1 + 5 * 2)),
    ("{ tasks(limit: 100) { id logs { id } runs { id: attempt } } }", {}, 1 + 100 * (1 + 101 + 21)),
    # variables: given, defaults of the operation, defaults of the schema, null
    (PAGES, {"n": 3}, 1 + 3 * (1 + 1 + 3)),
    (PAGES, {}, 1 + 7 * (1 + 1 + 7)),
    ("query($n: Int) { tasks(limit: $n) { id } }", {}, 1 + 20),
    (PAGES, {"n": None}, 1 + 20 * (1 + 1 + 100)),
    # what the field will refuse counts as what it would take at most
    ("{ tasks(limit: -5) { id } }", {}, 1),
    ("{ tasks(limit: 1000000000) { id } }", {}, 101),
    (PAGES, {"n": 10**30}, 1 + 100 * (1 + 1 + 100)),
    (PAGES, {"n": "x"}, 1 + 1 * (1 + 1 + 1)),
    ("query($n: Int) { tasks(limit: $n) { id } }", {"n": 5.0}, 1 + 5),
    # lists that are given: an item each, and the selection once
    (CREATE, {"i": [{"title": "t"}] * 1000}, 1 + 1000 + 4),
    (CREATE, {"i": {"title": "a list of one"}}, 1 + 1 + 4),
    (CREATE, {}, 1 + 4),
    ('mutation { createTasks(inputs: [{title: "a"}, {title: "b"}]) { id } }', {}, 1 + 2 + 1),
    ('mutation { createTask(input: {title: "a", payload: [1, [2, 3], {a: [4]}]}) { id } }', {}, 2),
    # large texts weigh more, on each of their names
    ("{ tasks(limit: 100) { id payload result } }", {}, 1 + 100 * (1 + 15 + 15)),
    ("{ tasks(limit: 2) { a: payload b: payload description error } }", {}, 1 + 2 * (15 + 15 + 2 + 2)),
    ("{ tasks(limit: 2) { runs { error traceback } } }", {}, 1 + 2 * (1 + 20 * 4)),
    ("{ tasks(limit: 2) { logs(limit: 9) { message fields } } }", {}, 1 + 2 * (1 + 9 * 2)),
    ("{ schedules(limit: 3) { payload } }", {}, 1 + 3 * 15),
    # fragments count where they are spread
    ("{ me { ...f ...f } } fragment f on User { id email }", {}, 1 + 2 * 2),
    (
        "query($n: Int) { a: tasks(limit: $n) { ...f } } fragment f on Task { logs(limit: $n) { id } }",
        {"n": 4},
        1 + 4 * (1 + 4),
    ),
    ("{ tasks(limit: 2) { ... on Task { id } ... { title } } }", {}, 1 + 2 * 2),
]


@pytest.mark.parametrize(("document", "variables", "expected"), COSTS, ids=lambda value: str(value)[:40])
def test_cost(document: str, variables: dict[str, Any], expected: int) -> None:
    """A field costs 1, and what is inside of a list counts as often as its limit says."""
    assert cost(document, **variables) == expected


def test_specification() -> None:
    """The documents of the specification cost far less than the maximum."""
    documents = [text for name, text in vars(seed).items() if name.isupper() and "{" in str(text)]
    assert len(documents) == 10
    assert all(cost(document) * 10 < MAXIMUM for document in documents)


def test_client() -> None:
    """Every operation of the Python client passes, with whole pages."""
    sent = [
        text
        for name, text in vars(documents).items()
        if name[0].isupper() and isinstance(text, str) and "{" in text
    ]
    assert len(sent) > 20
    for text in sent:
        document = parse(text)
        assert too_much(document) is None, text
        [plan] = {id(plan): plan for plan in plans(SCHEMA, document).values()}.values()
        assert plan.cost({"limit": 100, "n": 100}) <= MAXIMUM, text


PAGE = (
    "id title type queue status priority attempts maxRetries progress scheduledAt createdAt updatedAt startedAt "
    "completedAt payload result"
)


def test_pages_of_payloads() -> None:
    """A whole page of tasks passes with their payloads and results; one answer does not hold several of them."""
    assert cost(f"{{ tasks(limit: 100) {{ {PAGE} }} }}") < MAXIMUM
    assert cost(f"{{ a: tasks(limit: 100) {{ {PAGE} }} b: tasks(limit: 100) {{ {PAGE} }} }}") > MAXIMUM
    assert cost("{ tasks(limit: 100) { a: payload b: payload c: payload d: payload } }") > MAXIMUM


def test_every_list_has_a_length() -> None:
    """A list of objects says how many it brings at most: by an argument, by what it is given, or by metadata."""
    untold = {
        f"{kind.name}.{name}"
        for kind in SCHEMA.type_map.values()
        if isinstance(kind, GraphQLObjectType) and not kind.name.startswith("__")
        for name, field in kind.fields.items()
        if is_list_type(get_nullable_type(field.type)) and not is_leaf_type(get_named_type(field.type))
        if not {"limit", "n"} & set(field.args)
        and not any(cost_module._lists(argument.type) for argument in field.args.values())
        and cost_module._metadata(field).get(cost_module.SIZE) is None
    }
    # Bounded by the claims of one worker: 100.
    assert untold <= {"Query.cancelSignals", "ClaimTasksPayload.tasks"}


def test_operations_of_a_document() -> None:
    """Each operation has its own cost, with its own defaults of variables."""
    document = (
        "query a($n: Int = 2) { tasks(limit: $n) { id } } query b($n: Int = 9) { tasks(limit: $n) { id } }"
    )
    found = plans(SCHEMA, parse(document))
    assert {name: plan.cost({}) for name, plan in found.items()} == {"a": 3, "b": 10}


def test_fragments_that_double() -> None:
    """Sixty fragments that double are 2^60 selections, and are counted without walking through them."""
    parts = [f"fragment f{i} on Query {{ ...f{i + 1} ...f{i + 1} }}" for i in range(60)]
    document = (
        f"query($n: Int) {{ ...f0 }} {' '.join(parts)} fragment f60 on Query {{ tasks(limit: $n) {{ id }} }}"
    )
    assert cost(document, n=5) == 2**60 * 6
    assert cost(document.replace("$n: Int", "$n: Int = 2"), n=None) == 2**60 * 21


@strawberry.type
class Item:
    id: int


@strawberry.type
class Page:
    items: list[Item] = strawberry.field(metadata={"size": 50})


@strawberry.input
class Lease:
    id: int


@strawberry.input
class Claim:
    max: int
    leases: list[Lease]


@strawberry.type
class Query:
    @strawberry.field(metadata={"cost": 20})
    def heavy(self) -> int:
        return 1

    @strawberry.field(metadata={"size": "input.max", "wait": 20})
    def claim(self, input: Claim) -> list[Item]:
        return []

    @strawberry.field
    def renew(self, input: Claim) -> list[Item]:
        return []

    @strawberry.field
    def page(self) -> Page:
        return Page(items=[])

    @strawberry.field
    def unknown(self) -> list[Item]:
        return []

    @strawberry.field
    def next(self, n: int) -> list[Item]:
        return []


SPECIAL = strawberry.Schema(Query)._schema


def special(document: str) -> Plan:
    return plans(SPECIAL, parse(document))[None]


class TestMetadata:
    """A field tells what is special about it."""

    def test_weight(self) -> None:
        """`cost`: its own weight."""
        assert special("{ heavy }").cost({}) == 20

    def test_size(self) -> None:
        """`size`: which argument tells the number, inside of an input too, or the number itself."""
        document = "query($c: Claim!) { claim(input: $c) { id } }"
        assert special(document).cost({"c": {"max": 7, "leases": []}}) == 1 + 7
        assert (
            special("query($m: Int!) { claim(input: {max: $m, leases: []}) { id } }").cost({"m": 3}) == 1 + 3
        )
        assert special("{ page { items { id } } }").cost({}) == 1 + 1 + 50
        assert special("{ next(n: 4) { id } }").cost({}) == 1 + 4

    def test_lists_inside_of_inputs(self) -> None:
        """A list inside of an input costs an item each."""
        document = "query($c: Claim!) { renew(input: $c) { id } }"
        assert special(document).cost({"c": {"max": 1, "leases": [{"id": 1}] * 9}}) == 1 + 9 + 1
        assert special("{ renew(input: {max: 1, leases: [{id: 1}, {id: 2}]}) { id } }").cost({}) == 1 + 2 + 1

    def test_unknown_size(self) -> None:
        """A list whose length nothing tells counts ten times."""
        assert special("{ unknown { id } }").cost({}) == 1 + 10

    def test_wait(self) -> None:
        """`wait`: seconds that the operation may take longer than others."""
        assert special("{ heavy claim(input: {max: 1, leases: []}) { id } }").wait == 20
        assert special("{ heavy }").wait == 0


class TestOverHttp:
    async def test_refused(self, api: Api) -> None:
        """The error says cost and maximum, and nothing ran."""
        code, message = await api.fails("{ tasks(limit: 100) { id logs { id } } }")
        assert code == "QUERY_TOO_COMPLEX"
        assert "costs 10,201" in message
        assert "at most 5,000" in message

    async def test_same_document_other_variables(self, api: Api) -> None:
        """The variables decide each time, though the document is known."""
        for _ in range(2):
            assert (await api.fails(PAGES, n=100))[0] == "QUERY_TOO_COMPLEX"
            assert await api.ok(PAGES, n=10) == {"tasks": []}

    async def test_thousand_tasks(self, api: Api) -> None:
        """A createTasks of 1,000 passes, whatever is selected of them; one more is refused for its own reason."""
        given = [{"title": "t"}] * 1000
        created = await api.ok(CREATE, i=given)
        assert len(created["createTasks"]) == 1000
        assert (await api.fails(CREATE, i=[*given, {"title": "t"}]))[0] == "BAD_USER_INPUT"

    async def test_number_beyond_display(self, api: Api) -> None:
        """A cost of many digits is told in a few."""
        document = "{ tasks(limit: 100) { logs(limit: 100) { id } runs(limit: 100) { attempt } } }"
        wide = " ".join(f"a{i}: {document[2:-2]}" for i in range(15))
        _, message = await api.fails(f"{{ {wide} }}")
        assert int(re.findall(r"costs ([\d,]+);", message)[0].replace(",", "")) == 15 * (1 + 100 * 202)
        _, message = await api.fails(
            f"{{ {wide.replace('id }', 'id message level createdAt fields level }')} }}"
        )
        assert "costs more than 1,000,000;" in message

    async def test_maximum_is_an_option(self, store_url: str) -> None:
        """The maximum is an option."""
        async with running(store_url, options=ApiOptions(development=True, max_cost=30)) as api:
            await api.register("user")
            assert "at most 30" in (await api.fails("{ tasks(limit: 10) { id title type } }"))[1]
            await api.ok("{ tasks(limit: 9) { id title type } }")

    async def test_over_socket(self, api: Api) -> None:
        """A WebSocket's operations cost the same."""
        async with api.socket() as socket:
            await socket.subscribe(PAGES, n=100)
            message = await socket.receive()
            assert message["type"] == "error"
            assert message["payload"][0]["extensions"]["code"] == "QUERY_TOO_COMPLEX"
