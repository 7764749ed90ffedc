"""Prometheus finds the pods by deploy/prometheus/kubernetes.yml, and gives them the names of jobs that rules and dashboards want."""

from __future__ import annotations

import re
import time
from pathlib import Path

import yaml

from deploy.check.cluster_node import Cluster
from deploy.check.stage import Broken
from deploy.check.tools import tool

CONFIGURATION = "deploy/prometheus/kubernetes.yml"
JOBS = {"taskmill-api": 2, "taskmill-worker": 2, "taskmill-scheduler": 2}
PROMETHEUS = "127.0.0.1:9090"
SECONDS = 90.0


def scraped(node: Cluster, tree: Path) -> None:
    told = yaml.safe_load((tree / CONFIGURATION).read_text(encoding="utf-8"))
    told["global"] |= {"scrape_interval": "2s", "scrape_timeout": "2s"}
    del told["alerting"], told["rule_files"]
    for job in told["scrape_configs"]:
        for discovery in job["kubernetes_sd_configs"]:
            discovery["kubeconfig_file"] = str(node.folder / "kubeconfig")  # it is not in a pod
    file = node.folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(told), encoding="utf-8")
    node.start(
        "prometheus",
        [
            str(tool("prometheus")),
            f"--config.file={file}",
            f"--storage.tsdb.path={node.folder / 'prometheus'}",
            f"--web.listen-address={PROMETHEUS}",
        ],
    )
    until = time.monotonic() + SECONDS
    while (found := _up(node)) != JOBS:
        node.check()
        if time.monotonic() > until:
            raise Broken(f"{CONFIGURATION}: expected {JOBS} targets that are up, found {found}")
        time.sleep(1)


def _up(node: Cluster) -> dict[str, int]:
    """Job → targets that answer."""
    ask = [str(tool("promtool")), "query", "instant", f"http://{PROMETHEUS}", "count by (job) (up == 1)"]
    try:
        said = node.inner.run(ask)
    except Broken:
        return {}  # it is starting
    return {job: int(n) for job, n in re.findall(r'job="([^"]+)"} => (\d+)', said)}
