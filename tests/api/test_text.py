"""JSON without ambiguity: what `load_json` and `canonical` take, as properties."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmill.api.text import JsonError, canonical, load_json
from taskmill.errors import BadUserInput

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
objects = st.dictionaries(texts, values, max_size=5)


@given(values, st.booleans())
def test_any_value(value: Any, ascii_only: bool) -> None:
    """Whatever JSON a client writes is read as the value it stands for."""
    assert load_json(json.dumps(value, ensure_ascii=ascii_only)) == value
    assert load_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(objects)
def test_canonical(value: dict[str, Any]) -> None:
    """The canonical text has the same value, and one form whatever the order of keys."""
    text = canonical(value)
    assert load_json(text) == value
    assert canonical(dict(reversed(list(value.items())))) == text
    assert canonical(load_json(text)) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan], {"a": [math.inf]}])
def test_not_json(value: Any) -> None:
    """NaN and infinities are refused, however deep."""
    with pytest.raises(BadUserInput):
        canonical({"a": value})


@pytest.mark.parametrize("value", ["\ud800", object()])
def test_foreign_values(value: Any) -> None:
    """So is what JSON has no form for."""
    with pytest.raises(BadUserInput):
        canonical({"a": value})


@pytest.mark.parametrize("text", ['"\\ud83d\\ude00"', '"\\uD83D\\uDE00"', '"\\\\ud800"', '"😀"'])
def test_whole_surrogates(text: str) -> None:
    """A pair of surrogates is a character, and a backslash before it is a backslash."""
    assert load_json(text) in ("😀", "\\ud800")


@pytest.mark.parametrize("text", ['"\\ud83d"', '"\\uDE00"', '{"\\ud800":1}', '["\\ude00\\ud83d"]'])
def test_half_surrogates(text: str) -> None:
    """Half of one is refused, in keys too."""
    with pytest.raises(JsonError):
        load_json(text)


@pytest.mark.parametrize("text", ['{"a":1,"a":1}', '{"b":{"a":1,"\\u0061":2}}', '[{"":1,"":2}]'])
def test_keys_twice(text: str) -> None:
    """A key that is there twice is refused, also when it is written in two ways."""
    with pytest.raises(JsonError, match="twice"):
        load_json(text)


def test_deeper_than_the_stack() -> None:
    """A value too deep for any recursion is refused as one of 33 levels is: by its depth, and as the caller's."""
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(BadUserInput, match="deeper than 32 levels"):
        canonical(value)
    while value:
        value = value["a"]  # level by level: the interpreter frees what is deep by recursion
