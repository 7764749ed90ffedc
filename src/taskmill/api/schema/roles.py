"""Who may use what: every field of the schema says so. What says nothing is refused to all.

A root field says it itself: `strawberry.field(metadata=allow(Role.USER, Role.ADMIN))`. A type says it for all of its
fields: `@open_to(*SIGNED_IN)` above `@strawberry.type`; a field of it that is for fewer says so in its metadata.

`enforce` makes it so when the schema is built. A field is checked where it is reached by a role that it is not for: the
fields of a type that only those reach who may read it cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from graphql import (
    GraphQLField,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_abstract_type,
    is_object_type,
)

from taskmill.api.users import Role

if TYPE_CHECKING:
    from taskmill.api.schema.context import Context

ROLES: Final = "roles"
"""Where a field's metadata holds them."""
ANYONE: Final[frozenset[Role | None]] = frozenset((*Role, None))
"""Those who are not signed in too."""
SIGNED_IN: Final = (Role.ADMIN, Role.USER, Role.WORKER)
PEOPLE: Final = (Role.ADMIN, Role.USER)
"""Whoever works with tasks: all but a WORKER."""

DEFINITION: Final = "strawberry-definition"
"""Under which extension Strawberry keeps what a type or field was made of."""

Roles = frozenset[Role | None]
"""None stands for those who are not signed in."""

T = TypeVar("T", bound=type)


def allow(*roles: Role) -> Mapping[str, Any]:
    """The metadata of a field for these roles; ADMIN is not implied."""
    return {ROLES: frozenset(roles)}


def allow_anyone() -> Mapping[str, Any]:
    """The metadata of a field that needs no login."""
    return {ROLES: ANYONE}


def open_to(*roles: Role | None) -> Callable[[T], T]:
    """A class decorator: the fields of this type are for these roles, unless they say otherwise."""

    def mark(cls: T) -> T:
        cls.__taskmill_roles__ = frozenset(roles)  # type: ignore[attr-defined]  # read by roles.py when the schema is built
        return cls

    return mark


def roots(schema: GraphQLSchema) -> list[GraphQLObjectType]:
    """Query, mutation, subscription."""
    found = (schema.query_type, schema.mutation_type, schema.subscription_type)
    return [root for root in found if root is not None]


def declared(parent: GraphQLObjectType, field: GraphQLField, *, root: bool) -> Roles:
    """Whom a field is for, by what it or its type says; nobody when neither says anything."""
    definition = field.extensions.get(DEFINITION)
    own = definition.metadata.get(ROLES) if definition is not None else None
    if own is not None:
        return frozenset(own)
    type_ = parent.extensions.get(DEFINITION)
    if root or type_ is None:
        return frozenset()
    return frozenset(getattr(type_.origin, "__taskmill_roles__", ()))


def reached(schema: GraphQLSchema) -> dict[str, Roles]:
    """Type → the roles that can come to a value of it, through fields that are for them."""
    found: dict[str, Roles] = {root.name: ANYONE for root in roots(schema)}
    names = set(found)
    waiting = list(roots(schema))
    while waiting:
        parent = waiting.pop()
        for field in parent.fields.values():
            through = declared(parent, field, root=parent.name in names) & found[parent.name]
            for type_ in _objects(schema, get_named_type(field.type)):
                before = found.get(type_.name)
                if before is None or not through <= before:
                    found[type_.name] = through | (before or frozenset())
                    waiting.append(type_)
    return found


def _objects(schema: GraphQLSchema, type_: GraphQLNamedType) -> Iterator[GraphQLObjectType]:
    if isinstance(type_, GraphQLObjectType):
        yield type_
    elif is_abstract_type(type_):
        yield from schema.get_possible_types(type_)


def fields(schema: GraphQLSchema) -> Iterator[tuple[GraphQLObjectType, str, GraphQLField, Roles]]:
    """Every field of every output type but introspection's: its type, name, itself, and whom it is for."""
    names = {root.name for root in roots(schema)}
    for type_ in schema.type_map.values():
        if is_object_type(type_) and not type_.name.startswith("__"):
            for name, field in type_.fields.items():
                yield type_, name, field, declared(type_, field, root=type_.name in names)


def enforce(schema: GraphQLSchema) -> None:
    """Puts a check before each field that a role may reach and not use. Once for a schema."""
    comers = reached(schema)
    for parent, name, field, roles in fields(schema):
        if comers.get(parent.name, frozenset()) <= roles:
            continue
        if field.subscribe is not None:
            field.subscribe = _checked(field.subscribe, name, roles)
        elif field.resolve is not None:
            field.resolve = _checked(field.resolve, name, roles)
        else:
            raise AssertionError(f"{parent.name}.{name} has no resolver to put a check before")


def _checked(resolve: Callable[..., Any], name: str, roles: Roles) -> Callable[..., Any]:
    async def over_socket(context: Context, source: Any, info: Any, given: dict[str, Any]) -> Any:
        # A socket lives for hours: what its user may do can have changed since it was opened.
        await context.viewer_now()
        context.admit(name, roles)
        result = resolve(source, info, **given)
        return await result if isawaitable(result) else result

    def checked(source: Any, info: Any, **given: Any) -> Any:
        context: Context = info.context
        if context.socket is not None:
            return over_socket(context, source, info, given)
        context.admit(name, roles)
        return resolve(source, info, **given)

    return checked
