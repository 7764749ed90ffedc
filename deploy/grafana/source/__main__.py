"""Writes dashboards/*.json, or says with --check what is not as the code has it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from deploy.grafana.source import durations, overview, queues, rates, resources, workers

FOLDER: Final = Path(__file__).resolve().parent.parent / "dashboards"
BOARDS: Final = [module.BOARD for module in (overview, rates, queues, durations, workers, resources)]


def main() -> int:
    texts = {FOLDER / f"{board.name}.json": board.json() for board in BOARDS}
    if "--check" not in sys.argv[1:]:
        for file, text in texts.items():
            file.write_text(text, encoding="utf-8")
    found = {file: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.json")}
    wrong = sorted(file.name for file in texts.keys() | found.keys() if texts.get(file) != found.get(file))
    if wrong:
        print(f"not as deploy/grafana/source has it: {', '.join(wrong)}: python -m deploy.grafana.source")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
