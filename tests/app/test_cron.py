"""`@app.cron`: a schedule beside its handler."""

from __future__ import annotations

from typing import Any

import pytest

from taskmill import Context, Priority, Taskmill
from taskmill.errors import ConfigError
from taskmill.model.cron import CronSpec, Misfire, Overlap


def test_above_a_task() -> None:
    """It takes the type, queue and priority of the handler; decorators stack."""
    app = Taskmill()

    @app.cron(
        "0 9 * * MON", timezone="Europe/Berlin", payload={"region": "eu"}, title="Weekly", max_retries=0
    )
    @app.cron("0 1 * * *", name="nightly", payload={"region": "us", "a": 1}, priority="LOW", queue="night")
    @app.task("REPORT", queue="reports", priority="HIGH")
    async def report(ctx: Context, region: str, a: int = 0) -> None: ...

    nightly, weekly = app.crons
    assert weekly == CronSpec(
        name="REPORT",
        cron="0 9 * * MON",
        timezone="Europe/Berlin",
        type="REPORT",
        title="Weekly",
        payload='{"region":"eu"}',
        priority=Priority.HIGH,
        queue="reports",
        max_retries=0,
    )
    assert (nightly.name, nightly.title, nightly.payload) == ("nightly", "nightly", '{"a":1,"region":"us"}')
    assert (nightly.priority, nightly.queue) == (Priority.LOW, "night")
    assert app.handlers["REPORT"] is report


def test_alone() -> None:
    """It registers the function by its name."""
    app = Taskmill()

    @app.cron("*/5 * * * *", misfire="ALL", overlap="SKIP")
    def tidy_up(ctx: Context) -> None: ...

    assert app.registry().types == ("tidy_up",)
    [spec] = app.crons
    assert (spec.type, spec.payload, spec.misfire, spec.overlap) == (
        "tidy_up",
        "{}",
        Misfire.ALL,
        Overlap.SKIP,
    )


def test_a_handler_of_a_whole_payload() -> None:
    """Gets it whole."""
    app = Taskmill()

    @app.cron("0 0 1 1 *", payload={"a": {"b": 1}})
    def yearly(ctx: Context, payload: dict[str, Any]) -> None: ...

    assert app.crons[0].payload == '{"a":{"b":1}}'


@pytest.mark.parametrize(
    ("expression", "options", "text"),
    [
        ("0 9 * *", {}, "five fields are expected"),
        ("0 0 31 2 *", {}, "never fires"),
        ("0 9 * * *", {"timezone": "Berlin"}, "IANA"),
        ("0 9 * * *", {"misfire": "TWICE"}, "misfire='TWICE': SKIP, ONCE, ALL"),
        ("0 9 * * *", {"overlap": "no"}, "overlap='no': ALLOW"),
        ("0 9 * * *", {"name": "x" * 101}, "at most 100"),
        ("0 9 * * *", {"queue": "no queue"}, "queue 'no queue'"),
        ("0 9 * * *", {"max_retries": -1}, "max_retries=-1"),
        ("0 9 * * *", {"title": "x" * 256}, "title: at most 255"),
        ("0 9 * * *", {"payload": {"n": "1"}}, "n: Expected `int`"),
        ("0 9 * * *", {"payload": {}}, "missing a required argument: 'n'"),
        ("0 9 * * *", {"every": 5}, "every"),
    ],
)
def test_what_is_wrong_is_said_where_it_is_written(
    expression: str, options: dict[str, Any], text: str
) -> None:
    """With the name of the schedule."""

    def handler(ctx: Context, n: int) -> None: ...

    with pytest.raises(ConfigError, match=r"^cron '") as caught:
        Taskmill().cron(expression, **{"payload": {"n": 1}} | options)(handler)
    assert text in caught.value.message


def test_two_of_one_name() -> None:
    """The second one needs a name of its own."""
    app = Taskmill()

    @app.cron("0 1 * * *")
    @app.task
    def tick(ctx: Context) -> None: ...

    with pytest.raises(ConfigError, match="declared twice: give one of them a name="):
        app.cron("0 2 * * *")(tick)


def waits(ctx: Context, at: Later, n: int = 0) -> None: ...


APP = Taskmill()
APP.cron("0 1 * * *", payload={"at": {"hour": "one"}})(waits)


class Later:
    hour: int

    def __init__(self, hour: int) -> None:
        self.hour = hour


def test_a_payload_whose_types_come_later_is_checked_at_the_start() -> None:
    """A runner refuses the app; `taskmill schedules sync` too."""
    with pytest.raises(ConfigError, match="cannot be made from JSON"):
        APP.check()
    with pytest.raises(ConfigError, match="cannot be made from JSON"):
        _ = APP.crons
