"""What GitHub and pre-commit read: workflows, forms, hooks. GitHub itself cannot be asked; its schemas and zizmor can."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.check.command import run
from deploy.check.stage import Broken, Check, Plant
from deploy.check.tools import tool

SCHEMAS = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.dependabot": ".github/dependabot.yml",
}
CI = ".github/workflows/ci.yml"


def formed(root: Path) -> None:
    """Each file is as its schema says."""
    for schema, pattern in SCHEMAS.items():
        files = sorted(map(str, root.glob(pattern)))
        if not files:
            raise Broken(f"{pattern} is missing")
        run([str(tool("check-jsonschema")), "--builtin-schema", schema, *files])
    run([str(tool("pre-commit")), "validate-config", str(root / ".pre-commit-config.yaml")])


def safe(root: Path) -> None:
    """zizmor: actions pinned by hash, least permissions, no input of strangers in a script, and what else it knows."""
    run([str(tool("zizmor")), "--offline", "--persona=pedantic", "--no-progress", str(root / ".github")])


def same(root: Path) -> None:
    """The workflow runs targets that make has, every one that .ci/run has, and every Python that the package is for."""
    workflow = (root / CI).read_text(encoding="utf-8")
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    targets = set(phony.split())
    wanted = set(re.findall(r"^make ([\w-]+)", (root / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE))
    runs = set(re.findall(r"^ *(?:- run: )?make ([\w-]+)$", workflow, re.MULTILINE))
    if runs - targets:
        raise Broken(f"{CI}: make has no target {' '.join(sorted(runs - targets))}")
    if wanted - runs:
        raise Broken(f"{CI}: .ci/run has make {' '.join(sorted(wanted - runs))} too")
    package = (root / "pyproject.toml").read_text(encoding="utf-8")
    versions = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', package)
    listed = re.search(r"python: \[(.*)\]", workflow)
    if listed is None or re.findall(r"3\.\d+", listed[1]) != versions:
        raise Broken(f"{CI}: expected the Pythons of pyproject.toml: {' '.join(versions)}")


CHECKOUT = "    steps:\n      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1"
OF_TESTS = '      TASKMILL_COVERAGE: "1"\n'

CHECKS = (
    Check(
        "GitHub's files, by their schemas",
        formed,
        (
            Plant(CI, "timeout-minutes: 60", "timeout-minuts: 60", "timeout-minuts"),
            Plant(".github/ISSUE_TEMPLATE/bug.yml", "type: dropdown", "type: dropdwn", "dropdwn"),
            Plant(".pre-commit-config.yaml", "id: secrets", "ident: secrets", "id"),
        ),
    ),
    Check(
        "workflows, by zizmor",
        safe,
        (
            Plant(CI, "permissions: {}", "permissions: write-all", "excessive-permissions"),
            Plant(
                CI,
                OF_TESTS + CHECKOUT,
                f"{OF_TESTS}    steps:\n      - uses: actions/checkout@v7",
                "unpinned-uses",
            ),
            Plant(
                CI, "run: make docs", "run: echo ${{ github.event.pull_request.title }}", "template-injection"
            ),
        ),
    ),
    Check(
        "workflows, by what they run",
        same,
        (
            Plant(CI, "run: make docs", "run: make doc", "no target doc"),
            Plant(CI, "run: make deploy-check", "run: make help", "make deploy-check too"),
            Plant(CI, '"3.13", "3.14"', '"3.13"', "3.14"),
        ),
    ),
)
