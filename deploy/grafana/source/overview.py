"""The first look: is work done, does anything wait too long, is anything broken."""

from __future__ import annotations

from deploy.grafana.source.board import ALERTS, Board, Row
from deploy.grafana.source.panels import Query, lines, number, percentiles
from deploy.grafana.source.promql import (
    ALL,
    COMPLETED,
    CREATED,
    FAILED,
    ended,
    measured,
    oldest,
    per_second,
    percentile,
    ratio,
    smooth,
    total,
)
from deploy.grafana.source.queues import AGES
from deploy.grafana.source.resources import INDEX, LAGS
from deploy.grafana.source.workers import FULL

CALLS = per_second("api_requests_total")
FAILED_CALLS = f'{ALL}, outcome="failed"'
PROMPT = f'{ALL}, operation!~"claimTasks|cancelSignals"'
"""Those two wait for tasks, by design."""
QUEUED = measured("queue_size", "queue, priority")

NOW = (
    number(
        "Created",
        "Tasks that were accepted, per second. A fall to 0 during working hours: callers cannot reach the API, or have stopped.",
        "suffix:tasks/s",
        per_second(CREATED),
        to="taskmill-rates",
    ),
    number(
        "Completed",
        "Tasks that ended well, per second. Over some minutes it should be what is created; less, and the queues grow.",
        "suffix:tasks/s",
        per_second(COMPLETED),
        to="taskmill-rates",
    ),
    number(
        "Failed",
        "Share of the ended tasks that failed for good: no attempt was left, or none was wanted. Look at the errors of "
        "the tasks: taskmill tasks list --status FAILED.",
        "percentunit",
        ratio(per_second(FAILED), ended()),
        steps=((None, "green"), (0.02, "yellow"), (0.1, "red")),
        decimals=1,
        to="taskmill-rates",
    ),
    number(
        "Queued",
        "Tasks that could run now and wait for a worker. It may be large in a burst; what counts is how old the oldest is.",
        "locale",
        total(QUEUED),
        decimals=0,
        to="taskmill-queues",
    ),
    number(
        "Oldest queued",
        "How long the task that has waited longest has waited, over all queues. Minutes: too few workers, or no worker "
        "serves that queue.",
        "s",
        f"max({oldest()})",
        steps=AGES,
        decimals=0,
        to="taskmill-queues",
    ),
    number(
        "Live workers",
        "Workers that were heard of within TASKMILL_WORKER_TTL. 0: nothing runs, all waits.",
        "short",
        f"max(workers_live{{{ALL}}})",
        steps=((None, "red"), (1, "green")),
        decimals=0,
        to="taskmill-workers",
    ),
    number(
        "Slots in use",
        "Share of the workers' slots (QUEUE_CONCURRENCY) that run a task. Near 100 % with a growing queue: add workers. "
        "Near 100 % alone is a well used worker.",
        "percentunit",
        ratio(smooth("tasks_active"), total(f"worker_slots{{{ALL}}}")),
        steps=FULL,
        decimals=0,
        to="taskmill-workers",
    ),
    number(
        "Alerts",
        "Alerts of Taskmill's rules that fire now. They are drawn into every chart as red regions; Prometheus lists them at /alerts.",
        "short",
        f"count({ALERTS}) or vector(0)",
        steps=((None, "green"), (1, "red")),
        decimals=0,
    ),
    number(
        "Index",
        "Whether Redis takes part in dispatch in every process. Degraded: all goes on, from SQL, and starts of tasks take up to 2 s.",
        "short",
        f"min(index_up{{{ALL}}})",
        words=INDEX,
        spark=False,
        to="taskmill-resources",
    ),
    number(
        "Journal lag",
        "Age of the oldest change that is not folded into the counts yet: taskStats stays exact, and gets slower. Seconds are "
        "normal; minutes: SQL is too slow for the scheduler.",
        "s",
        f"max(journal_lag_seconds{{{ALL}}})",
        steps=LAGS,
        decimals=0,
        to="taskmill-resources",
    ),
    number(
        "API p95",
        "95 of 100 operations were answered within this time.",
        "s",
        percentile(0.95, "api_request_seconds", where=PROMPT),
        steps=((None, "green"), (0.2, "yellow"), (1, "red")),
        to="taskmill-durations",
    ),
    number(
        "API failed",
        "Share of the API's operations that failed by our fault: outcome failed. What callers did wrong (refused) is not in it.",
        "percentunit",
        ratio(per_second("api_requests_total", where=FAILED_CALLS), CALLS),
        steps=((None, "green"), (0.001, "yellow"), (0.01, "red")),
        decimals=1,
        to="taskmill-resources",
    ),
)

BOARD = Board(
    "overview",
    "Taskmill overview",
    "Is work done, does anything wait too long, is anything broken? Each number leads to the dashboard that tells more.",
    [
        Row("Now", 5, [(4, panel) for panel in NOW]),
        Row(
            "Work",
            10,
            [
                (
                    12,
                    lines(
                        "Tasks per second",
                        "Created and completed should lie on each other but for bursts. Created above completed for long: "
                        "the queues grow. Retries are runs that failed and will be tried again.",
                        "suffix:tasks/s",
                        Query(per_second(CREATED), "created"),
                        Query(per_second(COMPLETED), "completed"),
                        Query(per_second(FAILED), "failed"),
                        Query(per_second("task_retries_total"), "retried"),
                        colors={
                            "created": "blue",
                            "completed": "green",
                            "failed": "red",
                            "retried": "orange",
                        },
                    ),
                ),
                (
                    12,
                    lines(
                        "Queued tasks by queue",
                        "What waits for a worker. A queue that only grows has no worker, or too few: see which it is, and "
                        "whether a worker serves it (TASKMILL_QUEUES).",
                        "short",
                        Query(total(QUEUED, "queue"), "{{queue}}"),
                        stacked=True,
                    ),
                ),
            ],
        ),
        Row(
            "Time",
            8,
            [
                (
                    8,
                    percentiles(
                        "Time in the handler",
                        "Of all types together: the mix of types moves it. By type: Task duration percentiles.",
                        "task_duration_seconds",
                    ),
                ),
                (
                    8,
                    percentiles(
                        "Time from eligible to claimed",
                        "What a task waits for a free worker. It rises before anything else does when workers are too few.",
                        "task_wait_seconds",
                    ),
                ),
                (
                    8,
                    percentiles(
                        "API: time of an operation",
                        "From the document to its result; subscriptions, and what waits for tasks, left out. High with a low database time "
                        "(System resources): the API lacks CPU, so add one.",
                        "api_request_seconds",
                        PROMPT,
                    ),
                ),
            ],
        ),
        Row(
            "Processes",
            7,
            [
                (
                    8,
                    number(
                        "Processes that answer",
                        "Of those of each job that are scraped. Less than all: one ended, hangs, or cannot be reached; a worker's tasks are "
                        "rescued when their lease runs out. Which one it is: System resources.",
                        "percentunit",
                        f"avg by (job) (up{{{ALL}}})",
                        steps=((None, "red"), (0.5, "orange"), (1, "green")),
                        legend="{{job}}",
                        decimals=0,
                        spark=False,
                        to="taskmill-resources",
                    ),
                ),
                (
                    8,
                    lines(
                        "CPU by job",
                        "Cores in use. A Python process has one core: a line at 1 per process is the end of it. Runner processes "
                        "of handlers are not in it.",
                        "suffix:cores",
                        Query(per_second("process_cpu_seconds_total", by="job"), "{{job}}"),
                        decimals=2,
                    ),
                ),
                (
                    8,
                    lines(
                        "Memory by job",
                        "Resident memory. It should level off; a line that rises for hours is a leak. Runner processes are not in it.",
                        "bytes",
                        Query(total(f"process_resident_memory_bytes{{{ALL}}}", "job"), "{{job}}"),
                    ),
                ),
            ],
        ),
    ],
)
