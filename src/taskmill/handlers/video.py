"""VIDEO_PROCESSING: a video into other sizes, by ffmpeg.

{"input": "clips/talk.mov", "formats": ["720p", "1080p", "4K"]}
→ {"input": …, "files": [{"format": "720p", "file": "results/<task id>/720p.mp4", "bytes": 123456}, …]}
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from taskmill.app import Context
from taskmill.errors import Fail, Retry
from taskmill.handlers.files import input_file, output_folder, shown, text_of, written_whole
from taskmill.handlers.options import HandlerOptions

HEIGHTS: Final = {
    "240p": 240,
    "360p": 360,
    "480p": 480,
    "720p": 720,
    "1080p": 1080,
    "1440p": 1440,
    "2160p": 2160,
    "4K": 2160,
}
# Containers that hold a video themselves. Playlists and the like name further files and addresses, which ffmpeg
# would open: a user could read any file of the worker with them.
CONTAINERS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,h264,hevc,gif,yuv4mpegpipe"
)
ERRORS_KEPT: Final = 2000
"""Characters of what ffmpeg says when it fails."""


async def process_video(ctx: Context, payload: Any) -> dict[str, Any]:
    """One ffmpeg at a time for the run; killed when the run is cancelled or its time is up."""
    media = HandlerOptions.read().media
    source = input_file(media, text_of(payload, "input", "the name of a file below media/"))
    formats = _formats(payload.get("formats"))
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise Fail("ffmpeg is not on the PATH of this worker: install it (Debian: apt install ffmpeg)")
    folder = output_folder(media, ctx.task_id)
    files = []
    for number, name in enumerate(formats):
        target = folder / f"{name}.mp4"
        ctx.log("info", f"converting to {name}", file=shown(media, source))
        with written_whole(target) as draft:
            await _run(_command(ffmpeg, source, HEIGHTS[name], draft), media)
        files.append({"format": name, "file": shown(media, target), "bytes": target.stat().st_size})
        ctx.progress((number + 1) / len(formats))
    return {"input": shown(media, source), "files": files}


def _formats(value: Any) -> list[str]:
    named = {name.lower(): name for name in HEIGHTS}
    wanted = value if isinstance(value, list) else []
    found = [named.get(item.lower()) if isinstance(item, str) else None for item in wanted]
    if not found or None in found:
        raise Fail(f"payload.formats: expected a list of {', '.join(HEIGHTS)}")
    return list(dict.fromkeys(name for name in found if name is not None))


def _command(ffmpeg: str, source: Path, height: int, target: Path) -> list[str]:
    reading = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i", f"file:{source}"]
    # Never larger than it is; an even width, as the encoder needs it.
    picture = ["-map", "0:v:0", "-vf", f"scale=-2:'2*trunc(min({height},ih)/2)'", "-c:v", "libx264"]
    sound = ["-map", "0:a:0?", "-c:a", "aac"]
    common = ["-hide_banner", "-nostdin", "-loglevel", "error", "-y"]
    writing = ["-preset", "veryfast", "-pix_fmt", "yuv420p", "-map_metadata", "-1", "-movflags", "+faststart"]
    return [ffmpeg, *common, *reading, *picture, *sound, *writing, "-f", "mp4", f"file:{target}"]


async def _run(command: Sequence[str], media: Path) -> None:
    """In the runner's process group, so that it ends with the runner whatever happens."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said = await _tail(process.stderr)
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status == 0:
        return
    text = said.replace(str(media), "media").strip() or f"exit status {status}"
    if "Invalid data found" in text or "not in allowed" in text or "whitelist" in text:
        raise Fail(f"ffmpeg cannot read it: {text}")
    raise Retry(f"ffmpeg failed: {text}")


async def _tail(stream: asyncio.StreamReader | None) -> str:
    """The end of a stream, however much there is."""
    kept = b""
    while stream is not None and (chunk := await stream.read(8192)):
        kept = (kept + chunk)[-4 * ERRORS_KEPT :]
    return kept.decode(errors="replace")[-ERRORS_KEPT:]
