"""VIDEO_PROCESSING runs ffmpeg: a stand-in here, so that the tests run where there is none."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from taskmill.app import Context
from taskmill.errors import Fail, Retry
from taskmill.handlers.video import process_video
from tests.support import running, wait_until

pytestmark = pytest.mark.usefixtures("configure")

STAND_IN = """#!{python}
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
with open(here + "/calls", "a") as calls:
    print(json.dumps([os.getpid(), *sys.argv[1:]]), file=calls)
{body}
with open(sys.argv[-1].removeprefix("file:"), "w") as out:
    out.write("video")
"""


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a stand-in on the PATH; returns a function that reads its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(body: str = "") -> Any:
        program = folder / "ffmpeg"
        program.write_text(STAND_IN.format(python=sys.executable, body=body))
        program.chmod(0o755)
        return lambda: [json.loads(line) for line in (folder / "calls").read_text().splitlines()]

    return install


@pytest.fixture
def clip(media: Path) -> str:
    (media / "-clip.mp4").write_text("in")
    return "-clip.mp4"


async def test_each_format_is_a_file(ffmpeg: Any, clip: str, ctx: Context, media: Path, port: Any) -> None:
    """In the order asked for, named by the format; progress and log lines come with it."""
    ffmpeg()
    result = await process_video(ctx, {"input": clip, "formats": ["720P", "4k", "720p"]})
    folder = f"results/{ctx.task_id}"
    assert result["files"] == [
        {"format": name, "file": f"{folder}/{name}.mp4", "bytes": 5} for name in ("720p", "4K")
    ]
    assert sorted(path.name for path in (media / folder).iterdir()) == ["4K.mp4", "720p.mp4"]
    assert port.values == [0.5, 1.0]


async def test_what_ffmpeg_may_open_is_bounded(ffmpeg: Any, clip: str, ctx: Context, media: Path) -> None:
    """Local files in real containers only, no standard input; a name cannot be an option or another protocol."""
    calls = ffmpeg()
    await process_video(ctx, {"input": clip, "formats": ["720p"]})
    ((_, *arguments),) = calls()
    given = dict(itertools.pairwise(arguments))
    assert given["-protocol_whitelist"] == "file"
    assert not {"hls", "concat", "dash", "image2"} & set(given["-format_whitelist"].split(","))
    assert given["-i"] == f"file:{media}/{clip}"
    assert "-nostdin" in arguments
    assert "720" in given["-vf"]


async def test_no_ffmpeg_is_a_clear_failure(
    clip: str, ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to install, and is not tried again."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Fail, match="ffmpeg is not on the PATH"):
        await process_video(ctx, {"input": clip, "formats": ["720p"]})


@pytest.mark.parametrize(
    ("says", "kind"),
    [("{clip}: Invalid data found when processing input", Fail), ("No space left on device", Retry)],
)
async def test_ffmpeg_fails(
    says: str, kind: type[Exception], ffmpeg: Any, clip: str, ctx: Context, media: Path
) -> None:
    """A broken video for good, anything else may go better; nothing half done is left, no path of ours is told."""
    ffmpeg(f"sys.exit(print({says.format(clip=media / clip)!r}, file=sys.stderr) or 1)")
    with pytest.raises(kind) as caught:
        await process_video(ctx, {"input": clip, "formats": ["720p"]})
    assert says.format(clip=f"media/{clip}") in str(caught.value)
    assert str(media) not in str(caught.value)
    assert list((media / "results" / ctx.task_id).iterdir()) == []


async def test_a_flood_of_messages_is_bounded(ffmpeg: Any, clip: str, ctx: Context) -> None:
    """A broken file can make it say megabytes: the end is kept."""
    ffmpeg("sys.stderr.write('x' * 3_000_000 + 'the end'); sys.exit(1)")
    with pytest.raises(Retry, match=r"the end$") as caught:
        await process_video(ctx, {"input": clip, "formats": ["720p"]})
    assert len(str(caught.value)) < 2100


async def test_a_cancelled_run_kills_it(ffmpeg: Any, clip: str, ctx: Context, media: Path) -> None:
    """As a timeout does: the process is gone when the run is, and its draft too."""
    calls = ffmpeg("open(sys.argv[-1].removeprefix('file:'), 'w').close(); time.sleep(60)")
    run = asyncio.create_task(process_video(ctx, {"input": clip, "formats": ["720p", "480p"]}))
    folder = media / "results" / ctx.task_id
    await wait_until(lambda: folder.exists() and list(folder.iterdir()))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    ((pid, *_),) = calls()
    assert not running(pid)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "payload",
    [None, {}, {"videoId": "abc123", "formats": ["720p"]}, {"input": "-clip.mp4"}, {"input": "-clip.mp4", "formats": []}]
    + [{"input": "-clip.mp4", "formats": formats} for formats in ("720p", ["8K"], [720], [None], {"a": 1})]
    + [{"input": "../-clip.mp4", "formats": ["720p"]}],
    ids=str,
)  # fmt: skip
async def test_a_wrong_payload_fails_for_good(payload: Any, ffmpeg: Any, clip: str, ctx: Context) -> None:
    """And says which field is meant."""
    ffmpeg()
    with pytest.raises(Fail, match=r"payload\.(input|formats): "):
        await process_video(ctx, payload)
