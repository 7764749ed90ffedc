"""k8s/deployment.yaml as the rules look at it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.check.stage import Broken

MANIFEST = "k8s/deployment.yaml"
COMPONENT = "app.kubernetes.io/component"
OURS = "taskmill"
"""The name of our image; others' are only run."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """What makes pods: a Deployment or a Job."""

    kind: str
    name: str
    spec: Object

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def labels(self) -> dict[str, str]:
        """Of its pods."""
        return dict(self.spec["template"].get("metadata", {}).get("labels", {}))

    @property
    def annotations(self) -> dict[str, str]:
        """Of its pods."""
        return dict(self.spec["template"].get("metadata", {}).get("annotations", {}))

    @property
    def component(self) -> str:
        return self.labels.get(COMPONENT, "")

    @property
    def pod(self) -> Object:
        return dict(self.spec["template"]["spec"])

    @property
    def containers(self) -> list[Object]:
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def ours(self) -> list[Object]:
        return [container for container in self.containers if image(container)[0] == OURS]

    @property
    def ports(self) -> dict[str, int]:
        """Name → number."""
        return {p["name"]: p["containerPort"] for c in self.containers for p in c.get("ports", ())}

    @property
    def serves(self) -> bool:
        """It runs until it is stopped."""
        return self.kind == "Deployment"


@dataclass(frozen=True)
class Manifest:
    objects: tuple[Object, ...]

    def of(self, kind: str) -> Iterator[Object]:
        return (found for found in self.objects if found["kind"] == kind)

    @property
    def workloads(self) -> list[Workload]:
        return [
            Workload(found["kind"], name(found), found["spec"])
            for found in self.objects
            if found["kind"] in ("Deployment", "Job")
        ]

    def selected(self, labels: dict[str, str]) -> list[Workload]:
        """Those whose pods have all of these labels; no labels select nothing here."""
        return [w for w in self.workloads if labels and labels.items() <= w.labels.items()]


def name(found: Object) -> str:
    return str(found["metadata"]["name"])


def image(container: Object) -> tuple[str, str]:
    """Name and tag."""
    whole, _, tag = str(container["image"]).rpartition(":")
    return whole, tag


def with_change(text: str, component: str, old: str, new: str) -> tuple[str, str]:
    """The Deployment or Job of a component, whose lines the others have too, in the text of a manifest: as it is, and changed."""
    kind = re.compile(rf"^kind: (Deployment|Job)\nmetadata:\n  name: task-queue-{component}\b", re.MULTILINE)
    document = next(part for part in text.split("\n---\n") if kind.search(part))
    if document.count(old) != 1:
        raise Broken(f"{MANIFEST}: expected {old!r} in the {component}, once")
    return document, document.replace(old, new)


def read(root: Path) -> Manifest:
    try:
        found = yaml.safe_load_all((root / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(tuple(document for document in found if document is not None))
    except yaml.YAMLError as error:
        raise Broken(f"{MANIFEST}: {error}") from None
