"""Prometheus and Alertmanager: their own checks of our files, and that rules, tests, runbook and code fit each other."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import yaml

from deploy.check.command import attempt, run
from deploy.check.metrics import RULES, Rule, all_rules, environment, known, recorded_names, unanswerable
from deploy.check.processes import free_port, started, tail, wait
from deploy.check.stage import Broken, Check, Plant, expect_none
from deploy.check.tools import tool

PROMETHEUS: Final = "deploy/prometheus"
CONFIGS: Final = ("prometheus.yml", "kubernetes.yml")
ALERTS: Final = f"{RULES}/alerts.yml"
RECORDING: Final = f"{RULES}/recording.yml"
ALERTMANAGER: Final = "deploy/alertmanager/alertmanager.yml"
RUNBOOK: Final = "docs/howto/monitoring.md"
SEVERITIES: Final = {"critical", "warning"}
WAITING: Final = re.compile(r'operation!~"(?P<names>[\w|]+)"')
"""In a rule: the operations whose time says nothing, because they wait for tasks."""
_WAITING: Final = """
import json
from taskmill.api.schema.build import build_schema
from taskmill.api.schema.cost import WAIT
from taskmill.api.schema.roles import DEFINITION
schema = build_schema(introspection=True)._schema
roots = (schema.query_type, schema.mutation_type)
fields = {name: field.extensions[DEFINITION].metadata for root in roots for name, field in root.fields.items()}
print(json.dumps([name for name, metadata in fields.items() if WAIT in metadata]))
"""


def files(root: Path) -> None:
    """What the programs say that will read them."""
    promtool, folder = str(tool("promtool")), root / PROMETHEUS
    for name in CONFIGS:
        run([promtool, "check", "config", "--lint=all", "--lint-fatal", str(folder / name)])
    run([str(tool("amtool")), "check-config", str(root / ALERTMANAGER)])
    severities = [
        str(tool("amtool")), "config", "routes", "test", f"--config.file={root / ALERTMANAGER}"
    ]  # fmt: skip
    for severity in sorted(SEVERITIES):
        run([*severities, "--verify.receivers=webhook", f"severity={severity}"])


def tests(root: Path) -> None:
    """promtool's tests of the rules; and that they try each alert both ways, and each recorded series."""
    folder = root / PROMETHEUS / "tests"
    found = sorted(folder.glob("*.yml"))
    run([str(tool("promtool")), "test", "rules", *map(str, found)])
    fires: set[str] = set()
    silent: set[str] = set()
    for file in found:
        for test in _read(file)["tests"]:
            for case in test.get("alert_rule_test", []):
                (fires if case["exp_alerts"] else silent).add(case["alertname"])
    names = {rule["alert"] for rule in _alerts(root)}
    expect_none(
        f"{PROMETHEUS}/tests: no test in which {name} {what}"
        for what, tried in (("fires", fires), ("does not fire", silent))
        for name in sorted(names - tried)
    )


def rules(root: Path) -> None:
    """Every metric and label that a rule names is there; every alert says what a reader of it needs."""
    metrics, recorded = known(root), recorded_names(root)
    sections = _sections(root)
    expect_none(
        f"{rule.get('alert') or rule.get('record')}: {complaint}"
        for rule in all_rules(root)
        for complaint in (*unanswerable(rule["expr"], metrics, recorded), *_unsaid(rule, sections))
    )
    alerts = {rule["alert"].lower() for rule in _alerts(root)}
    gone = {s for s in sections if s.startswith("taskmill")} - alerts
    expect_none(f"{RUNBOOK}: the section {section} is about no alert" for section in sorted(gone))


def _unsaid(rule: Rule, sections: set[str]) -> Iterator[str]:
    if "alert" not in rule:
        return
    said = rule["annotations"]
    if missing := {"summary", "description", "runbook"} - said.keys():
        yield f"it has no {', '.join(sorted(missing))}"
    if rule.get("labels", {}).get("severity") not in SEVERITIES:
        yield f"its severity is none of {', '.join(sorted(SEVERITIES))}"
    section = rule["alert"].lower()
    if said.get("runbook") != f"{RUNBOOK}#{section}":
        yield f"its runbook is not {RUNBOOK}#{section}"
    if section not in sections:
        yield f"{RUNBOOK} has no section of that name"


def waiting(root: Path) -> None:
    """The operations that wait for tasks are left out of the API's time, and no other is."""
    found = set(json.loads(run([sys.executable, "-c", _WAITING], env=environment(root))))
    for file in (RECORDING, ALERTS):
        matches = list(WAITING.finditer((root / file).read_text(encoding="utf-8")))
        if not matches:
            raise Broken(f"{file}: no operation is left out, {sorted(found)} wait for tasks")
        for match in matches:
            if (left_out := set(match["names"].split("|"))) != found:
                raise Broken(f"{file}: {sorted(left_out)} are left out, {sorted(found)} wait for tasks")


def metrics(root: Path) -> None:
    """What a running Taskmill really says at /metrics: as Prometheus takes it, and as its conventions want it."""
    with _running(root) as url:
        _used(url)
        said = httpx2.get(f"{url}/metrics", trust_env=False, timeout=10)
    if not said.headers["Content-Type"].startswith("text/plain; version=0.0.4"):
        raise Broken(f"/metrics: Prometheus 3 does not take the Content-Type {said.headers['Content-Type']}")
    missing = sorted(name for name in USED if not re.search(rf"^{name}[{{ ]", said.text, re.MULTILINE))
    if missing:
        raise Broken(f"/metrics: nothing of {', '.join(missing)}, though it was used")
    bounds = set(re.findall(r'\ble="[^"]+"', (root / ALERTS).read_text(encoding="utf-8")))
    if missing := sorted(bound for bound in bounds if bound not in said.text):
        raise Broken(f"{ALERTS}: no histogram has a bucket {', '.join(missing)}")
    promtool = [str(tool("promtool")), "check", "metrics"]
    done = attempt(promtool, "promtool check metrics", given=said.text, timeout=60)
    if done.returncode or done.stdout:
        raise Broken(f"promtool check metrics: {done.stdout}")


USED: Final = (
    "api_errors_total",
    "api_request_seconds_bucket",
    "api_requests_total",
    "database_connections",
    "database_wait_seconds_bucket",
    "scheduler_leading",
    "task_duration_seconds_bucket",
    "task_wait_seconds_bucket",
    "taskmill_info",
    "tasks_completed_total",
    "verb_seconds_bucket",
    "worker_slots",
    "workers_live",
)
"""What is there once a task has run: of the API, the worker and the scheduler, which are one process here."""


@contextmanager
def _running(root: Path) -> Iterator[str]:
    """`taskmill up` of this tree: all processes in one, on SQLite."""
    with tempfile.TemporaryDirectory(prefix="taskmill-metrics-") as place:
        folder, port = Path(place), free_port()
        own = {"PORT": str(port), "TASKMILL_DATA": str(folder / "data"), "TASKMILL_LOG_LEVEL": "warning"}
        log = folder / "up.log"
        command = [sys.executable, "-m", "taskmill", "up"]
        with started(command, environment(root) | own, log) as process:
            url = f"http://127.0.0.1:{port}"
            wait(f"{url}/health", {"up": process}, folder)
            try:
                yield url
            except httpx2.HTTPError as error:
                raise Broken(f"{error}\n{tail(log)}") from None


def _used(url: str) -> None:
    """A user, a task that runs, and a call that is refused; then until the scheduler has measured."""
    with httpx2.Client(base_url=url, trust_env=False, timeout=10) as http:
        register = 'mutation { register(input: {email: "m@example.com", password: "securepassword", name: "M"}) { accessToken } }'
        answer = http.post("/graphql", json={"query": register}).json()
        http.headers["Authorization"] = f"Bearer {answer['data']['register']['accessToken']}"
        http.post("/graphql", json={"query": 'mutation { createTask(input: {title: "One"}) { id } }'})
        http.post("/graphql", json={"query": "{ nothing }"})
        until = time.monotonic() + 60
        while time.monotonic() < until:
            text = http.get("/metrics").text
            if "\ntasks_completed_total 1.0" in text and "\nworkers_live " in text:
                return
            time.sleep(0.2)
    raise Broken("a task was not completed and measured within a minute")


def _alerts(root: Path) -> list[Rule]:
    return [rule for rule in all_rules(root) if "alert" in rule]


def _sections(root: Path) -> set[str]:
    """The anchors of the runbook's headings."""
    text = (root / RUNBOOK).read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}


def _read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


PROBES: Final = "src/taskmill/runtime/probes.py"
CHECKS = (
    Check(
        "Prometheus: promtool and amtool read the files",
        files,
        (
            Plant(f"{PROMETHEUS}/prometheus.yml", "scrape_timeout: 10s", "scrape_timeout: 20s", "timeout"),
            Plant(
                f"{PROMETHEUS}/kubernetes.yml", "target_label: __address__", "target: __address__", "target"
            ),
            Plant(ALERTS, "expr: up{job=~", "expr: rate(up{job=~", "could not parse expression"),
            Plant(ALERTMANAGER, "receiver: webhook", "receiver: pager", "undefined receiver"),
            Plant(ALERTMANAGER, 'severity="critical"]', 'severity="critical"]\n      receiver: none', "none"),
        ),
    ),
    Check(
        "Prometheus: each alert fires in a test, and does not",
        tests,
        (
            Plant(
                ALERTS,
                "expr: taskmill:queue_oldest_seconds:max > 300",
                "expr: taskmill:queue_oldest_seconds:max > 3000",
                "TaskmillQueueAge",
            ),
            Plant(
                ALERTS,
                'max(journal_lag_seconds{job=~"taskmill-.+"}) > 60\n        for: 5m',
                'max(journal_lag_seconds{job=~"taskmill-.+"}) > 60\n        for: 1m',
                "TaskmillJournalLag",
            ),
            Plant(
                RECORDING,
                "expr: sum by (queue) (max by (queue, priority)",
                "expr: sum by (queue) (sum by (queue)",
                "queue_size:sum",
            ),
            Plant(
                f"{PROMETHEUS}/tests/parts.yml",
                "      - {eval_time: 4m, alertname: TaskmillDatabaseWait, exp_alerts: []}\n",
                "",
                "no test in which TaskmillDatabaseWait does not fire",
            ),
        ),
    ),
    Check(
        "Prometheus: rules name metrics and labels that are there, and lead to the runbook",
        rules,
        (
            Plant(ALERTS, "expr: index_up{", "expr: index_upp{", "there is no metric index_upp"),
            Plant(ALERTS, "journal_lag_seconds{job=~", "journal_lag_seconds{jobs=~", "no label jobs"),
            Plant(ALERTS, "sum by (job, instance, loop)", "sum by (job, instance, lop)", "by (lop)"),
            Plant(
                PROBES, '"index_up", "1 while', '"index_available", "1 while', "there is no metric index_up"
            ),
            Plant(RUNBOOK, "### TaskmillQueueAge", "### The age of queues", "has no section"),
            Plant(ALERTS, "monitoring.md#taskmillapislow", "monitoring.md#slow", "its runbook is not"),
            Plant(ALERTS, '          summary: "No scheduler leads"\n', "", "no summary"),
        ),
    ),
    Check(
        "Prometheus: what waits for tasks is left out of the API's time",
        waiting,
        (
            Plant(RECORDING, "claimTasks|cancelSignals", "claimTasks", "cancelSignals"),
            Plant(RECORDING, ', operation!~"claimTasks|cancelSignals"', "", "no operation is left out"),
            Plant(ALERTS, 'cancelSignals", le="1.0"', 'cancelSignal", le="1.0"', "cancelSignals"),
        ),
    ),
    Check(
        "Prometheus: promtool takes the /metrics of a running Taskmill",
        metrics,
        (
            Plant(PROBES, '"Time from becoming eligible to the claim."', '""', "task_wait_seconds"),
            Plant(PROBES, '"journal_lag_seconds", "Age', '"journal_lag_ms", "Age', "journal_lag_ms"),
            Plant(ALERTS, 'le="1.0"', 'le="1"', 'no histogram has a bucket le="1"'),
        ),
    ),
)
