"""CPU, memory and files of the processes; the database's pool, the index, the journal, the API."""

from __future__ import annotations

from deploy.grafana.source.board import INSTANCE, JOB, Board, Row
from deploy.grafana.source.panels import Query, lines, number
from deploy.grafana.source.promql import ALL, EACH, per_second, percentile, total

INDEX = {"1": ("Up", "green"), "0": ("Degraded", "orange")}
LAGS = ((None, "green"), (20, "yellow"), (60, "red"))

BOARD = Board(
    "resources",
    "System resources",
    "CPU, memory and files of the processes; the database's pool, the index, the journal, the API. What a machine, MySQL and Redis use, their own exporters tell.",
    [
        Row(
            "Now",
            4,
            [
                (
                    4,
                    number(
                        "Processes up",
                        "Of those that are scraped.",
                        "short",
                        f"sum(up{{{EACH}}})",
                        steps=((None, "red"), (1, "green")),
                        decimals=0,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Processes down",
                        "Scraped, and without an answer.",
                        "short",
                        f"sum(up{{{EACH}}} == bool 0)",
                        steps=((None, "green"), (1, "red")),
                        decimals=0,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Restarts",
                        "Of processes at the same address, in the time that is shown. Without a deploy: look for the reason in their logs.",
                        "short",
                        f"sum(changes(process_start_time_seconds{{{EACH}}}[$__range]))",
                        steps=((None, "green"), (1, "orange")),
                        decimals=0,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Schedulers that lead",
                        "One leads, the others wait. 0: due tasks, retries and schedules stand still; they are made up for later.",
                        "short",
                        f"sum(scheduler_leading{{{ALL}}})",
                        steps=((None, "red"), (1, "green"), (2, "orange")),
                        decimals=0,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Index",
                        "1 in every process: Redis takes part. Degraded: dispatch goes on from SQL.",
                        "short",
                        f"min(index_up{{{EACH}}})",
                        words=INDEX,
                        spark=False,
                    ),
                ),
                (
                    4,
                    number(
                        "Open subscriptions",
                        "Clients that listen to taskUpdated.",
                        "short",
                        total(f"feed_clients{{{EACH}}}"),
                        decimals=0,
                        spark=False,
                    ),
                ),
            ],
        ),
        Row(
            "Processes",
            9,
            [
                (
                    8,
                    lines(
                        "CPU",
                        "Cores, by process; runners of handlers are not in it. A Python process ends at 1: add an API, a worker, not cores.",
                        "suffix:cores",
                        Query(
                            per_second("process_cpu_seconds_total", by="job, instance", where=EACH),
                            "{{job}} {{instance}}",
                        ),
                        steps=((None, "green"), (0.9, "red")),
                        decimals=2,
                    ),
                ),
                (
                    8,
                    lines(
                        "Resident memory",
                        "It should level off. Compare with the container's limit: at the limit the process is killed, and its tasks are rescued.",
                        "bytes",
                        Query(f"process_resident_memory_bytes{{{EACH}}}", "{{job}} {{instance}}"),
                    ),
                ),
                (
                    8,
                    lines(
                        "Open files, share of the limit",
                        "Sockets count too: each client of the API, each connection to SQL. Near 100 % connections are refused; raise nofile.",
                        "percentunit",
                        Query(
                            f"process_open_fds{{{EACH}}} / process_max_fds{{{EACH}}}", "{{job}} {{instance}}"
                        ),
                        steps=((None, "green"), (0.8, "red")),
                    ),
                ),
            ],
        ),
        Row(
            "The database",
            9,
            [
                (
                    8,
                    lines(
                        "Connections in use, share of the pool",
                        "By pool, of the process that uses most. At 100 % work waits for a connection (beside): raise TASKMILL_POOL_SIZE, or add "
                        "a process when MySQL has room.",
                        "percentunit",
                        Query(
                            "max by (pool) (sum by (job, instance, pool) (database_connections{"
                            + EACH
                            + ', state="in_use"})'
                            f" / sum by (job, instance, pool) (database_connections{{{EACH}}}))",
                            "{{pool}}",
                        ),
                        steps=((None, "green"), (0.9, "red")),
                        most=1,
                    ),
                ),
                (
                    8,
                    lines(
                        "Wait for a connection, p95",
                        "Parts of a millisecond while there are free ones. Above 10 ms the pool is too small, or statements take too long.",
                        "s",
                        Query(percentile(0.95, "database_wait_seconds", by="pool", where=EACH), "{{pool}}"),
                        logarithmic=True,
                    ),
                ),
                (
                    8,
                    lines(
                        "Connections by state",
                        "Open ones (in use, idle) of all processes: MySQL's max_connections must be above the sum with the unopened ones.",
                        "short",
                        Query(total(f"database_connections{{{EACH}}}", "state"), "{{state}}"),
                        stacked=True,
                        colors={"in_use": "orange", "idle": "green", "unopened": "#8e8e8e"},
                    ),
                ),
            ],
        ),
        Row(
            "Index and journal",
            8,
            [
                (
                    8,
                    lines(
                        "Index: failed calls, repairs, refills",
                        "Failed calls: Redis was slow or away. Repairs: entries that were lost and put back. A refill: the index was empty or another one.",
                        "ops",
                        Query(per_second("index_errors_total", where=EACH), "failed calls"),
                        Query(per_second("index_repairs_total", where=EACH), "repairs"),
                        Query(per_second("index_refills_total", where=EACH), "refills"),
                        colors={"failed calls": "red", "repairs": "orange", "refills": "blue"},
                        usually=1,
                    ),
                ),
                (
                    8,
                    lines(
                        "Journal lag",
                        "Age of the oldest change that is not folded into the counts yet. Seconds are normal. While no scheduler leads it has no value.",
                        "s",
                        Query(f"max(journal_lag_seconds{{{ALL}}})", "age"),
                        steps=LAGS,
                    ),
                ),
                (
                    8,
                    lines(
                        "Journal rows not folded",
                        "It rises with the load and falls every second or so. Only rising: the scheduler cannot keep up.",
                        "short",
                        Query(f"max(journal_lag_rows{{{ALL}}})", "rows"),
                    ),
                ),
            ],
        ),
        Row(
            "The API",
            9,
            [
                (
                    8,
                    lines(
                        "Operations per second",
                        "By root field. A query that is asked far more often than all others is often a poll that a subscription would replace.",
                        "reqps",
                        Query(
                            per_second("api_requests_total", by="operation", where=EACH) + " > 0",
                            "{{operation}}",
                        ),
                        stacked=True,
                    ),
                ),
                (
                    8,
                    lines(
                        "By outcome",
                        "refused is the caller's fault, failed is ours.",
                        "reqps",
                        Query(per_second("api_requests_total", by="outcome", where=EACH), "{{outcome}}"),
                        colors={"ok": "green", "refused": "yellow", "failed": "red"},
                    ),
                ),
                (
                    8,
                    lines(
                        "Errors by code",
                        "docs/reference/errors.md says what each code means. INTERNAL is a bug: its request id is in the logs. UNAVAILABLE: SQL was away.",
                        "suffix:errors/s",
                        Query(per_second("api_errors_total", by="code", where=EACH) + " > 0", "{{code}}"),
                    ),
                ),
            ],
        ),
    ],
    (JOB, INSTANCE),
)
