"""`python -m deploy.check [static] [compose] [cluster] [systemd] [all]`: the stages one after another; `static` when none is named.

A stage that is asked for passes or fails: what it needs and cannot have is a failure.
"""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence

from deploy.check import stage, static
from deploy.check.stage import ROOT, Broken, Check

STAGES = ("static", "compose", "cluster", "systemd")


def static_checks() -> list[Check]:
    """The CHECKS of every module in deploy/check/static."""
    return [check for checks in topics().values() for check in checks]


def topics() -> dict[str, tuple[Check, ...]]:
    names = sorted(module.name for module in pkgutil.iter_modules(static.__path__))
    return {name: importlib.import_module(f"{static.__name__}.{name}").CHECKS for name in names}


def run(name: str) -> bool:
    try:
        if name == "static":
            return stage.passes(static_checks())
        importlib.import_module(f"deploy.check.{name}").run(ROOT)
    except Broken as broken:
        print(f"FAIL {name}\n{broken}", flush=True)
        return False
    except Exception:  # noqa: BLE001  # the next stage is still worth its result
        print(f"FAIL {name}: it broke\n{traceback.format_exc()}", flush=True)
        return False
    return True


def main(names: Sequence[str]) -> int:
    wanted = STAGES if "all" in names else names or ("static",)
    if unknown := set(wanted) - {*STAGES}:
        print(f"there is no stage {' '.join(sorted(unknown))}: {' '.join(STAGES)} all", file=sys.stderr)
        return 2
    # What is being done ends by its `finally`, however it is told to end.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    results = []
    for name in wanted:
        started = time.monotonic()
        print(f"== {name}", flush=True)
        results.append(run(name))
        word = "ok" if results[-1] else "FAILED"
        print(f"== {name}: {word} ({time.monotonic() - started:.0f} s)", flush=True)
    return not all(results)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
