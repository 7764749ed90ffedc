"""runc, as a Docker runtime that leaves the score of the OOM killer alone: the kubelet lowers it for its pods, which needs
CAP_SYS_RESOURCE, and a container for CI has not got it. Called by path, by whatever Python there is."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

RUNC = "TASKMILL_RUNC"


def main(words: list[str]) -> None:
    if "create" in words:
        config = Path(words[words.index("--bundle") + 1], "config.json")
        told = json.loads(config.read_text(encoding="utf-8"))
        told["process"].pop("oomScoreAdj", None)
        config.write_text(json.dumps(told), encoding="utf-8")
    os.execv(os.environ[RUNC], [os.environ[RUNC], *words])  # noqa: S606 (it becomes runc)


if __name__ == "__main__":
    main(sys.argv[1:])
