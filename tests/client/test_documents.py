"""Every operation that the client sends, against the schema that is checked in."""

from __future__ import annotations

import graphql
import pytest

from taskmill.client import documents
from tests.support import ROOT

SCHEMA = graphql.build_schema((ROOT / "docs/reference/schema.graphql").read_text(encoding="utf-8"))
DOCUMENTS = {name: text for name, text in vars(documents).items() if name.isupper() and name[0] != "_"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_valid(name: str) -> None:
    """The schema has all that it asks for; it has one operation, of one root field."""
    document = graphql.parse(DOCUMENTS[name])
    assert graphql.validate(SCHEMA, document) == []
    [operation] = document.definitions
    assert isinstance(operation, graphql.OperationDefinitionNode)
    assert len(operation.selection_set.selections) == 1


def test_every_root_field_is_reached() -> None:
    """Each query, mutation and subscription of the schema has its document."""
    roots = (SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type)
    fields = {name for root in roots if root is not None for name in root.fields}
    reached = set()
    for text in DOCUMENTS.values():
        [operation] = graphql.parse(text).definitions
        assert isinstance(operation, graphql.OperationDefinitionNode)
        [field] = operation.selection_set.selections
        assert isinstance(field, graphql.FieldNode)
        reached.add(field.name.value)
    assert fields - reached == set()
