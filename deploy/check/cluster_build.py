"""The programs of a Kubernetes, built once: there is no registry that has them, but Debian has the source of 1.20.2.

    python -m deploy.check.cluster_build

It took 15 and 34 minutes on two busy processors, and 4 GB while it lasted; 430 MB of programs stay in the cache.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from deploy.check.cache import once
from deploy.check.command import run
from deploy.check.debian import source, unpacked
from deploy.check.stage import Broken

SUITE = "bookworm"
VERSION = "1.20.2"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
GO = ("golang-1.19-go", "golang-1.19-src")
REFLECT = "golang-github-modern-go-reflect2-dev"
LONGEST = 7200.0


def programs() -> Path:
    """The folder with PROGRAMS in it."""
    return once(f"kubernetes-{VERSION}", _build)


def _build(place: Path) -> None:
    print(f"building Kubernetes {VERSION}: a quarter of an hour or more", file=sys.stderr, flush=True)
    tree, go = place / "tree", unpacked(SUITE, *GO) / "usr/lib/go-1.19"
    source(SUITE, "kubernetes", tree)
    _mend(tree)
    version = place / "version"
    major, minor, _ = VERSION.split(".")
    version.write_text(
        f"KUBE_GIT_COMMIT=debian\nKUBE_GIT_TREE_STATE=archive\nKUBE_GIT_VERSION=v{VERSION}\n"
        f"KUBE_GIT_MAJOR={major}\nKUBE_GIT_MINOR={minor}\n",
        encoding="utf-8",
    )
    environment = {
        "PATH": f"{go / 'bin'}:{os.environ['PATH']}",
        "GOROOT": str(go),
        "HOME": str(place),
        "CGO_ENABLED": "0",
        "GOPROXY": "off",  # all that it needs is in its vendor folder
        "KUBE_GIT_VERSION_FILE": str(version),
    }
    wanted = " ".join(f"cmd/{program}" for program in PROGRAMS)
    run(["nice", "make", f"--directory={tree}", f"WHAT={wanted}"], env=environment, timeout=LONGEST)
    for program in PROGRAMS:
        built = tree / "_output/bin" / program
        if not built.exists():
            raise Broken(f"Kubernetes {VERSION}: {program} was not built")
        shutil.copy(built, place / program)
    shutil.rmtree(tree)


def _mend(tree: Path) -> None:
    """The reflect2 that it carries reads types as Go 1.17 laid them out: with 1.19 the API server ends at its start."""
    carried = tree / "vendor/github.com/modern-go/reflect2"
    shutil.rmtree(carried)
    shutil.copytree(unpacked(SUITE, REFLECT) / "usr/share/gocode/src/github.com/modern-go/reflect2", carried)


if __name__ == "__main__":
    print(programs())
