"""How many, how they are replaced, and what a release changes."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.check.kubernetes.manifest import Manifest, Workload, image, name
from taskmill import __version__


def autoscalers(manifest: Manifest) -> Iterator[str]:
    """An HPA scales what is there, within bounds, by what it requests; applying the file again does not reset it."""
    for found in manifest.of("HorizontalPodAutoscaler"):
        where, spec = f"HorizontalPodAutoscaler {name(found)}", found["spec"]
        if spec.get("minReplicas", 1) > spec["maxReplicas"]:
            yield f"{where}: minReplicas is above maxReplicas"
        wanted = spec["scaleTargetRef"]
        target = _workload(manifest, wanted["kind"], wanted["name"])
        if target is None:
            yield f"{where}: there is no {wanted['kind']} {wanted['name']}"
        elif "replicas" in target.spec:
            yield f"{target}: has replicas, and an HPA too: each apply would reset their number"


def budgets(manifest: Manifest) -> Iterator[str]:
    """Each process of ours that serves has a PDB, which lets a node be drained and keeps one pod."""
    covered = set()
    for budget in manifest.of("PodDisruptionBudget"):
        for workload in manifest.selected(budget["spec"]["selector"]["matchLabels"]):
            covered.add(workload.name)
            if budget["spec"].get("maxUnavailable") != 1 or replicas(manifest, workload) < 2:
                yield f"PodDisruptionBudget {name(budget)}: expected maxUnavailable 1 of at least 2 pods"
    for workload in manifest.workloads:
        if workload.serves and workload.ours and workload.name not in covered:
            yield f"{workload}: no PodDisruptionBudget is about it"


def rollouts(manifest: Manifest) -> Iterator[str]:
    """An update starts a pod before it stops one, and pods spread over nodes."""
    for workload in manifest.workloads:
        if not (workload.serves and workload.ours):
            continue
        rolling = workload.spec.get("strategy", {}).get("rollingUpdate", {})
        if rolling.get("maxUnavailable") != 0 or not rolling.get("maxSurge"):
            yield f"{workload}: an update may stop a pod before its successor is ready"
        if not workload.pod.get("topologySpreadConstraints"):
            yield f"{workload}: nothing spreads its pods over nodes"


def release(manifest: Manifest) -> Iterator[str]:
    """All of ours run this version. A Job cannot be changed, so its name has the version too."""
    for workload in manifest.workloads:
        for container in workload.ours:
            if image(container)[1] != __version__:
                yield f"{workload}: runs {container['image']}, this is {__version__}"
        if workload.kind == "Job" and not workload.name.endswith("-" + __version__.replace(".", "-")):
            yield f"{workload}: its name does not end with the version: applied by the next release, it is refused"


def replicas(manifest: Manifest, workload: Workload) -> int:
    for found in manifest.of("HorizontalPodAutoscaler"):
        if found["spec"]["scaleTargetRef"]["name"] == workload.name:
            return int(found["spec"].get("minReplicas", 1))
    return int(workload.spec.get("replicas", 1))


def _workload(manifest: Manifest, kind: str, called: str) -> Workload | None:
    return next((w for w in manifest.workloads if (w.kind, w.name) == (kind, called)), None)
