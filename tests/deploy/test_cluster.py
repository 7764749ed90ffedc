"""The parts of the cluster stage that need no cluster."""

from __future__ import annotations

import socket
import struct

import pytest
import yaml

from deploy.check.cluster import PLANTS
from deploy.check.cluster_dns import answer
from deploy.check.cluster_manifest import Plant, edition, following
from deploy.check.stage import Broken
from taskmill import __version__
from tests.support import ROOT

KNOWN = {"mysql.default.svc.cluster.local": "10.96.0.7"}
A, AAAA = 1, 28


def question(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_name_of_a_service() -> None:
    """Has its address, whatever the case of its letters."""
    said = answer(question("MySQL.default.svc.cluster.local", A), KNOWN)
    number, flags, _, answers = struct.unpack("!HHHH", said[:8])
    assert (number, flags & 0xF, answers, said[-4:]) == (7, 0, 1, socket.inet_aton("10.96.0.7"))


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [("mysql.default.svc.cluster.local", AAAA, 0), ("other.default.svc.cluster.local", A, 3)],
    ids=["no such address", "no such name"],
)
def test_nothing_to_tell(name: str, kind: int, status: int) -> None:
    """A name that is there without an address of this kind is no error: a resolver would give up."""
    said = answer(question(name, kind), KNOWN)
    assert (struct.unpack("!H", said[2:4])[0] & 0xF, said[6:8]) == (status, b"\0\0")


def test_edition_of_a_release() -> None:
    """All that the next release changes: the tag of every image of ours, the name of the Job."""
    now, then = (list(yaml.safe_load_all(edition(ROOT, v))) for v in (__version__, following(__version__)))
    changed = [
        document["metadata"]["name"] for document, other in zip(now, then, strict=True) if document != other
    ]
    assert sorted(name.removeprefix("task-queue-")[:7] for name in changed) == [
        "api",
        "migrate",
        "schedul",
        "worker",
    ]


def test_edition_for_an_old_cluster() -> None:
    """What 1.20 has as beta only is asked for as beta."""
    versions = {d["kind"]: d["apiVersion"] for d in yaml.safe_load_all(edition(ROOT, __version__))}
    assert versions["PodDisruptionBudget"] == "policy/v1beta1"
    assert versions["HorizontalPodAutoscaler"] == "autoscaling/v2beta2"


def test_edition_with_planted_errors() -> None:
    """Each is in its Deployment, and nowhere else."""
    good, bad = (edition(ROOT, __version__, plants).split("\n---\n") for plants in ((), PLANTS))
    assert sum(one != other for one, other in zip(good, bad, strict=True)) == len(PLANTS)


def test_edition_without_what_is_to_be_changed() -> None:
    """Is an error: nothing would be planted."""
    with pytest.raises(Broken, match="expected 'no such line' in the worker"):
        edition(ROOT, __version__, [Plant("worker", "no such line", "", "")])
