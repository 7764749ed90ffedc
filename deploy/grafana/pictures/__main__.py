"""Collects (with a number of seconds), bundles the page, and has chromium take a picture of each dashboard."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

from PIL import Image

from deploy.check import panels
from deploy.check.command import run
from deploy.check.stage import ROOT, Broken
from deploy.check.tools import node_modules
from deploy.grafana.pictures.collect import collect

HERE: Final = Path(__file__).resolve().parent
PICTURES: Final = ROOT / "docs/images/dashboards"
WIDTH: Final = 1600
ROW: Final = 38
HEAD: Final = 64
"""Pixels: of a row of Grafana's grid, and above the first; as in page.tsx."""
LARGEST: Final = 150_000
QUIET: Final = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=8000"
).split()


def draw(data: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise Broken("chromium is missing (Debian: apt install chromium fonts-inter)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskmill-pictures-")))
        _bundle(folder)
        url = stack.enter_context(_served(folder))
        answers = json.loads(data.read_text(encoding="utf-8"))
        PICTURES.mkdir(parents=True, exist_ok=True)
        for name, board in panels.boards().items():
            page = folder / f"{name}.html"
            page.write_text(_page(board, answers, name), encoding="utf-8")
            size = f"--window-size={WIDTH},{_height(board)}"
            shot = folder / f"{name}.png"
            profile = f"--user-data-dir={folder / 'profile'}"
            run([chromium, *QUIET, profile, size, f"--screenshot={shot}", f"{url}/{page.name}"])
            _shrink(shot, PICTURES / shot.name)


def _bundle(folder: Path) -> None:
    modules = node_modules(HERE)
    for source in ("page.tsx", "panel.tsx", "data.ts", "heat.tsx", "tsconfig.json"):
        shutil.copy(HERE / source, folder / source)
    (folder / "node_modules").symlink_to(modules)
    (folder / "public").mkdir()
    (folder / "public/build").symlink_to(modules / "@grafana/ui/dist/public")  # its icons
    run([str(modules / ".bin/tsc"), "--project", ".", "--pretty", "false"], cwd=folder)
    options = ["--bundle", "--minify", "--jsx=automatic", "--loader:.ttf=empty", "--log-level=error"]
    defined = ['--define:process.env.NODE_ENV="production"', "--define:global=window"]
    run([str(modules / ".bin/esbuild"), "page.tsx", *options, *defined, "--outfile=page.js"], cwd=folder)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Over HTTP, since a page of file:// may not load icons."""
    handler = partial(_Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def _page(board: object, answers: dict[str, object], name: str) -> str:
    boards = answers["boards"]
    assert isinstance(boards, dict)
    given = {"board": board, "answers": boards[name], "end": answers["end"], "seconds": answers["seconds"]}
    text = json.dumps(given).replace("</", "<\\/")
    return (
        '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css"><div id="root"></div>'
        f'<script>window.given = {text}</script><script src="page.js"></script>'
    )


def _height(board: dict[str, list[dict[str, dict[str, int]]]]) -> int:
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    return HEAD + rows * ROW + 8


def _shrink(shot: Path, picture: Path) -> None:
    """A palette is enough for a chart, and a third of the size."""
    with Image.open(shot) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)
    if picture.stat().st_size > LARGEST:
        raise Broken(f"{picture} has {picture.stat().st_size} bytes: the docs take {LARGEST}")


def main() -> int:
    data = Path(sys.argv[1])
    try:
        if len(sys.argv) > 2:
            collect(data, float(sys.argv[2]))
        draw(data)
    except Broken as broken:
        print(broken, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
