"""What a document costs: a number for each operation, known before anything runs.

A field costs its weight (metadata `cost`; when it says nothing TEXT for a JSON value, else 1) and what is selected
inside of it. Inside of a field that brings many, the selection counts once for each: as often as its argument `limit`
says (`SIZES`), whether that is a literal, a variable, a variable's default or the schema's own. Lists in lists multiply.
A list that is given, such as `inputs` of createTasks, costs 1 an item and does not multiply what is selected of the
answer.

    metadata={"cost": 5}             this field weighs 5
    metadata={"size": "input.max"}   the argument that says how many there will be; or a number, when none does

The document is compiled once into a `Plan`; a request evaluates only what depends on its variables. A fragment is
compiled once and evaluated once, however often it is spread, so measuring a document is as cheap as reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    Undefined,
    ValueNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    is_leaf_type,
    is_list_type,
)
from graphql.utilities import value_from_ast_untyped

from taskmill.api.schema.roles import DEFINITION

COST: Final = "cost"
SIZE: Final = "size"
WAIT: Final = "wait"
"""Metadata of a root field that may take longer than others: seconds on top of the limit."""
SIZES: Final = ("limit", "n")
"""Arguments that say how many a field brings, when it does not name another."""
UNSIZED: Final = 10
"""What a list counts that nothing tells the length of."""
PAGE_MOST: Final = 100
"""More than a page is not counted: the field refuses it."""
TEXT: Final = 15
"""What a JSON value costs: a payload or result may have 256 KiB, 16 KiB for each point of it. Pages of them are bounded to
some 80 MiB by this, and a whole page of usual tasks with both still passes."""

Variables = Mapping[str, Any]
Size = Callable[[Variables], int]


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """What a selection costs: `fixed`, and each part as often as its size says. Fragments make it a graph and no tree:
    whoever walks it looks at each once, which is why two of them are never compared."""

    fixed: int
    parts: tuple[tuple[Size | int, Sum], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One operation: what it costs, and how many seconds it may wait for more than others."""

    total: Sum
    wait: float

    def cost(self, variables: Variables | None) -> int:
        """With these variables, which need not be valid: those that are not are refused elsewhere."""
        return _evaluated(self.total, variables or {}, {})


def _evaluated(of: Sum, variables: Variables, known: dict[int, int]) -> int:
    found = known.get(id(of))
    if found is None:
        found = of.fixed
        for size, inner in of.parts:
            times = size if isinstance(size, int) else size(variables)
            found += times * _evaluated(inner, variables, known)
        known[id(of)] = found
    return found


def plans(schema: GraphQLSchema, document: DocumentNode) -> dict[str | None, Plan]:
    """A plan for each operation of a document that was found valid, by name. A document's only operation is under
    None too."""
    operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    found: dict[str | None, Plan] = {}
    for operation in operations:
        found[operation.name.value if operation.name else None] = _Compiler(
            schema, operation, fragments
        ).plan()
    if len(operations) == 1:
        found[None] = next(iter(found.values()))
    return found


class _Compiler:
    """One operation: the defaults of its variables are its own."""

    def __init__(
        self,
        schema: GraphQLSchema,
        operation: OperationDefinitionNode,
        fragments: Mapping[str, FragmentDefinitionNode],
    ) -> None:
        self._schema = schema
        self._operation = operation
        self._fragments = fragments
        self._known: dict[str, Sum] = {}
        self._wait = 0.0
        self._defaults = {
            definition.variable.name.value: value_from_ast_untyped(definition.default_value)
            for definition in operation.variable_definitions or ()
            if definition.default_value is not None
        }

    def plan(self) -> Plan:
        root = self._schema.get_root_type(self._operation.operation)
        return Plan(self._selected(root, self._operation.selection_set), self._wait)

    def _selected(self, parent: Any, selections: SelectionSetNode | None) -> Sum:
        fixed = 0
        parts: list[tuple[Size | int, Sum]] = []
        for selection in selections.selections if selections is not None else ():
            if isinstance(selection, FieldNode):
                inner = self._field(parent, selection)
            elif isinstance(selection, FragmentSpreadNode):
                inner = self._fragment(selection.name.value)
            else:
                assert isinstance(selection, InlineFragmentNode)
                on = selection.type_condition
                inner = self._selected(
                    self._schema.get_type(on.name.value) if on else parent, selection.selection_set
                )
            if isinstance(selection, FragmentSpreadNode) and inner.parts:
                # As it is, and evaluated once: its parts are not copied to each place where it is spread.
                parts.append((1, inner))
            else:
                fixed += inner.fixed
                parts += inner.parts
        return Sum(fixed, tuple(parts))

    def _fragment(self, name: str) -> Sum:
        if name not in self._known:
            fragment = self._fragments[name]
            self._known[name] = self._selected(
                self._schema.get_type(fragment.type_condition.name.value), fragment.selection_set
            )
        return self._known[name]

    def _field(self, parent: Any, node: FieldNode) -> Sum:
        fields = parent.fields if isinstance(parent, GraphQLObjectType | GraphQLInterfaceType) else {}
        field = fields.get(node.name.value)
        if field is None:
            return Sum(1)  # __typename, and introspection, which the schema itself bounds
        told = _metadata(field)
        self._wait = max(self._wait, float(told.get(WAIT, 0)))
        weight = int(told.get(COST, TEXT if get_named_type(field.type).name == "JSON" else 1))
        parts: list[tuple[Size | int, Sum]] = []
        given = {argument.name.value: argument.value for argument in node.arguments or ()}
        for name, argument in field.args.items():
            if name in given and _lists(argument.type):
                parts.append((self._items(given[name], argument.type), Sum(1)))
        inner = self._selected(get_named_type(field.type), node.selection_set)
        if not inner.fixed and not inner.parts:
            return _folded(weight, parts)
        return _folded(weight, [*parts, (self._size(field, told.get(SIZE), given), inner)])

    # ---- how many ---------------------------------------------------------------------------------------------

    def _size(
        self, field: GraphQLField, told: str | int | None, given: Mapping[str, ValueNode]
    ) -> Size | int:
        """How often what is inside of the field counts."""
        if isinstance(told, int):
            return told
        name = told or next((name for name in SIZES if name in field.args), None)
        if name is None:
            many = is_list_type(get_nullable_type(field.type))
            return UNSIZED if many and not any(_lists(a.type) for a in field.args.values()) else 1
        name, *path = name.split(".")
        default = field.args[name].default_value
        value = self._value(given[name]) if name in given else (lambda variables: default)

        def size(variables: Variables) -> int:
            found = value(variables)
            for key in path:
                found = found.get(key) if isinstance(found, dict) else None
            # A null, or a variable that is not given: the schema's own.
            return _number(default if found is None and not path else found)

        literal = name not in given or not _has_variables(given[name])
        return size({}) if literal else size

    def _items(self, node: ValueNode, kind: Any) -> Size | int:
        value = self._value(node)
        if _has_variables(node):
            return lambda variables: _count(value(variables), kind)
        return _count(value({}), kind)

    def _value(self, node: ValueNode) -> Callable[[Variables], Any]:
        """What the caller gave, as it is: nothing of it is checked here."""
        if isinstance(node, VariableNode):
            name = node.name.value
            default = self._defaults.get(name)
            return lambda variables: variables.get(name, default)
        return lambda variables: value_from_ast_untyped(node, {**self._defaults, **variables})


def _folded(fixed: int, parts: list[tuple[Size | int, Sum]]) -> Sum:
    """What depends on no variable, as a number."""
    left = []
    for size, inner in parts:
        if isinstance(size, int) and not inner.parts:
            fixed += size * inner.fixed
        else:
            left.append((size, inner))
    return Sum(fixed, tuple(left))


def _metadata(field: GraphQLField) -> Mapping[str, Any]:
    definition = field.extensions.get(DEFINITION)
    return getattr(definition, "metadata", None) or {}


def _has_variables(node: ValueNode) -> bool:
    if isinstance(node, ListValueNode):
        return any(_has_variables(value) for value in node.values)
    if isinstance(node, ObjectValueNode):
        return any(_has_variables(field.value) for field in node.fields)
    return isinstance(node, VariableNode)


def _number(value: Any) -> int:
    """Of a page: at least nothing, at most a whole one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return max(0, min(value, PAGE_MOST))
    return 1


def _lists(kind: Any, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a value of this type holds lists whose items count. What is in a scalar (JSON) is one value."""
    kind = get_nullable_type(kind)
    if is_list_type(kind):
        return True
    if not isinstance(kind, GraphQLInputObjectType) or kind.name in seen:
        return False
    return any(_lists(field.type, seen | {kind.name}) for field in kind.fields.values())


def _count(value: Any, kind: Any) -> int:
    """Items of the lists in a value that was given."""
    kind = get_nullable_type(kind)
    if value is None or value is Undefined or is_leaf_type(kind):
        return 0
    if is_list_type(kind):
        items = value if isinstance(value, list) else [value]
        inner = get_nullable_type(kind.of_type)
        return len(items) + (sum(_count(item, inner) for item in items) if _lists(inner) else 0)
    if not isinstance(value, dict):
        return 0
    return sum(
        _count(value.get(name), field.type) for name, field in kind.fields.items() if _lists(field.type)
    )
