"""Who may do what: docs/reference/roles.md is what holds, for every operation and every role, over real HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

import pytest
import strawberry
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    get_named_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
)

from taskmill.api.identity import Role
from taskmill.api.schema.build import build_schema
from taskmill.api.schema.context import Info
from taskmill.api.schema.roles import ANYONE, PEOPLE, allow, allow_anyone, enforce, fields, open_to, roots
from tests.api.kit import Api
from tests.support import ROOT

PAGE: Final = ROOT / "docs" / "reference" / "roles.md"
COLUMNS: Final = ("nobody", "USER", "WORKER", "ADMIN")
SCHEMA: Final = build_schema(introspection=True)._schema
SAMPLES: Final = {
    "Int": "1",
    "Float": "0.5",
    "Boolean": "true",
    "JSON": "{}",
    "DateTime": '"2026-12-10T09:00:00Z"',
}


def table() -> dict[tuple[str, str], set[str]]:
    """(kind, operation) → the columns that say yes, from the page that is checked in."""
    rows = re.findall(r"^\| (query|mutation|subscription) `(\w+)` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    return {
        (kind, name): {column for column, cell in zip(COLUMNS, cells.split("|"), strict=True) if cell.strip()}
        for kind, name, cells in rows
    }


def sample(type_: Any) -> str:
    """A literal of the type, as small as can be."""
    if isinstance(type_, GraphQLNonNull):
        return sample(type_.of_type)
    if isinstance(type_, GraphQLList):
        return f"[{sample(type_.of_type)}]"
    if isinstance(type_, GraphQLInputObjectType):
        inner = [f"{n}: {sample(f.type)}" for n, f in type_.fields.items() if is_required_input_field(f)]
        return "{" + ", ".join(inner) + "}"
    if isinstance(type_, GraphQLEnumType):
        return next(iter(type_.values))
    return SAMPLES.get(type_.name, '"x"')


def document(kind: str, name: str, field: GraphQLField) -> str:
    """The operation with what it must be given (a subscription: with all, so that it ends at once)."""
    given = [
        f"{argument}: {sample(of.type)}"
        for argument, of in field.args.items()
        if is_required_argument(of) or kind == "subscription"
    ]
    arguments = f"({', '.join(given)})" if given else ""
    selection = "" if is_leaf_type(get_named_type(field.type)) else " { __typename }"
    return f"{kind} {{ {name}{arguments}{selection} }}"


def operations() -> Iterator[tuple[str, str, str]]:
    """Kind, name and document of all; what ends the login comes last."""
    found = [
        (root.name.lower(), name, document(root.name.lower(), name, field))
        for root in roots(SCHEMA)
        for name, field in root.fields.items()
    ]
    yield from sorted(found, key=lambda operation: operation[1] == "logoutEverywhere")


async def by_role(api: Api, kind: str, query: str, token: str) -> bool:
    """Whether the operation was refused for the role of who asked, or for the want of one."""
    if kind == "subscription":
        async with api.socket(token=token) as socket:
            await socket.subscribe(query)
            payload = (await socket.receive())["payload"]
            errors = payload if isinstance(payload, list) else payload.get("errors", ())
    else:
        errors = (await api.call(query, token=token)).get("errors", ())
    return any(
        (e["extensions"]["code"] == "FORBIDDEN" and " is for " in e["message"])
        or (e["extensions"]["code"] == "UNAUTHENTICATED" and e["message"].startswith("Log in first"))
        for e in errors
    )


async def key_of(api: Api, role: str) -> str:
    """An API key with this role, of an ADMIN."""
    admin = await api.enlist("boss", Role.ADMIN)
    create = f'mutation {{ createApiKey(input: {{name: "k", role: {role}}}) {{ key }} }}'
    return str((await api.ok(create, token=admin))["createApiKey"]["key"])


class TestTable:
    def test_complete(self) -> None:
        """Every operation is in the table, and nothing else is."""
        assert set(table()) == {(kind, name) for kind, name, _ in operations()}

    @pytest.mark.parametrize("column", COLUMNS)
    @pytest.mark.parametrize("how", ["login", "key"])
    async def test_holds(self, api: Api, column: str, how: str) -> None:
        """Each operation is refused to those that the table refuses it to, and to no others."""
        token = ""
        if column != "nobody":
            token = await (api.enlist("asker", Role[column]) if how == "login" else key_of(api, column))
        refused = {
            (kind, name) for kind, name, query in operations() if await by_role(api, kind, query, token)
        }
        assert refused == {operation for operation, columns in table().items() if column not in columns}

    def test_roles_of_the_specification(self) -> None:
        """A WORKER has the protocol of workers and its own account, and nothing of tasks; an ADMIN has everything."""
        worker = {name for (_, name), columns in table().items() if "WORKER" in columns}
        user = {name for (_, name), columns in table().items() if "USER" in columns}
        account = {
            "register", "login", "me", "changePassword", "logoutEverywhere",
            "createApiKey", "apiKeys", "revokeApiKey",
        }  # fmt: skip
        assert worker & user == account
        assert all("ADMIN" in columns for columns in table().values())
        nobody = {name for (_, name), columns in table().items() if "nobody" in columns}
        assert nobody == {"register", "login"}


def test_every_field_says() -> None:
    """No field of any type is without a word about roles: it would be for no one."""
    assert [f"{parent.name}.{name}" for parent, name, _, allowed in fields(SCHEMA) if not allowed] == []


# -- a schema of its own, for what the real one has no case of ---------------------------------------------


@open_to(*PEOPLE)
@strawberry.type
class Secret:
    plain: str = "plain"
    narrow: str = strawberry.field(default="narrow", metadata=allow(Role.ADMIN))

    @strawberry.field
    def computed(self) -> str:
        return "computed"

    @strawberry.field
    def inner(self) -> Secret:
        return Secret()


@open_to(Role.ADMIN)
@strawberry.type
class Narrow:
    word: str = "word"


@strawberry.type
class Silent:
    word: str = "word"


@open_to(*Role)
@strawberry.type
class Common:
    word: str = "word"


@strawberry.type
class Query:
    @strawberry.field(metadata=allow(*Role))
    def either(self) -> list[Annotated[Common | Narrow, strawberry.union("Either")]]:
        return [Common(), Narrow()]

    @strawberry.field(metadata=allow(*PEOPLE))
    def secret(self) -> Secret:
        return Secret()

    @strawberry.field(metadata=allow(*Role))
    def wide(self, info: Info) -> Secret | None:
        return Secret()

    @strawberry.field(metadata=allow_anyone())
    def silent(self) -> Silent | None:
        return Silent()

    @strawberry.field
    def forgotten(self) -> str | None:
        return "forgotten"


class Asker:
    """As much of a context as the checks use."""

    socket = None

    def __init__(self) -> None:
        self.asked: list[str] = []

    def admit(self, name: str, roles: frozenset[Role | None]) -> None:
        self.asked.append(name)


async def asked(query: str) -> list[str]:
    """The fields at which a check ran."""
    schema = strawberry.Schema(Query)
    enforce(schema._schema)
    asker = Asker()
    result = await schema.execute(query, context_value=asker)
    assert result.errors is None
    return asker.asked


@pytest.mark.parametrize(
    ("query", "checks"),
    [
        ("{ secret { plain computed } }", ["secret", "plain", "computed"]),
        ("{ secret { narrow } }", ["secret", "narrow"]),
        ("{ wide { plain } }", ["wide", "plain"]),
        ("{ silent { word } }", ["word"]),
        ("{ forgotten }", ["forgotten"]),
        ("{ either { ... on Common { word } } }", ["either"]),
        ("{ either { ... on Narrow { word } } }", ["either", "word"]),
    ],
)
async def test_where_checks_run(query: str, checks: list[str]) -> None:
    """A field is checked when its roles are not those of all who reach it; one that says nothing always is."""
    assert await asked(query) == checks


def test_nothing_extra() -> None:
    """The fields of a type that only its own roles reach are not checked again: the real tasks are such."""
    checked = {
        (parent.name, name) for parent, name, field, _ in fields(SCHEMA) if "checked" in repr(field.resolve)
    }
    assert ("Query", "tasks") in checked
    assert [name for parent, name in checked if parent == "Task"] == []


def test_anyone() -> None:
    """Anyone is every role, and those who have none."""
    assert frozenset((*Role, None)) == ANYONE
