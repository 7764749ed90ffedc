"""Single packages of a Debian suite, unpacked beside the machine's own and never installed: suites do not mix.

They come from the machine's own mirror, with apt's lists in a folder for each suite, and apt checks their signatures.
"""

from __future__ import annotations

import platform
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.check.cache import cache, once, one_at_a_time
from deploy.check.command import run
from deploy.check.stage import Broken

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def unpacked(suite: str, *packages: str) -> Path:
    """A folder with the files of these packages, as of the day when it was made; not of those that they depend on."""
    name = f"debian/{suite}/{'+'.join(packages)}"
    return once(name, lambda place: _unpack(suite, packages, place))


def _unpack(suite: str, packages: tuple[str, ...], place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="taskmill-deb-") as folder, one_at_a_time(f"apt-{suite}"):
        options = _options(suite)
        run(["apt-get", *options, "update", "-q"])
        run(["apt-get", *options, "download", "-q", *packages], cwd=folder)
        files = sorted(Path(folder).glob("*.deb"))
        if len(files) != len(packages):
            raise Broken(f"Debian {suite}: asked for {' '.join(packages)}, got {len(files)} files")
        for file in files:
            run(["dpkg-deb", "-x", str(file), str(place)])


def source(suite: str, package: str, place: Path) -> None:
    """The source of a package with Debian's patches, in the new folder `place`."""
    with tempfile.TemporaryDirectory(prefix="taskmill-source-") as folder, one_at_a_time(f"apt-{suite}"):
        options = _options(suite, "deb-src")
        run(["apt-get", *options, "update", "-q"])
        run(["apt-get", *options, "source", "-q", "--download-only", package], cwd=folder)
        description = next(Path(folder).glob("*.dsc"))
        run(
            ["dpkg-source", "--no-check", "--no-copy", "-x", str(description), str(place)]
        )  # apt has checked it


def bootstrap(suite: str, packages: Sequence[str], root: Path, *options: str) -> None:
    """A root with the least that a Debian has, and these packages, in the new folder `root`; `options`: more of mmdebstrap's."""
    program = unpacked("bookworm", "mmdebstrap") / "usr/bin/mmdebstrap"
    valid = '--aptopt=Acquire::Check-Valid-Until "false"'  # see _options
    included = f"--include={','.join(packages)}"
    run([str(program), "--quiet", "--variant=minbase", valid, *options, included, suite, str(root), mirror()])


def _options(suite: str, types: str = "deb") -> list[str]:
    """apt with its usual settings, but with this suite alone and a state of its own."""
    state = cache() / "apt" / (suite if types == "deb" else f"{suite}-{types}")
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    sources = state / "debian.sources"
    sources.write_text(
        f"Types: {types}\nURIs: {mirror()}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n",
        encoding="utf-8",
    )
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": state / "lists",
        "Dir::Cache": state / "cache",
        "APT::Sandbox::User": "root",  # the folders are root's
        "Acquire::Check-Valid-Until": "false",  # a mirror of one day stays as it is; its signatures count
    }
    return [f"-o{key}={value}" for key, value in settings.items()]


def mirror() -> str:
    """Where this machine takes Debian from, in apt's own words: whatever form its lists have."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    # Codenames are letters. A mirror of security updates or of somebody else has other suites.
    pattern = rf"^'(\S+?)/dists/{codename}/main/binary-"
    found = re.search(pattern, run(["apt-get", "--print-uris", "update"]), re.MULTILINE)
    if not codename or found is None:
        raise Broken(f"no mirror of Debian {codename} among apt's sources: it is where tools come from")
    return found[1]
