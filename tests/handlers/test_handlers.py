"""What is registered, and the default handler."""

from __future__ import annotations

from typing import Any

import pytest

from taskmill.app import Context
from taskmill.handlers import app, record
from taskmill.handlers.options import HandlerOptions
from taskmill.model.jsontext import json_text
from taskmill.runner.load import load_app


def test_the_types_of_the_description_are_there() -> None:
    """Those that SEED.md names, ours, and a default for tasks without a type."""
    types = {"VIDEO_PROCESSING", "IMAGE_THUMBNAILS", "EMAIL_SENDING", "WEBHOOK"}
    assert {spec.type for spec in app.registry().handlers} == {*types, None}
    assert load_app("taskmill.handlers:app") is app


@pytest.mark.parametrize(
    "payload",
    [
        {"videoId": "abc123", "formats": ["720p", "1080p", "4K"]},
        {"recipients": ["user1@example.com", "user2@example.com"]},
        None,
        [1, "x"],
        "text",
    ],
    ids=str,
)
async def test_the_default_handler_records_and_returns(payload: Any, ctx: Context, port: Any) -> None:
    """The documents of SEED.md complete, with a line in their log."""
    result = await record.function(ctx, payload)
    assert result == payload
    assert json_text(result)
    assert [(level, message) for level, message, _ in port.lines] == [("INFO", "recorded")]


def test_options_without_a_worker_are_the_defaults() -> None:
    """A module of its own that uses these handlers works without the variable."""
    assert HandlerOptions.read({}) == HandlerOptions()
