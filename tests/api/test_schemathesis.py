"""Schemathesis makes documents of the whole schema, for each kind of caller: none brings out a mistake of the server."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import httpx2
import pytest
import schemathesis
from graphql import (
    NameNode,
    ObjectFieldNode,
    ObjectValueNode,
    ValueNode,
    get_introspection_query,
    graphql_sync,
)
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.graphql import nodes

from taskmill.api.identity import Role
from taskmill.api.schema import work
from taskmill.api.schema.build import build_schema
from tests.api.kit import Api

MANY: Final = 10 if os.environ.get("TASKMILL_TEST_LARGE") == "1" else 1
EXAMPLES: Final = {GenerationMode.POSITIVE: 4 * MANY, GenerationMode.NEGATIVE: MANY}
"""Of each operation, right and wrong by its types."""
IDS: Final = tuple(f"<id {n}>" for n in range(8))
CALLERS: Final = ("nobody", "USER", "WORKER", "ADMIN", "key")
SCHEMA: Final = build_schema(introspection=True)._schema


@dataclass
class Heard:
    """What came back. `codes`: how often each ("": all went well); `wrong`: what should never come."""

    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def take(self, document: str, response: httpx2.Response) -> None:
        found = [error["extensions"]["code"] for error in response.json().get("errors", ())]
        self.codes.update(found or [""])
        if response.status_code not in (200, 400) or "INTERNAL" in found:
            self.wrong.append(f"{response.status_code} {found}: {document}")


def node(value: Any) -> ValueNode:
    """A JSON value as it stands in a document."""
    match value:
        case None:
            return nodes.Null
        case bool():
            return nodes.Boolean(value)
        case int():
            return nodes.Int(value)
        case float():
            return nodes.Float(value)
        case str():
            return nodes.String(value)
        case list():
            return nodes.List([node(inner) for inner in value])
    assert isinstance(value, dict)
    pairs = [ObjectFieldNode(name=NameNode(value=name), value=node(inner)) for name, inner in value.items()]
    return ObjectValueNode(fields=tuple(pairs))


NAMES: Final = st.from_regex(r"[_A-Za-z][_A-Za-z0-9]{0,9}", fullmatch=True)
LEAVES: Final = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES: Final = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
OBJECTS: Final = st.dictionaries(NAMES, VALUES, max_size=4)
WORDS: Final = (
    "default",
    "* * * * *",
    "UTC",
    "Europe/Berlin",
    "T",
    "a name",
    "someone@example.com",
    "another password",
    "debug",
)
NUMBERS: Final = st.integers(0, 5) | st.integers(-(2**31), 2**31 - 1)
TIMES: Final = st.datetimes().map(lambda at: f"{at.isoformat()}Z") | st.text(max_size=30)


@cache
def documents() -> list[str]:
    """Of every operation, the same ones in each run. What ends a login comes last. `{{id n}}` stands for an id."""
    schemathesis.graphql.scalar("JSON", (OBJECTS | VALUES).map(node))
    schemathesis.graphql.scalar("DateTime", TIMES.map(nodes.String))
    schemathesis.graphql.scalar("ID", (st.sampled_from(IDS) | st.text(max_size=40)).map(nodes.String))
    schemathesis.graphql.scalar("String", (st.sampled_from(WORDS) | st.text()).map(nodes.String))
    schemathesis.graphql.scalar("Int", NUMBERS.map(nodes.Int))
    told = graphql_sync(SCHEMA, get_introspection_query()).data
    found = schemathesis.graphql.from_dict(told or {}).get_all_operations()
    operations = [result.ok() for result in found if isinstance(result, Ok)]
    operations.sort(key=lambda operation: operation.label == "Mutation.logoutEverywhere")
    made: list[str] = []
    for operation in operations:
        for mode, examples in EXAMPLES.items():
            collect(operation.as_strategy(generation_mode=mode), examples, made)
    return made


def collect(strategy: st.SearchStrategy[Any], examples: int, into: list[str]) -> None:
    @seed(7)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def keep(case: Any) -> None:
        into.append(case.body)

    keep()


def send_all(base: str, token: str, ids: list[str]) -> Heard:
    """All documents, one after the other."""
    heard = Heard()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx2.Client(base_url=base, headers=headers, trust_env=False, timeout=20) as http:
        for document in documents():
            named = re.sub(r"<id (\d)>", lambda found: ids[int(found[1])], document)
            response = http.post("/graphql", json={"query": named})
            if response.status_code != 401 or "logoutEverywhere" not in document:  # it ended this login
                heard.take(named, response)
    return heard


@pytest.mark.timeout(60 * MANY)
@pytest.mark.parametrize("caller", CALLERS)
async def test_no_mistake(
    api: Api, caller: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No status of a server that failed, no INTERNAL, nothing in the log; and some of it goes well for each who may."""
    monkeypatch.setattr(work, "WAIT_MOST", 0.05)
    ids = [str(uuid.uuid4())]
    ids += [(await api.create(title=f"t{n}"))["id"] for n in range(5)]
    schedule = 'mutation { createSchedule(input: {name: "s", cron: "* * * * *", payload: {}}) { id } }'
    ids.append((await api.ok(schedule))["createSchedule"]["id"])
    victim = await api.register("victim")  # the ids of who asks are not among these: nobody locks itself out
    ids.append((await api.ok("{ me { id } }", token=victim))["me"]["id"])
    heard = await asyncio.to_thread(send_all, api.base, await token_of(api, caller), ids)
    output = capfd.readouterr()
    assert heard.wrong == []
    assert "Traceback" not in output.out + output.err
    assert "request.failed" not in output.out + output.err
    assert heard.codes["UNAUTHENTICATED"] < sum(heard.codes.values()) / 2 or caller == "nobody"
    assert heard.codes[""] >= 10 or caller == "nobody"


async def token_of(api: Api, caller: str) -> str:
    if caller in ("nobody", "USER"):
        return "" if caller == "nobody" else str(api.token)
    if caller == "key":
        create = 'mutation { createApiKey(input: {name: "k", role: USER}) { key } }'
        return str((await api.ok(create))["createApiKey"]["key"])
    return await api.enlist("asker", Role[caller])
