"""What comes in, what goes out, and what did not go well."""

from __future__ import annotations

from deploy.grafana.source.board import JOB, TYPE, Board, Row
from deploy.grafana.source.panels import Query, lines, number
from deploy.grafana.source.promql import (
    ALL,
    COMPLETED,
    CREATED,
    FAILED,
    ended,
    per_second,
    ratio,
    within_range,
)

PRIORITIES = {"CRITICAL": "red", "HIGH": "orange", "NORMAL": "blue", "LOW": "#8e8e8e"}


BOARD = Board(
    "rates",
    "Task processing rates",
    "What comes in, what goes out, and what did not go well.",
    [
        Row(
            "In the time that is shown",
            4,
            [
                (
                    4,
                    number(
                        "Created", "Tasks accepted.", "locale", within_range(CREATED), decimals=0, spark=False
                    ),
                ),
                (
                    4,
                    number(
                        "Completed",
                        "Tasks that ended well.",
                        "locale",
                        within_range(COMPLETED),
                        steps=((None, "green"),),
                        decimals=0,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Failed",
                        "Tasks that failed for good: the dead letters. taskmill tasks list --status FAILED shows them.",
                        "locale",
                        within_range(FAILED),
                        steps=((None, "green"), (1, "red")),
                        decimals=0,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Retries",
                        "Runs that failed and were tried again. Many of them with few failures: a flaky dependency.",
                        "locale",
                        within_range("task_retries_total"),
                        steps=((None, "green"), (1, "orange")),
                        decimals=0,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Rescues",
                        "Runs taken from a worker whose lease ran out: it died, hung, or lost the database. 0 is normal.",
                        "locale",
                        within_range("task_rescues_total"),
                        steps=((None, "green"), (1, "orange")),
                        decimals=0,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Schedule fires",
                        "Times at which schedules fired.",
                        "locale",
                        within_range("schedule_fires_total"),
                        decimals=0,
                        spark=False,
                    ),
                ),
            ],
        ),
        Row(
            "In and out",
            10,
            [
                (
                    14,
                    lines(
                        "Tasks per second",
                        "Created above ended for long means that the queues grow; completed above created, that a backlog is worked off.",
                        "suffix:tasks/s",
                        Query(per_second(CREATED), "created"),
                        Query(per_second(COMPLETED), "completed"),
                        Query(per_second(FAILED), "failed"),
                        colors={"created": "blue", "completed": "green", "failed": "red"},
                        calcs=("lastNotNull", "mean", "max"),
                    ),
                ),
                (
                    10,
                    lines(
                        "Net growth",
                        "Created less ended. Around 0 is balance; above it for long, add workers before the wait is noticed. "
                        "Cancelled tasks and those scheduled for later count as growth.",
                        "suffix:tasks/s",
                        Query(
                            f"{per_second(CREATED)} - {per_second(COMPLETED)} - {per_second(FAILED)}",
                            "growth",
                        ),
                        signed=True,
                        steps=((None, "green"), (0, "transparent")),
                        calcs=("lastNotNull", "mean", "max"),
                        colors={"growth": "purple"},
                    ),
                ),
            ],
        ),
        Row(
            "By priority and type",
            9,
            [
                (
                    8,
                    lines(
                        "Created by priority",
                        "Higher ones go first. When most are CRITICAL, nothing is.",
                        "suffix:tasks/s",
                        Query(per_second(CREATED, by="priority"), "{{priority}}"),
                        stacked=True,
                        colors=PRIORITIES,
                    ),
                ),
                (
                    8,
                    lines(
                        "Runs by type",
                        'Runs that ended, retries among them, by the task\'s type. "other": more than 100 types; "none": tasks without one.',
                        "suffix:runs/s",
                        Query(
                            per_second(
                                "task_duration_seconds_count", by="type", where=f'{ALL}, type=~"$type"'
                            ),
                            "{{type}}",
                        ),
                        stacked=True,
                    ),
                ),
                (
                    8,
                    lines(
                        "Share of ended tasks that failed",
                        "Above 10 % for minutes an alert fires: a type whose handler is broken, or a service that it needs is away.",
                        "percentunit",
                        Query(ratio(per_second(FAILED), ended()), "failed"),
                        colors={"failed": "red"},
                        usually=0.12,
                        steps=((None, "green"), (0.1, "red")),
                    ),
                ),
            ],
        ),
        Row(
            "What did not go well",
            8,
            [
                (
                    8,
                    lines(
                        "Retries and rescues",
                        "A retry is a run that raised; a rescue is a run whose worker went silent. Rescues without a deploy or an "
                        "outage: workers that are killed (memory?) or starved of CPU.",
                        "suffix:runs/s",
                        Query(per_second("task_retries_total"), "retries"),
                        Query(per_second("task_rescues_total"), "rescues"),
                        colors={"retries": "orange", "rescues": "red"},
                        usually=1,
                    ),
                ),
                (
                    8,
                    lines(
                        "Stale writes refused, by verb",
                        "A worker wrote for a run that was not its own any more: fencing kept the record right. Some renewals are normal: they "
                        "cross the end of their own run. settle goes with rescues.",
                        "suffix:writes/s",
                        Query(per_second("stale_writes_total", by="verb"), "{{verb}}"),
                        usually=1,
                    ),
                ),
                (
                    8,
                    lines(
                        "Calls refused by a rate limit",
                        "By limit (docs/howto/limits.md). One caller in a loop, or a limit that is too low for what callers need.",
                        "suffix:calls/s",
                        Query(per_second("rate_limited_total", by="limit"), "{{limit}}"),
                        usually=1,
                    ),
                ),
            ],
        ),
        Row(
            "Schedules and the record",
            8,
            [
                (
                    12,
                    lines(
                        "Schedule fires by outcome",
                        "SUBMITTED and RUN_NOW made a task, WAITING makes one when the one before has ended. MISSED, OVERLAPPED and REFUSED made none: "
                        "the schedule's history says which times they were.",
                        "suffix:fires/min",
                        Query(f"{per_second('schedule_fires_total', by='outcome')} * 60", "{{outcome}}"),
                    ),
                ),
                (
                    12,
                    lines(
                        "Rows written, by verb",
                        "One row for each task and step. Many rows and few batches is what batching is for; see the time of a batch in "
                        "Task duration percentiles.",
                        "wps",
                        Query(per_second("verb_rows_total", by="verb"), "{{verb}}"),
                    ),
                ),
            ],
        ),
    ],
    (JOB, TYPE),
)
