"""k8s/deployment.yaml against the schemas of two versions of Kubernetes, and against rules that no schema has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from deploy.check.command import run
from deploy.check.kubernetes import environment, links, pods, scale
from deploy.check.kubernetes.manifest import MANIFEST, Manifest, read, with_change
from deploy.check.stage import ROOT, Broken, Check, Plant, expect_none
from deploy.check.tools import tool

VERSIONS = ("1.25", "1.37")
"""The oldest that has all that the manifest uses, and the newest whose schemas are to be had."""

Rule = Callable[[Manifest], Iterator[str]]


def schemas(root: Path) -> None:
    validate = str(tool("kubernetes-validate"))
    versions = {str(found["apiVersion"]) for found in read(root).objects}
    if unstable := {version for version in versions if not re.fullmatch(r"(.+/)?v\d+", version)}:
        raise Broken(
            f"{MANIFEST}: {' '.join(sorted(unstable))}: later versions of Kubernetes may not have it"
        )
    for version in VERSIONS:
        said = run([validate, "--strict", "--quiet", "-k", version, str(root / MANIFEST)])
        if "WARN" in said:  # a kind that it does not know is no error to it
            raise Broken(said)


def rules(chosen: tuple[Rule, ...], root: Path) -> None:
    manifest = read(root)
    _expect_none(complaint for rule in chosen for complaint in rule(manifest))


def keys(root: Path) -> None:
    _expect_none(environment.references(read(root), root))


def _expect_none(complaints: Iterable[str]) -> None:
    expect_none(f"{MANIFEST}: {complaint}" for complaint in complaints)


planted = partial(Plant, MANIFEST)


def within(component: str, old: str, new: str, caught_by: str) -> Plant:
    """An error in the Deployment of one component, whose lines the others have too."""
    text = (ROOT / MANIFEST).read_text(encoding="utf-8")
    return Plant(MANIFEST, *with_change(text, component, old, new), caught_by)


CHECKS = (
    Check(
        "kubernetes: schemas",
        schemas,
        (
            planted("maxReplicas: 10", "maxReplica: 10", "maxReplica"),
            planted("ttlSecondsAfterFinished: 604800", "ttlSecondsAfterFinished: a week", "week"),
            planted("apiVersion: autoscaling/v2", "apiVersion: autoscaling/v2beta2", "may not have it"),
            planted("kind: NetworkPolicy", "kind: NetworkPolice", "Couldn't find schema"),
            within("api", "- {name: http, containerPort: 3000}", "- {name: http}", "containerPort"),
        ),
    ),
    Check(
        "kubernetes: what points at something finds it",
        partial(rules, (links.names, links.selectors, links.policies, links.ports, links.volumes)),
        (
            planted(
                "name: task-queue-redis\n  labels: {app.kubernetes.io/name: taskmill, app.kubernetes.io/component: redis}\n"
                "spec:\n  selector:",
                "name: task-queue-api\n  labels: {}\nspec:\n  selector:",
                "Service task-queue-api: is there 2 times",
            ),
            within(
                "worker",
                "selector:\n    matchLabels: {app.kubernetes.io/name: taskmill, app.kubernetes.io/component: worker}",
                "selector:\n    matchLabels: {app.kubernetes.io/name: taskmill, app.kubernetes.io/component: workers}",
                "its selector and the labels of its pods differ",
            ),
            within(
                "scheduler",
                "            matchLabels: {app.kubernetes.io/name: taskmill, app.kubernetes.io/component: scheduler}",
                "            matchLabels: {app.kubernetes.io/name: taskmill, app.kubernetes.io/component: worker}",
                "topologySpreadConstraint",
            ),
            planted(
                "selector: {app.kubernetes.io/name: taskmill, app.kubernetes.io/component: api}",
                "selector: {app.kubernetes.io/name: taskmill}",
                "Service task-queue-api: its selector finds the pods of 5 workloads",
            ),
            planted("values: [api, worker, scheduler]", "values: [apis, worker]", "component apis"),
            planted("port: 3000, targetPort: http", "port: 3000, targetPort: web", "has no port web"),
            planted("{protocol: TCP, port: redis}", "{protocol: TCP, port: 6380}", "has no port 6380"),
            planted(
                "tcpSocket: {port: redis}",
                "tcpSocket: {port: http}",
                "no port http: asked by its livenessProbe",
            ),
            planted(
                'prometheus.io/port: "3000"',
                'prometheus.io/port: "3001"',
                "no port 3001: asked by Prometheus",
            ),
            planted("- {name: data, mountPath: /data}", "- {name: date, mountPath: /data}", "mounts date"),
        ),
    ),
    Check(
        "kubernetes: pods and containers",
        partial(rules, (pods.security, pods.resources, pods.probes, pods.scraped, pods.images)),
        (
            within("api", "runAsUser: 10001", "runAsUser: 0", "runAsUser is 0"),
            within("redis", "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot is False"),
            within("worker", "{type: RuntimeDefault}", "{type: Unconfined}", "seccompProfile"),
            within("worker", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "readOnlyRoot"),
            within("migrate", "{drop: [ALL]}", "{add: [NET_ADMIN]}", "capabilities"),
            within("api", "automountServiceAccountToken: false", "hostNetwork: true", "hostNetwork is set"),
            within("api", "enableServiceLinks: false", "enableServiceLinks: true", "enableServiceLinks"),
            within("worker", "emptyDir: {sizeLimit: 2Gi}", "hostPath: {path: /srv}", "a folder of the node"),
            within("scheduler", "emptyDir: {sizeLimit: 64Mi}", "emptyDir: {}", "has no sizeLimit"),
            within("api", 'limits: {cpu: "2", memory: 512Mi}', 'limits: {cpu: "2"}', "no limit of memory"),
            within(
                "worker",
                "requests: {cpu: 200m, memory: 256Mi}",
                "requests: {cpu: 200m, memory: 2Gi}",
                "more memory",
            ),
            within(
                "worker",
                "httpGet: {path: /ready, port: probes}",
                "httpGet: {path: /health, port: probes}",
                "asks /health",
            ),
            within("scheduler", "containerPort: 9464", "containerPort: 9465", "does not ask at 9464"),
            within("redis", "readinessProbe:", "startupProbe:", "no readinessProbe"),
            within("scheduler", 'prometheus.io/scrape: "true", ', "", "scrape is None"),
            within("scheduler", "args: [scheduler]", "args: [worker]", "its component is 'scheduler'"),
            within("redis", "image: redis:8.0", "image: redis:latest", "no tag that says which"),
        ),
    ),
    Check(
        "kubernetes: scale, updates, releases",
        partial(
            rules, (scale.autoscalers, scale.budgets, scale.rollouts, scale.release, environment.goodbye)
        ),
        (
            planted("minReplicas: 2", "minReplicas: 20", "minReplicas is above maxReplicas"),
            planted(
                "kind: Deployment, name: task-queue-api}", "kind: Deployment, name: api}", "no Deployment api"
            ),
            within("api", "minReadySeconds: 5", "replicas: 2", "each apply would reset"),
            within("worker", "replicas: 2", "replicas: 1", "of at least 2 pods"),
            planted(
                "maxUnavailable: 1\n  selector:\n    matchLabels: {app.kubernetes.io/name: taskmill, app.kubernetes.io/component: worker}",
                "maxUnavailable: 1\n  selector:\n    matchLabels: {app.kubernetes.io/name: taskmill, app.kubernetes.io/component: redis}",
                "no PodDisruptionBudget is about it",
            ),
            within("worker", "topologySpreadConstraints:", "tolerations:", "nothing spreads its pods"),
            within("api", "maxUnavailable: 0", "maxUnavailable: 1", "may stop a pod before"),
            within("worker", "image: taskmill:0.1.0", "image: taskmill:0.0.9", "runs taskmill:0.0.9"),
            planted(
                "name: task-queue-migrate-0-1-0", "name: task-queue-migrate", "does not end with the version"
            ),
            within("api", 'command: [sleep, "10"]', 'command: [sleep, "1"]', "sleeps less than"),
        ),
    ),
    Check(
        "kubernetes: settings and secrets",
        partial(rules, (environment.processes, environment.secrets)),
        (
            planted("QUEUE_CONCURRENCY:", "QUEUE_CONCURENCY:", "QUEUE_CONCURENCY is not a setting"),
            planted(
                'TASKMILL_PROCESSES: "1"', "TASKMILL_PROCESSES: many", "would not start: TASKMILL_PROCESSES"
            ),
            planted("APP_ENV: production", "APP_ENV: development", "expected production"),
            within("api", "- name: JWT_SECRET", "- name: JWT_SECRET_PREVIOUS", "JWT_SECRET: expected"),
            within("worker", "GracePeriodSeconds: 150", "GracePeriodSeconds: 30", "a stop may take 146 s"),
            planted('TASKMILL_DRAIN: "25"', 'TASKMILL_DRAIN: "600"', "a stop may take 721 s"),
            within("migrate", "name: DATABASE_URL", "name: JWT_SECRET", "expected just what it needs"),
        ),
    ),
    Check(
        "kubernetes: ConfigMaps and keys of the secret",
        keys,
        (
            within(
                "worker",
                "configMapRef: {name: task-queue-config}",
                "configMapRef: {name: config}",
                "no ConfigMap config",
            ),
            within(
                "api",
                "name: task-queue-secrets, key: jwt-secret",
                "name: secrets, key: jwt-secret",
                "expected task-queue-secrets",
            ),
            within("scheduler", "key: database-url", "key: database_url", "which SEED.md does not create"),
            within(
                "scheduler",
                "key: redis-url, optional: true",
                "key: redis-uri, optional: true",
                "does not name",
            ),
        ),
    ),
)
