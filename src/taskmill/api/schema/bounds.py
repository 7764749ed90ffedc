"""How large a document may be, whatever its fields mean: checked before it is validated, with one error.

Fragments count where they are spread. Each is measured once, however often that is: a document cannot make the
measuring itself expensive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
)

DEPTH: Final = 10
ALIASES: Final = 15
DIRECTIVES: Final = 5
SELECTIONS: Final = 100
"""In one pair of braces, with what its fragments bring."""
MUTATIONS: Final = 5
ENTRIES: Final = frozenset({"login", "register", "changePassword"})
"""Each of them tries a password: one a document, so that a limit on requests is one on tries."""
INTROSPECTION: Final = frozenset({"__schema", "__type"})
SHOWN_MOST: Final = 1_000_000
"""A number beyond it is not written out."""


@dataclass(slots=True)
class _Size:
    """Of a selection. `here` and `entries` are those of its own level, the others of all of it."""

    depth: int = 0
    aliases: int = 0
    directives: int = 0
    widest: int = 0
    here: int = 0
    entries: int = 0

    def add(self, other: _Size) -> None:
        self.depth = max(self.depth, other.depth)
        self.aliases += other.aliases
        self.directives += other.directives
        self.widest = max(self.widest, other.widest)
        self.here += other.here
        self.entries += other.entries


def too_much(document: DocumentNode) -> str | None:
    """What there is too much of, in a sentence; None when all is within the bounds."""
    measure = _Measure(
        {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    )
    whole, mutations, entries = _Size(), 0, 0
    for definition in document.definitions:
        whole.directives += _directives(definition)
        if isinstance(definition, FragmentDefinitionNode):
            measure.fragment(definition.name.value)  # spread or not
        if isinstance(definition, OperationDefinitionNode):
            size = measure.of(definition.selection_set)
            whole.add(size)
            entries += size.entries
            if definition.operation is OperationType.MUTATION:
                mutations = max(mutations, size.here)
    whole.widest = max([whole.widest, *(size.widest for size in measure.known.values())])
    found = [
        (whole.depth, DEPTH, f"is nested {whole.depth} levels deep", "levels"),
        (whole.aliases, ALIASES, f"has {_shown(whole.aliases)} aliases", "aliases"),
        (whole.directives, DIRECTIVES, f"has {_shown(whole.directives)} directives", "directives"),
        (whole.widest, SELECTIONS, f"has {_shown(whole.widest)} selections in one pair of braces", "selections"),
        (mutations, MUTATIONS, f"has {_shown(mutations)} mutations in one operation", "mutations"),
        (entries, 1, f"tries {_shown(entries)} passwords", "login, register or changePassword"),
    ]  # fmt: skip
    for number, most, what, noun in found:
        if number > most:
            return f"The document {what}; at most {most} {noun} {'is' if most == 1 else 'are'} taken."
    return None


def _shown(number: int) -> str:
    """Fragments that double at each level make numbers of hundreds of digits."""
    return str(number) if number <= SHOWN_MOST else f"more than {SHOWN_MOST:,}"


class _Measure:
    def __init__(self, fragments: dict[str, FragmentDefinitionNode]) -> None:
        self._fragments = fragments
        self.known: dict[str, _Size] = {}

    def of(self, selections: SelectionSetNode | None) -> _Size:
        total = _Size()
        for selection in selections.selections if selections is not None else ():
            if isinstance(selection, FragmentSpreadNode):
                size = self.fragment(selection.name.value)
            elif isinstance(selection, FieldNode):
                size = self._field(selection)
            else:
                size = self.of(selection.selection_set)  # type: ignore[attr-defined]  # an inline fragment
            total.add(size)
            total.directives += len(selection.directives or ())
        total.widest = max(total.widest, total.here)
        return total

    def _field(self, node: FieldNode) -> _Size:
        size = self.of(node.selection_set)
        size.depth += 1
        size.aliases += node.alias is not None
        size.here, size.entries = 1, int(node.name.value in ENTRIES)
        if node.name.value in INTROSPECTION:
            size.depth = 1  # deep by nature; graphql-core bounds how often it may come back to itself
        return size

    def fragment(self, name: str) -> _Size:
        if name not in self.known:
            self.known[name] = _Size()  # a circle is another rule's finding
            definition = self._fragments.get(name)
            self.known[name] = self.of(definition.selection_set if definition is not None else None)
        return self.known[name]


def _directives(definition: Any) -> int:
    """Of the definition itself and of its variables."""
    variables: Iterable[Any] = getattr(definition, "variable_definitions", None) or ()
    return len(definition.directives or ()) + sum(len(v.directives or ()) for v in variables)
