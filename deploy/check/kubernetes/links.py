"""What points at something else in the manifest: it is there, and it is the right one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain, product
from typing import Any

from deploy.check.kubernetes.manifest import COMPONENT, Manifest, Workload, name
from deploy.check.kubernetes.pods import PROBES


def names(manifest: Manifest) -> Iterator[str]:
    """Two objects of one kind have different names: the second would replace the first."""
    counted = Counter((found["kind"], name(found)) for found in manifest.objects)
    yield from (f"{kind} {called}: is there {n} times" for (kind, called), n in counted.items() if n > 1)


def selectors(manifest: Manifest) -> Iterator[str]:
    """Each selector finds the pods of one workload: a Deployment its own."""
    for workload in manifest.workloads:
        wanted = workload.spec.get("selector", {}).get("matchLabels", {})
        if workload.serves and manifest.selected(wanted) != [workload]:
            yield f"{workload}: its selector and the labels of its pods differ"
        for constraint in workload.pod.get("topologySpreadConstraints", ()):
            if manifest.selected(constraint["labelSelector"]["matchLabels"]) != [workload]:
                yield f"{workload}: a topologySpreadConstraint selects other pods than its own"
    for kind, path in {
        "Service": ("selector",),
        "PodDisruptionBudget": ("selector", "matchLabels"),
        "NetworkPolicy": ("podSelector", "matchLabels"),
    }.items():
        for found in manifest.of(kind):
            chosen = manifest.selected(_inside(found["spec"], path))
            if len(chosen) != 1:
                yield f"{kind} {name(found)}: its selector finds the pods of {len(chosen)} workloads, not of one"


def policies(manifest: Manifest) -> Iterator[str]:
    """Who may call is named by components that are there."""
    components = {workload.component for workload in manifest.workloads}
    for policy in manifest.of("NetworkPolicy"):
        for expression in _expressions(policy["spec"]):
            if expression["key"] == COMPONENT and (unknown := {*expression["values"]} - components):
                yield f"NetworkPolicy {name(policy)}: no pods have the component {' '.join(sorted(unknown))}"


def ports(manifest: Manifest) -> Iterator[str]:
    """A port that a Service, a policy, a probe or Prometheus goes to is one of the container's."""
    for who, workload, port in chain(_asked(manifest), _admitted(manifest)):
        there: Collection[int | str] = workload.ports.values() if isinstance(port, int) else workload.ports
        if port not in there:
            yield f"{workload} has no port {port}: asked by {who}"


def _asked(manifest: Manifest) -> Iterator[tuple[str, Workload, int | str]]:
    """Who asks which pods at which port."""
    for service in manifest.of("Service"):
        for workload in manifest.selected(service["spec"].get("selector", {})):
            for port in service["spec"]["ports"]:
                yield f"Service {name(service)}", workload, port.get("targetPort", port["port"])
    for workload in manifest.workloads:
        if (scraped := workload.annotations.get("prometheus.io/port")) is not None:
            yield "Prometheus", workload, int(scraped)
        for container, probe in product(workload.containers, PROBES):
            for how in container.get(probe, {}).values():
                if isinstance(how, dict) and "port" in how:
                    yield f"its {probe}", workload, how["port"]


def _admitted(manifest: Manifest) -> Iterator[tuple[str, Workload, int | str]]:
    """Which ports of which pods a policy opens."""
    for policy in manifest.of("NetworkPolicy"):
        for workload in manifest.selected(_inside(policy["spec"], ("podSelector", "matchLabels"))):
            for rule in policy["spec"].get("ingress", ()):
                for port in rule.get("ports", ()):
                    yield f"NetworkPolicy {name(policy)}", workload, port["port"]


def volumes(manifest: Manifest) -> Iterator[str]:
    """What is mounted is there, and what is there is mounted."""
    for workload in manifest.workloads:
        there = {volume["name"] for volume in workload.pod.get("volumes", ())}
        mounted = {mount["name"] for c in workload.containers for mount in c.get("volumeMounts", ())}
        yield from (f"{workload}: mounts {volume}, which is no volume" for volume in mounted - there)
        yield from (f"{workload}: its volume {volume} is not mounted" for volume in there - mounted)


def _inside(found: dict[str, Any], path: tuple[str, ...]) -> dict[str, str]:
    for key in path:
        found = found.get(key, {})
    return found


def _expressions(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for rule in spec.get("ingress", ()):
        for peer in rule.get("from", ()):
            yield from peer.get("podSelector", {}).get("matchExpressions", ())
