"""IMAGE_THUMBNAILS: an image into smaller ones, by Pillow.

{"input": "photos/cat.jpg", "sizes": [64, 256]}
→ {"input": …, "width": 4000, "height": 3000,
   "files": [{"size": 64, "file": "results/<task id>/64.jpg", "width": 64, "height": 48, "bytes": 1234}, …]}
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from taskmill.app import Context
from taskmill.errors import Fail
from taskmill.handlers.files import input_file, output_folder, shown, text_of, written_whole
from taskmill.handlers.options import HandlerOptions

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
BYTES_LIMIT: Final = 64 * 1024 * 1024
PIXELS_LIMIT: Final = 50_000_000
"""Of the image: about 200 MB when it is unpacked. A file of a few KB can claim any size."""
SIZES: Final = range(16, 4097)
SIZES_LIMIT: Final = 10


def make_thumbnails(ctx: Context, payload: Any) -> dict[str, Any]:
    """A plain function: Pillow works outside the interpreter's lock, in a thread. Bounded by the size of the image."""
    media = HandlerOptions.read().media
    source = input_file(media, text_of(payload, "input", "the name of a file below media/"))
    sizes = _sizes(payload.get("sizes", [128, 512]))
    if source.stat().st_size > BYTES_LIMIT:
        raise Fail(f"payload.input: the file has more than {BYTES_LIMIT // 1024 // 1024} MB")
    image = _opened(source)
    folder = output_folder(media, ctx.task_id)
    files = []
    for number, size in enumerate(sizes):
        if ctx.cancelled:
            raise Fail("stopped before it was done")
        files.append(_thumbnail(image, size, folder, media))
        ctx.progress((number + 1) / len(sizes))
    ctx.log("info", "thumbnails made", file=shown(media, source), count=len(files))
    return {"input": shown(media, source), "width": image.width, "height": image.height, "files": files}


def _sizes(value: Any) -> list[int]:
    wanted = value if isinstance(value, list) else []
    if not 1 <= len(wanted) <= SIZES_LIMIT or not all(type(size) is int and size in SIZES for size in wanted):
        raise Fail(
            f"payload.sizes: expected 1 to {SIZES_LIMIT} numbers from {SIZES.start} to {SIZES.stop - 1}, in pixels"
        )
    return sorted(set(wanted), reverse=True)


def _opened(source: Path) -> Image:
    """The image, unpacked and upright. Fail for anything else, whatever the file holds."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise Fail("Pillow is not installed on this worker: pip install 'taskmill[media]'") from None
    unreadable = (OSError, ValueError, SyntaxError, EOFError, struct.error, TypeError, IndexError, KeyError)
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(source, formats=FORMATS) as image:  # reads the header only
            if image.width * image.height > PIXELS_LIMIT:
                raise Fail(
                    f"payload.input: more than {PIXELS_LIMIT:,} pixels ({image.width} × {image.height})"
                )
            image.load()
            return ImageOps.exif_transpose(image)
    except bombs:
        raise Fail(f"payload.input: more than {PIXELS_LIMIT:,} pixels") from None
    except unreadable:
        raise Fail(f"payload.input: not an image that can be read ({', '.join(FORMATS)})") from None


def _thumbnail(image: Image, size: int, folder: Path, media: Path) -> dict[str, Any]:
    clear = "A" in image.getbands() or "transparency" in image.info
    small = image.convert("RGBA" if clear else "RGB")
    small.thumbnail((size, size))
    target = folder / f"{size}.{'png' if clear else 'jpg'}"
    with written_whole(target) as draft:
        small.save(draft, format="PNG" if clear else "JPEG", quality=85)
    name = shown(media, target)
    return {
        "size": size,
        "file": name,
        "width": small.width,
        "height": small.height,
        "bytes": target.stat().st_size,
    }
