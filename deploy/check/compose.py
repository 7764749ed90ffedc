"""The stage `compose`: the compose files as they are, run by Docker's engine on stand-ins for the official images.

First, with the machine's network: the images. Then, in a network without a way out: deploy/check/trial.py.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import yaml

from deploy.check import image
from deploy.check.engine import engine
from deploy.check.space import space
from deploy.check.stage import ROOT, Broken, copy_of
from deploy.check.standins import standins

FILES = ("docker-compose.yml", "docker-compose.prod.yml")
OURS = "taskmill:"
NOT_RUN = "grafana/grafana:"
"""No registry of packages has Grafana's server."""


def run(root: Path) -> None:
    if os.geteuid() != 0:
        raise Broken("the stage compose needs root: it starts a Docker engine in a network of its own")
    with tempfile.TemporaryDirectory(prefix="taskmill-compose-") as folder:
        tree = copy_of(root, Path(folder, "tree"))  # no .env of this machine
        with engine() as docker:
            image.check(docker, tree)
            standins(docker, *sorted(official(tree)))
        with space("compose") as inner:
            trial = inner.popen([sys.executable, "-m", "deploy.check.trial", str(tree)], log=None, cwd=ROOT)
            if trial.wait():
                raise Broken("the trial failed, see above")


def official(root: Path) -> set[str]:
    """The images that the files name and do not build."""
    found = set()
    for file in FILES:
        services = yaml.safe_load((root / file).read_text(encoding="utf-8"))["services"]
        found |= {service["image"] for service in services.values()}
    return {name for name in found if not name.startswith((OURS, NOT_RUN))}
