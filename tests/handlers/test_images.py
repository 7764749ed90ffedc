"""IMAGE_THUMBNAILS makes real thumbnails, and survives what is no image."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from taskmill.app import Context
from taskmill.errors import Fail
from taskmill.handlers.images import make_thumbnails
from taskmill.handlers.options import HandlerOptions

pytestmark = pytest.mark.usefixtures("configure")


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that claims a size, whatever it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("form", "mode", "ending"),
    [("JPEG", "RGB", "jpg"), ("JPEG", "L", "jpg"), ("PNG", "RGBA", "png"), ("PNG", "P", "jpg"), ("GIF", "P", "jpg")]
    + [("WEBP", "RGB", "jpg"), ("BMP", "RGB", "jpg"), ("TIFF", "CMYK", "jpg"), ("PNG", "I;16", "jpg")],
)  # fmt: skip
def test_thumbnails_of_every_kind(form: str, mode: str, ending: str, ctx: Context, media: Path) -> None:
    """Each size is a file that opens, no larger than asked, in proportion; transparency is kept."""
    Image.new(mode, (400, 200)).save(media / "in.img", form)
    result = make_thumbnails(ctx, {"input": "in.img", "sizes": [64, 16]})
    assert (result["input"], result["width"], result["height"]) == ("in.img", 400, 200)
    assert [file["size"] for file in result["files"]] == [64, 16]
    for file in result["files"]:
        assert file["file"] == f"results/{ctx.task_id}/{file['size']}.{ending}"
        assert (media / file["file"]).stat().st_size == file["bytes"]
        with Image.open(media / file["file"]) as image:
            assert image.size == (file["width"], file["height"]) == (file["size"], file["size"] // 2)


def test_a_photo_is_turned_upright(ctx: Context, media: Path) -> None:
    """As the camera says it was held."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200)).save(media / "in.jpg", exif=exif)
    (file,) = make_thumbnails(ctx, {"input": "in.jpg", "sizes": [64]})["files"]
    assert (file["width"], file["height"]) == (32, 64)


def test_a_repeated_run_writes_the_same_files(ctx: Context, media: Path) -> None:
    """At-least-once leaves one set of results, and no drafts."""
    Image.new("RGB", (40, 20)).save(media / "in.png")
    first = make_thumbnails(ctx, {"input": "in.png"})
    assert make_thumbnails(ctx, {"input": "in.png"}) == first
    assert len(list((media / "results" / ctx.task_id).iterdir())) == len(first["files"]) == 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "not an image"),
        (png(100, 100, b"\0" * 50), "not an image"),
        (png(60_000, 60_000), "pixels"),
        (png(12_000, 12_000), "pixels"),
        (b"GIF89a\xff\xff\xff\xff" + b"\0" * 20, "(pixels|not an image)"),
        (b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 64, "not an image"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_no_image_fails_for_good(content: bytes, why: str, ctx: Context, media: Path) -> None:
    """Other files, broken ones, and bombs that claim a size to fill the memory with."""
    (media / "in.img").write_bytes(content)
    with pytest.raises(Fail, match=rf"payload\.input: .*{why}"):
        make_thumbnails(ctx, {"input": "in.img"})
    assert not (media / "results").exists()


def test_a_huge_file_is_not_read(ctx: Context, media: Path) -> None:
    """Its size is looked at first."""
    with (media / "in.img").open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    with pytest.raises(Fail, match="64 MB"):
        make_thumbnails(ctx, {"input": "in.img"})


@pytest.mark.parametrize(
    "payload",
    [None, [], "x", {}, {"input": 3}, {"input": " "}, {"input": "../x.png"}]
    + [{"input": "in.png", "sizes": sizes} for sizes in ([], None, "64", [8], [5000], [64.5], [True], ["64"], [64] * 11)],
    ids=str,
)  # fmt: skip
def test_a_wrong_payload_fails_for_good(payload: Any, ctx: Context, media: Path) -> None:
    """And says which field is meant."""
    Image.new("RGB", (40, 20)).save(media / "in.png")
    with pytest.raises(Fail, match=r"payload\.(input|sizes): "):
        make_thumbnails(ctx, payload)


def test_a_cancelled_run_stops_between_sizes(ctx: Context, media: Path) -> None:
    """A thread cannot be stopped from outside: it looks."""
    Image.new("RGB", (40, 20)).save(media / "in.png")
    ctx.cancelled.set("cancel")
    with pytest.raises(Fail, match="stopped"):
        make_thumbnails(ctx, {"input": "in.png"})
    assert HandlerOptions.read().media == media
