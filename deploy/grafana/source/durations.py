"""How long things take: runs, waits, batches in SQL, operations of the API."""

from __future__ import annotations

from deploy.grafana.source.board import INSTANCE, JOB, TYPE, Board, Row
from deploy.grafana.source.panels import Column, Query, heat, lines, percentiles, rows
from deploy.grafana.source.promql import EACH, buckets, mean, per_second, percentile

RUN = "task_duration_seconds"
CHOSEN = f'{EACH}, type=~"$type"'


def _of_type(share: float) -> str:
    return percentile(share, RUN, by="type", where=CHOSEN, window="5m")


BOARD = Board(
    "durations",
    "Task duration percentiles",
    "How long things take: runs, waits, batches in SQL, operations of the API. Percentiles are estimated within the buckets of histograms.",
    [
        Row(
            "Runs",
            9,
            [
                (
                    12,
                    heat(
                        "Time in the handler",
                        "How many runs took how long: the darker, the more. Two bands are two kinds of work; a band that moves up is one that gets slower.",
                        "s",
                        buckets(RUN, CHOSEN),
                    ),
                ),
                (
                    12,
                    percentiles(
                        "Percentiles of the chosen types",
                        "p99 near a round value that never changes is the edge of a bucket or a timeout.",
                        RUN,
                        CHOSEN,
                        calcs=("lastNotNull", "mean", "max"),
                        logarithmic=True,
                    ),
                ),
            ],
        ),
        Row(
            "By type",
            9,
            [
                (
                    8,
                    lines(
                        "p95 by type",
                        "The type that got slower. On a logarithmic scale, so that short ones are seen too.",
                        "s",
                        Query(percentile(0.95, RUN, by="type", where=CHOSEN), "{{type}}"),
                        logarithmic=True,
                    ),
                ),
                (
                    8,
                    lines(
                        "Mean by type",
                        "For sums and for how many workers are needed: runs per second times the mean is the slots in use.",
                        "s",
                        Query(mean(RUN, by="type", where=CHOSEN), "{{type}}"),
                        logarithmic=True,
                    ),
                ),
                (
                    8,
                    lines(
                        "Slots in use by type",
                        "Seconds in the handler per second: how many runs of it there were at a time. It shows which type the workers are for.",
                        "short",
                        Query(per_second(f"{RUN}_sum", by="type", where=CHOSEN), "{{type}}"),
                        stacked=True,
                    ),
                ),
            ],
        ),
        Row(
            "Types of the last 5 minutes",
            8,
            [
                (
                    24,
                    rows(
                        "Types",
                        "Each type that ran, the busiest first.",
                        "type",
                        "Type",
                        Column(
                            per_second(f"{RUN}_count", by="type", where=CHOSEN, window="5m"),
                            "Runs per second",
                            "suffix:runs/s",
                            decimals=2,
                        ),
                        Column(mean(RUN, by="type", where=CHOSEN, window="5m"), "Mean", "s"),
                        Column(_of_type(0.5), "p50", "s"),
                        Column(_of_type(0.95), "p95", "s"),
                        Column(
                            _of_type(0.99), "p99", "s", steps=((None, "green"), (10, "yellow"), (60, "red"))
                        ),
                        Column(
                            per_second(f"{RUN}_sum", by="type", where=CHOSEN, window="5m"),
                            "Slots in use",
                            "short",
                            decimals=2,
                        ),
                        sort="Runs per second",
                    ),
                )
            ],
        ),
        Row(
            "Around the runs",
            9,
            [
                (
                    8,
                    percentiles(
                        "Wait from eligible to claimed",
                        "Milliseconds while slots are free; else what the queues make tasks wait.",
                        "task_wait_seconds",
                        EACH,
                        logarithmic=True,
                    ),
                ),
                (
                    8,
                    lines(
                        "A batch in SQL, p95 by verb",
                        "Submit, claim and settle are in the way of every task. All of them up: MySQL is slow (disk, CPU, locks). One of them up: look for its locks.",
                        "s",
                        Query(percentile(0.95, "verb_seconds", by="verb", where=EACH), "{{verb}}"),
                        logarithmic=True,
                    ),
                ),
                (
                    8,
                    lines(
                        "An API operation, p95 by operation",
                        'By the operation\'s root field. "other" is none or several of them.',
                        "s",
                        Query(
                            percentile(0.95, "api_request_seconds", by="operation", where=EACH),
                            "{{operation}}",
                        ),
                        logarithmic=True,
                    ),
                ),
            ],
        ),
    ],
    (JOB, INSTANCE, TYPE),
)
