"""What Prometheus answers to each panel after a rehearsal, in one file."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from deploy.check import panels
from deploy.check.rehearsal import SCRAPE, rehearsal

SMOOTH: Final = 5
"""Seconds of a step. Scraped each second: with steps as short, a chart would show what one batch did."""


BEFORE: Final = 240


def collect(file: Path, seconds: float) -> None:
    """`seconds` are shown; the ones before fill what looks back over minutes."""
    with rehearsal(os.environ["TEST_MYSQL_URL"], os.environ["TEST_REDIS_URL"], seconds + BEFORE) as url:
        panels.check(url, window=seconds, scrape=SCRAPE, patience=30)
        window = panels.Window(time.time(), seconds, SMOOTH)
        with closing(panels.Prometheus(url)) as prometheus:
            boards = _boards(prometheus, window)
    file.write_text(json.dumps({"end": window.end, "seconds": seconds, "boards": boards}), encoding="utf-8")


def _boards(prometheus: panels.Prometheus, window: panels.Window) -> dict[str, Any]:
    """File name → query of a panel → its series."""
    return {
        name: {
            f"{panel['id']}{target['refId']}": panels.ask(
                prometheus, panels.asked(board, panel, target), window
            )
            for panel in board["panels"]
            for target in panel.get("targets", [])
        }
        for name, board in panels.boards().items()
    }
