"""The Dockerfile and what it is given, as they are written; deploy/check/image.py builds and runs it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from deploy.check.command import run
from deploy.check.stage import Broken, Check, Plant
from deploy.check.tools import tool

DOCKERFILE = "Dockerfile"
IGNORED = ".dockerignore"
PROBE = 'CMD ["taskmill", "probe"]'


@dataclass(frozen=True)
class Step:
    word: str
    rest: str


def steps(root: Path) -> list[Step]:
    """The instructions, each on a line, without comments."""
    text = (root / DOCKERFILE).read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found = [line.split(maxsplit=1) for line in lines.replace("\\\n", " ").splitlines() if line.strip()]
    return [Step(word.upper(), " ".join(rest.split())) for word, rest in found]


def lints(root: Path) -> None:
    run([str(tool("hadolint")), "--no-color", "--failure-threshold=style", str(root / DOCKERFILE)])


def promises(root: Path) -> None:
    found = steps(root)
    if re.search(r"^#\s*syntax\s*=", (root / DOCKERFILE).read_text(encoding="utf-8"), re.MULTILINE):
        raise _wrong("a `# syntax=` line makes every build fetch a front end: expected none")
    names = {step.rest.partition(" AS ")[2] for step in found if step.word == "FROM"}
    bases = {step.rest.partition(" AS ")[0] for step in found if step.word == "FROM"} - names
    if not re.fullmatch(r"python:\d\.\d+-slim-\w+", " ".join(bases)):
        raise _wrong(f"FROM {' '.join(sorted(bases))}: expected one base, python:VERSION-slim-SUITE")
    for command in (command for step in found if step.word == "RUN" for command in step.rest.split("&&")):
        words = command.split()
        if words[0] == "pip" and "install" in words and not {"--require-hashes", "--no-index"} & {*words}:
            raise _wrong(f"`{command.strip()}`: expected --require-hashes, or --no-index for what was built")
    _ends_well(found)


def _ends_well(found: list[Step]) -> None:
    """The last stage, which is the image."""
    last = {step.word: step.rest for step in found}
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", last.get("USER", "")):
        raise _wrong(f"USER {last.get('USER', '')}: expected a number, and not root's")
    if not last.get("HEALTHCHECK", "").endswith(PROBE):
        raise _wrong(f"HEALTHCHECK: expected {PROBE}")
    if not last.get("ENTRYPOINT", "").startswith("["):
        raise _wrong("ENTRYPOINT: expected a list; a shell would keep signals from the service")
    if last.get("VOLUME") != "/data" or "TASKMILL_DATA=/data" not in last.get("ENV", ""):
        raise _wrong("expected VOLUME /data and TASKMILL_DATA=/data: the root may be read-only")


def context(root: Path) -> None:
    """What a build is sent is what it copies: nothing else can get into a layer, or makes one anew."""
    copied = {
        name.rstrip("/")
        for step in steps(root)
        if step.word == "COPY" and "--from=" not in step.rest
        for name in step.rest.split()[:-1]
    }
    lines = (root / IGNORED).read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    sent = {line.removeprefix("!") for line in rules if line.startswith("!")}
    if rules[:1] != ["*"] or sent != copied:
        raise Broken(
            f"{IGNORED}: expected *, and then what {DOCKERFILE} copies; they differ in "
            f"{', '.join(sorted(sent ^ copied)) or 'the first line'}"
        )
    if absent := sorted(name for name in copied if not (root / name).exists()):
        raise _wrong(f"COPY {' '.join(absent)}: there is no such file")


def _wrong(text: str) -> Broken:
    return Broken(f"{DOCKERFILE}: {text}")


_FROM = "FROM packages AS project"
CHECKS = (
    Check(
        "Dockerfile: hadolint",
        lints,
        (
            Plant(DOCKERFILE, "WORKDIR /app", "RUN cd /app", "DL3003"),
            Plant(DOCKERFILE, 'ENTRYPOINT ["tini", "--", "taskmill"]', "ENTRYPOINT taskmill", "DL3025"),
            Plant(DOCKERFILE, _FROM, "FROM python AS project", "DL3006"),
            Plant(DOCKERFILE, "EXPOSE 3000 9464", "EXPOSE 3000 94640", "DL3011"),
        ),
    ),
    Check(
        "Dockerfile: what the image promises",
        promises,
        (
            Plant(DOCKERFILE, "# One image", "# syntax=docker/dockerfile:1\n# One image", "syntax="),
            Plant(DOCKERFILE, _FROM, "FROM python:3.12-slim-trixie AS project", "expected one base"),
            Plant(
                DOCKERFILE, "--require-hashes --no-deps --only-binary :all: --requirement requirements.lock",
                "--requirement requirements.lock", "--require-hashes",
            ),
            Plant(DOCKERFILE, "USER 10001:10001", "USER nobody", "expected a number"),
            Plant(DOCKERFILE, "USER 10001:10001\n", "", "expected a number"),
            Plant(DOCKERFILE, PROBE, 'CMD ["true"]', "HEALTHCHECK"),
            Plant(DOCKERFILE, "VOLUME /data", "VOLUME /app", "VOLUME /data"),
        ),
    ),
    Check(
        "what a build of the image is sent",
        context,
        (
            Plant(IGNORED, "\n*\n", "\n.git\n", "the first line"),
            Plant(IGNORED, "!src\n", "!src\n!.env\n", "differ in .env"),
            Plant(DOCKERFILE, "COPY src src", "COPY src tests ./", "differ in tests"),
        ),
    ),
)  # fmt: skip
