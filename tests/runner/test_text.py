"""Text of users is bounded and cannot move a reader's cursor."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmill.model.task import LOG_FIELDS_LIMIT, LOG_MESSAGE_LIMIT
from taskmill.runner.text import clean, cut, log_fields, log_message


@given(st.text(st.characters(codec=None)))
def test_clean_text_has_no_control_characters(text: str) -> None:
    """But tab and newline; it can be encoded, and cleaning it again changes nothing."""
    cleaned = clean(text)
    assert all(char.isprintable() or char in "\t\n" or ord(char) > 0x9F for char in cleaned)
    cleaned.encode()
    assert clean(cleaned) == cleaned


@given(st.text(max_size=300), st.integers(20, 200))
def test_cut_keeps_start_and_end(text: str, limit: int) -> None:
    """Within the bound."""
    short = cut(text, limit)
    assert len(short) <= limit
    assert short == text or (short[: limit // 4] == text[: limit // 4] and short[-5:] == text[-5:])


def test_a_log_message_is_bounded_after_it_is_escaped() -> None:
    """Escapes are longer than what they stand for."""
    assert len(log_message("\x1b" * 10_000)) <= LOG_MESSAGE_LIMIT
    assert log_message("a\tb\nc") == "a\tb\nc"


class Odd:
    def __str__(self) -> str:
        raise ValueError


loop: dict[str, Any] = {}
loop["self"] = loop


@pytest.mark.parametrize(
    "fields",
    [
        {"a": 1},
        {"a": object()},
        {"a": Odd()},
        {"a": float("nan")},
        {"a": loop},
        {"a": "x" * 100_000},
        {"a": b"\xff"},
    ],
    ids=["plain", "object", "odd", "nan", "circle", "long", "bytes"],
)
def test_fields_are_always_bounded_json(fields: dict[str, Any]) -> None:
    """Whatever a handler logs."""
    text = log_fields(fields)
    assert text is not None
    assert len(text) <= LOG_FIELDS_LIMIT
    assert isinstance(json.loads(text), dict)
    assert "NaN" not in text or '"' in text


def test_no_fields_are_none() -> None:
    """Nothing is stored for them."""
    assert log_fields({}) is None
