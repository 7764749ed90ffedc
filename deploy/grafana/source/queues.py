"""How much waits, where, for how long, and whether it grows."""

from __future__ import annotations

from deploy.grafana.source.board import JOB, QUEUE, Board, Row
from deploy.grafana.source.panels import Column, Query, bars, heat, lines, number, percentiles, rows
from deploy.grafana.source.promql import ALL, buckets, ended, measured, oldest, ratio, total
from deploy.grafana.source.rates import PRIORITIES

CHOSEN = f'{ALL}, queue=~"$queue"'
SIZE = measured("queue_size", "queue, priority", CHOSEN)
OLDEST = oldest(CHOSEN)
AGES = ((None, "green"), (60, "yellow"), (300, "red"))


def _sized(priority: str) -> str:
    return total(measured("queue_size", "queue", f'{CHOSEN}, priority="{priority}"'), "queue")


BOARD = Board(
    "queues",
    "Queue depth over time",
    "How much waits, where, for how long, and whether it grows. The leading scheduler measures every 15 s, for all processes.",
    [
        Row(
            "Now",
            5,
            [
                (
                    6,
                    number(
                        "Queued",
                        "Tasks of the chosen queues that could run now.",
                        "locale",
                        total(SIZE),
                        decimals=0,
                    ),
                ),
                (
                    6,
                    number(
                        "Oldest",
                        "The longest wait among them. The alert is for this, not for the depth: a deep queue that moves is fine.",
                        "s",
                        f"max({OLDEST})",
                        steps=AGES,
                        decimals=0,
                    ),
                ),
                (
                    6,
                    number(
                        "Time to work it off",
                        "Queued tasks over tasks that ended per second in the last 5 minutes, of all queues. It tells whether to wait or to add workers.",
                        "s",
                        ratio(total(measured("queue_size", "queue, priority")), ended("5m")),
                        steps=((None, "green"), (300, "yellow"), (1800, "red")),
                        decimals=0,
                    ),
                ),
                (
                    6,
                    number(
                        "Queues with work",
                        "Queues in which something waits.",
                        "locale",
                        f"sum({total(SIZE, 'queue')} > bool 0)",
                        decimals=0,
                    ),
                ),
            ],
        ),
        Row(
            "Depth",
            10,
            [
                (
                    12,
                    lines(
                        "Queued by queue",
                        "A saw-tooth is bursts that are worked off. A slope that does not end: too few workers for that queue, or none.",
                        "short",
                        Query(total(SIZE, "queue"), "{{queue}}"),
                        stacked=True,
                        calcs=("lastNotNull", "mean", "max"),
                    ),
                ),
                (
                    12,
                    lines(
                        "Queued by priority",
                        "Higher priorities go first: LOW that never shrinks while NORMAL moves is starved.",
                        "short",
                        Query(total(SIZE, "priority"), "{{priority}}"),
                        stacked=True,
                        colors=PRIORITIES,
                        calcs=("lastNotNull", "mean", "max"),
                    ),
                ),
            ],
        ),
        Row(
            "Age and growth",
            9,
            [
                (
                    8,
                    lines(
                        "Oldest task by queue",
                        "Yellow from a minute, red from five. A straight line upwards at 1 s per s: nobody takes anything from that queue.",
                        "s",
                        Query(OLDEST, "{{queue}}"),
                        steps=AGES,
                    ),
                ),
                (
                    8,
                    lines(
                        "Growth by queue",
                        "Tasks per minute by which a queue grew (above 0) or shrank in the last 5 minutes.",
                        "suffix:tasks/min",
                        Query(f"{total(f'deriv(queue_size{{{CHOSEN}}}[5m])', 'queue')} * 60", "{{queue}}"),
                        signed=True,
                    ),
                ),
                (
                    8,
                    percentiles(
                        "Wait from eligible to claimed",
                        "What tasks that were claimed had waited, of all queues. With p99 far above p50, some queue or priority waits for the others.",
                        "task_wait_seconds",
                    ),
                ),
            ],
        ),
        Row(
            "By queue",
            8,
            [
                (
                    6,
                    bars(
                        "Queued now",
                        "The same as above, side by side.",
                        "locale",
                        Query(total(SIZE, "queue"), "{{queue}}"),
                    ),
                ),
                (
                    10,
                    rows(
                        "Queues",
                        "Each queue that a worker serves or that holds tasks.",
                        "queue",
                        "Queue",
                        Column(total(SIZE, "queue"), "Queued", "locale", decimals=0),
                        Column(_sized("CRITICAL"), "Critical", "locale", decimals=0),
                        Column(OLDEST, "Oldest", "s", steps=AGES, decimals=0),
                        sort="Queued",
                    ),
                ),
                (
                    8,
                    heat(
                        "Waits",
                        "How many tasks were claimed after which wait: the darker, the more. A second band far up is a queue or a priority that starves.",
                        "s",
                        buckets("task_wait_seconds"),
                    ),
                ),
            ],
        ),
    ],
    (JOB, QUEUE),
)
