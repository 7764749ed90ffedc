"""Settings of a remote worker: the URL and the key of an API."""

from __future__ import annotations

import pytest

from taskmill.errors import ConfigError
from tests.settings.kit import load, refusal

API_KEY = "tm_12345678_" + "a" * 43


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://tasks.example.com", "https://tasks.example.com"),
        (" http://localhost:3000/graphql ", "http://localhost:3000"),
        ("https://example.com/tasks/graphql/", "https://example.com/tasks"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
    ],
)
def test_the_url_of_an_api(given: str, url: str) -> None:
    """With or without /graphql, below a path too."""
    assert load(TASKMILL_API_URL=given).api_url == url


@pytest.mark.parametrize(
    "given",
    [
        "tasks.example.com",
        "ftp://h",
        "http://",
        "http://u:p@h",
        "http://h?a=1",
        "http://h#f",
        "http://h:0",
        "http://a b",
    ],
)
def test_what_is_no_url_of_an_api(given: str) -> None:
    """Refused, with what is expected."""
    assert refusal(TASKMILL_API_URL=given).startswith("TASKMILL_API_URL: expected http://")


def test_a_worker_is_remote_when_only_an_api_is_named() -> None:
    """DATABASE_URL wins: with a database a worker needs no detour."""
    assert load(TASKMILL_API_URL="http://h").remote
    assert not load(TASKMILL_API_URL="http://h", DATABASE_URL="mysql://u:p@h/d").remote
    assert not load().remote


def test_the_options_of_a_remote_worker() -> None:
    """Both are needed, the key is never shown."""
    settings = load(
        TASKMILL_API_URL="http://h", TASKMILL_API_KEY=API_KEY, TASKMILL_QUEUES="a,b", QUEUE_CONCURRENCY="7"
    )
    options = settings.remote_options()
    assert (options.url, options.key, options.queues, options.slots) == ("http://h", API_KEY, ("a", "b"), 7)
    assert API_KEY not in repr(settings) + repr(options)
    with pytest.raises(ConfigError, match="TASKMILL_API_KEY: expected"):
        load(TASKMILL_API_URL="http://h").remote_options()
    with pytest.raises(ConfigError, match="TASKMILL_API_URL: expected"):
        load(TASKMILL_API_KEY=API_KEY).remote_options()
    assert API_KEY[:-1] not in refusal(TASKMILL_API_KEY=API_KEY[:-1] + " ")
