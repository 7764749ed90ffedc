"""What is fetched or built once for a machine, outside of the tree: whole or not at all, by one process at a time."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.check.stage import Broken

DEFAULT = Path("/var/tmp/taskmill-deploy")  # noqa: S108  # nosec B108
WHOLE = ".whole"
"""Written last: a folder without it is half made, and is made anew."""


def cache() -> Path:
    """Anybody may make the default, and root runs what is in it: it has to be ours alone. A named one is trusted."""
    if named := os.environ.get("TASKMILL_DEPLOY_CACHE"):
        return Path(named)
    DEFAULT.mkdir(mode=0o755, exist_ok=True)
    about = DEFAULT.lstat()  # of a link it says 777
    if about.st_uid != os.geteuid() or about.st_mode & 0o022:
        raise Broken(
            f"{DEFAULT}: others can write there. Delete it, or name a folder in TASKMILL_DEPLOY_CACHE"
        )
    return DEFAULT


def once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache. `make` fills it when it is not there; it may keep the path, as a venv does."""
    place = cache() / name
    if (place / WHOLE).exists():
        return place
    with one_at_a_time(name):
        if not (place / WHOLE).exists():
            if place.exists():
                shutil.rmtree(place)
            place.mkdir(parents=True)
            make(place)
            (place / WHOLE).touch()
    return place


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """A lock over processes that ends with the one that has it."""
    locks = cache() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / re.sub(r"[^\w.+-]", "_", name)).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that makes {name}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
