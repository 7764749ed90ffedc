"""What each worker does, how full it is, and what goes wrong in it."""

from __future__ import annotations

from deploy.grafana.source.board import INSTANCE, JOB, Board, Row
from deploy.grafana.source.panels import Column, Query, lines, number, rows
from deploy.grafana.source.promql import ALL, EACH, mean, per_second, ratio, smooth, total, within_range

RUN = "task_duration_seconds"
ACTIVE, SLOTS = f"tasks_active{{{EACH}}}", f"worker_slots{{{EACH}}}"
FULL = ((None, "green"), (0.9, "yellow"))

BOARD = Board(
    "workers",
    "Worker performance",
    "What each worker does, how full it is, and what goes wrong in it.",
    [
        Row(
            "Now",
            5,
            [
                (
                    4,
                    number(
                        "Live workers",
                        "Workers heard of within TASKMILL_WORKER_TTL, remote ones too.",
                        "short",
                        f"max(workers_live{{{ALL}}})",
                        steps=((None, "red"), (1, "green")),
                        decimals=0,
                    ),
                ),
                (4, number("Running", "Tasks that run at this moment.", "short", total(ACTIVE), decimals=0)),
                (
                    4,
                    number(
                        "Slots in use",
                        "Of all slots. The rest is room for a burst.",
                        "percentunit",
                        ratio(smooth("tasks_active", where=EACH), total(SLOTS)),
                        steps=FULL,
                        decimals=0,
                    ),
                ),
                (
                    4,
                    number(
                        "Runs per second",
                        "Runs that ended, well or not.",
                        "suffix:runs/s",
                        per_second(f"{RUN}_count", where=EACH),
                    ),
                ),
                (
                    4,
                    number(
                        "Rescues",
                        "Runs taken from workers whose lease ran out, in the time that is shown.",
                        "short",
                        within_range("task_rescues_total"),
                        steps=((None, "green"), (1, "orange")),
                        decimals=0,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Log lines dropped",
                        "Lines of handlers that were dropped because SQL was too slow, in the time that is shown.",
                        "short",
                        within_range("logs_dropped_total", EACH),
                        steps=((None, "green"), (1, "red")),
                        decimals=0,
                        spark=False,
                    ),
                ),
            ],
        ),
        Row(
            "Load",
            9,
            [
                (
                    8,
                    lines(
                        "Running by worker",
                        "Workers of equal size should look alike. One that stays at 0 serves other queues or does not claim; one that is always "
                        "full while others idle has the only queue with work.",
                        "short",
                        Query(
                            f"{smooth('tasks_active', 'instance', EACH)} and {total(SLOTS, 'instance')}",
                            "{{instance}}",
                        ),
                        stacked=True,
                        calcs=("lastNotNull", "mean", "max"),
                    ),
                ),
                (
                    8,
                    lines(
                        "Slots in use by worker",
                        "Tasks that run, over QUEUE_CONCURRENCY. At 100 % with work queued, more slots (waiting handlers) or more workers "
                        "(computing handlers) help.",
                        "percentunit",
                        Query(
                            ratio(smooth("tasks_active", "instance", EACH), total(SLOTS, "instance")),
                            "{{instance}}",
                        ),
                        steps=FULL,
                        calcs=("lastNotNull", "mean", "max"),
                        most=1,
                    ),
                ),
                (
                    8,
                    lines(
                        "Runs per second by worker",
                        "What each gets done. A worker that does less with as many slots in use has slower tasks or too little CPU.",
                        "suffix:runs/s",
                        Query(
                            f"{per_second(f'{RUN}_count', by='instance', where=EACH)} and {total(SLOTS, 'instance')}",
                            "{{instance}}",
                        ),
                        stacked=True,
                        calcs=("lastNotNull", "mean", "max"),
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
                    lines(
                        "Mean time of a run by worker",
                        "The same mix of tasks should take as long everywhere. One that is slower: its machine.",
                        "s",
                        Query(mean(RUN, by="instance", where=EACH), "{{instance}}"),
                    ),
                ),
                (
                    8,
                    lines(
                        "Mean wait before a claim, by worker",
                        "What the tasks that it claimed had waited: queueing, not the worker.",
                        "s",
                        Query(mean("task_wait_seconds", by="instance", where=EACH), "{{instance}}"),
                    ),
                ),
                (
                    8,
                    lines(
                        "CPU of the worker's own process",
                        "The supervisor: claims, leases, outcomes. Handlers run in runner processes and are not in it; near 1 core here, "
                        "start another worker rather than give it more slots.",
                        "suffix:cores",
                        Query(
                            f"{per_second('process_cpu_seconds_total', by='instance', where=EACH)} and {total(SLOTS, 'instance')}",
                            "{{instance}}",
                        ),
                        decimals=2,
                    ),
                ),
            ],
        ),
        Row(
            "Outcomes and trouble",
            8,
            [
                (
                    8,
                    lines(
                        "Retries and failures by worker",
                        "Only one worker has them: its machine, its network, or a deploy that reached it alone.",
                        "suffix:runs/s",
                        Query(
                            f"({per_second('task_retries_total', by='instance', where=EACH)}) and {total(SLOTS, 'instance')}",
                            "{{instance}} retried",
                        ),
                        Query(
                            f"({per_second('tasks_failed_total', by='instance', where=EACH)}) and {total(SLOTS, 'instance')}",
                            "{{instance}} failed",
                        ),
                    ),
                ),
                (
                    8,
                    lines(
                        "Stale writes refused, by worker",
                        "It wrote for a run that had been given to another: it was silent longer than TASKMILL_LEASE. A renewal that crosses the end of "
                        "its own run counts too.",
                        "suffix:writes/s",
                        Query(per_second("stale_writes_total", by="instance", where=EACH), "{{instance}}"),
                        usually=1,
                    ),
                ),
                (
                    8,
                    lines(
                        "Failed turns of service loops",
                        "By loop, of all processes. A few around an outage are normal: each is tried again, and its log says why it failed.",
                        "suffix:turns/min",
                        Query(f"{per_second('loop_failures_total', by='loop', where=EACH)} * 60", "{{loop}}"),
                        usually=1,
                    ),
                ),
            ],
        ),
        Row(
            "Workers",
            6,
            [
                (
                    24,
                    rows(
                        "Workers",
                        "Each worker that is scraped. Remote workers are seen where their own metrics are scraped.",
                        "instance",
                        "Worker",
                        Column(
                            total(ACTIVE, "instance") + f" and {total(SLOTS, 'instance')}",
                            "Running",
                            "short",
                            decimals=0,
                        ),
                        Column(total(SLOTS, "instance"), "Slots", "short", decimals=0),
                        Column(
                            per_second(f"{RUN}_count", by="instance", where=EACH, window="5m")
                            + f" and {total(SLOTS, 'instance')}",
                            "Runs per second",
                            "suffix:runs/s",
                            decimals=2,
                        ),
                        Column(mean(RUN, by="instance", where=EACH, window="5m"), "Mean run", "s"),
                        Column(
                            total(f"process_resident_memory_bytes{{{EACH}}}", "instance")
                            + f" and {total(SLOTS, 'instance')}",
                            "Memory",
                            "bytes",
                        ),
                        Column(
                            f"time() - max by (instance) (process_start_time_seconds{{{EACH}}}) and {total(SLOTS, 'instance')}",
                            "Up for",
                            "s",
                        ),
                        sort="Runs per second",
                    ),
                )
            ],
        ),
    ],
    (JOB, INSTANCE),
)
