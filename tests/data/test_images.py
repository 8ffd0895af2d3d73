import io
import re
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msd_deploy.data import images, resize
from msd_deploy.data.images import FORMATS, decode_image, load_pixels, to_rgb
from msd_deploy.data.resize import ImageSpec, resize_to_spec
from msd_deploy.errors import DataError

FIXED_POINT_BITS = 22


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def reference_weights(size: int, target: int) -> list[tuple[int, np.ndarray]]:
    """docs/preprocessing.md, step 4: fixed-point weights of each target pixel and their start."""
    scale = size / target
    support = max(1.0, scale)
    rows = []
    for position in range(target):
        centre = (position + 0.5) * scale
        first = max(0, int(centre - support + 0.5))
        last = min(size, int(centre + support + 0.5))
        distance = np.abs((np.arange(first, last) + 0.5 - centre) / support)
        weights = np.maximum(0.0, 1.0 - distance)
        weights /= weights.sum()
        rows.append((first, np.floor(weights * (1 << FIXED_POINT_BITS) + 0.5).astype(np.int64)))
    return rows


def reference_resize_rows(pixels: np.ndarray, target: int) -> np.ndarray:
    """Resize along axis 1, in integers, as the document defines it."""
    columns = []
    for first, weights in reference_weights(pixels.shape[1], target):
        window = pixels[:, first : first + len(weights)].astype(np.int64)
        total = (window * weights[None, :, None]).sum(axis=1) + (1 << (FIXED_POINT_BITS - 1))
        columns.append(np.clip(total >> FIXED_POINT_BITS, 0, 255))
    return np.stack(columns, axis=1).astype(np.uint8)


def reference_resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    if width != pixels.shape[1]:
        pixels = reference_resize_rows(pixels, width)
    if height != pixels.shape[0]:
        pixels = reference_resize_rows(pixels.swapaxes(0, 1), height).swapaxes(0, 1)
    return pixels


@pytest.mark.parametrize("size", [(100, 100), (17, 17), (301, 301), (48, 48), (49, 49)])
def test_resize_equals_the_documented_integer_arithmetic_to_the_bit(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    result = resize_to_spec(Image.fromarray(pixels), ImageSpec((48, 48)))
    assert np.array_equal(result, reference_resize(pixels, 48, 48))


@pytest.mark.parametrize(
    ("width", "height", "mode", "scaled", "offset"),
    [
        (100, 50, "fit", (48, 24), (12, 0)),
        (50, 100, "fit", (24, 48), (0, 12)),
        (101, 50, "crop", (97, 48), (0, -24)),
        (33, 100, "crop", (48, 145), (-48, 0)),
        (100, 300, "fit", (16, 48), (0, 16)),
        (100, 300, "crop", (48, 144), (-48, 0)),
        (1000, 1, "fit", (48, 1), (23, 0)),
    ],
)
def test_fit_pads_with_white_and_crop_cuts_the_longer_side(
    width: int, height: int, mode: str, scaled: tuple[int, int], offset: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    result = resize_to_spec(Image.fromarray(pixels), ImageSpec((48, 48), mode))  # type: ignore[arg-type]
    whole = reference_resize(pixels, *scaled)
    top, left = offset
    if mode == "crop":
        assert np.array_equal(result, whole[-top : -top + 48, -left : -left + 48])
    else:
        expected = np.full((48, 48, 3), 255, np.uint8)
        expected[top : top + whole.shape[0], left : left + whole.shape[1]] = whole
        assert np.array_equal(result, expected)


def stripes(width: int, height: int) -> Image.Image:
    """An image one pixel wide or high whose colour changes slowly along its length."""
    values = (np.arange(width * height) * 251 // (width * height)).astype(np.uint8)
    return Image.fromarray(values.reshape(height, width)).convert("RGB")


@pytest.mark.parametrize("mode", ["fit", "crop"])
@pytest.mark.parametrize(("width", "height"), [(1, 2_000_000), (2_000_000, 1)])
def test_a_line_of_an_image_is_resized_without_gigabytes(
    width: int, height: int, mode: str
) -> None:
    """Scaled before it is cut, the line would have 48 x 96,000,000 pixels."""
    pixels = resize_to_spec(stripes(width, height), ImageSpec((48, 48), mode))  # type: ignore[arg-type]
    along = pixels[:, 23, 0] if height > 1 else pixels[23, :, 0]
    # fit shows the whole line, crop the pixel in its middle.
    expected = np.linspace(0, 250, 48) if mode == "fit" else np.full(48, 125)
    np.testing.assert_allclose(along, expected, atol=3)


@pytest.mark.parametrize("mode", ["fit", "crop"])
def test_extreme_shapes_are_resized_to_the_same_bits_as_ordinary_ones(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    generator = np.random.default_rng(2)
    for _ in range(40):
        height, width = np.exp(generator.uniform(0, 6, 2)).astype(int)
        noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        spec = ImageSpec((24, 17), mode)  # type: ignore[arg-type]
        ordinary = resize_to_spec(Image.fromarray(noise), spec)
        with monkeypatch.context() as patched:
            patched.setattr(resize, "_LONGEST_ORDINARY_SIDE", 0)
            patched.setattr(resize, "_BLOCK_PIXELS", 100)
            extreme = resize_to_spec(Image.fromarray(noise), spec)
        assert np.array_equal(ordinary, extreme), (width, height)


def test_an_image_that_cannot_be_resized_is_named(tmp_path: Path) -> None:
    path = tmp_path / "poster.png"
    path.write_bytes(encoded(Image.new("RGB", (5, 3))))
    larger_than_any_memory = ImageSpec((2**46, 2**46), "crop")
    with pytest.raises(DataError, match=r"poster\.png: image of 5 by 3 pixels cannot be resized"):
        load_pixels(path, larger_than_any_memory)


def test_transparency_is_composited_over_white() -> None:
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [100, 0, 200, 128]]], np.uint8)
    result = np.asarray(to_rgb(Image.fromarray(rgba)))[0]
    half = [(100 * 128 + 255 * 127 + 127) // 255, (255 * 127 + 127) // 255]
    half.append((200 * 128 + 255 * 127 + 127) // 255)
    assert result.tolist() == [[255, 255, 255], [10, 20, 30], half]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (9, 7), (200, 40, 90)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.full((7, 9), 200 << 8, np.uint16))
        assert np.asarray(to_rgb(image))[0, 0].tolist() == [200, 200, 200]
    assert to_rgb(image).mode == "RGB"
    assert to_rgb(image).size == (9, 7)


def test_palette_transparency_is_white() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    pixels = load_pixels(encoded(palette, transparency=0), ImageSpec((4, 4)))
    assert (pixels == 255).all()


def png_with_transparent_colour(
    line: bytes, *, bits: int, colour_type: int, colour: tuple[int, ...]
) -> bytes:
    """A PNG of one line of two pixels, which Pillow cannot write at every depth."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, colour_type, 0, 0, 0)),
        (b"tRNS", struct.pack(f">{len(colour)}H", *colour)),
        (b"IDAT", zlib.compress(b"\0" + line)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("line", "bits", "colour", "expected"),
    [
        (bytes([0b01_00_0000]), 1, (1,), [0, 255]),
        (bytes([0b01_10_0000]), 2, (1,), [255, 170]),
        (bytes([0x12]), 4, (1,), [255, 34]),
        (bytes([9, 8]), 8, (9,), [255, 8]),
        # 0x2c01 differs from the transparent 0x2c00 in its lower eight bits alone.
        (struct.pack(">HH", 0x2C00, 0x2C01), 16, (0x2C00,), [255, 0x2C]),
        (struct.pack(">HH", 0, 0xFFFF), 16, (0,), [255, 255]),
    ],
)
def test_a_transparent_grey_is_white_at_every_depth(
    line: bytes, bits: int, colour: tuple[int, ...], expected: list[int]
) -> None:
    png = png_with_transparent_colour(line, bits=bits, colour_type=0, colour=colour)
    assert np.asarray(decode_image(png))[0].tolist() == [[value] * 3 for value in expected]


def test_a_transparent_colour_of_sixteen_bits_is_known_by_its_upper_eight() -> None:
    line = struct.pack(">6H", 0x9C40, 0x0100, 0x0200, 0x4001, 0x0100, 0x0200)
    png = png_with_transparent_colour(line, bits=16, colour_type=2, colour=(0x9C40, 0x0100, 0x0200))
    assert np.asarray(decode_image(png))[0].tolist() == [[255] * 3, [0x40, 1, 2]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.zeros((2, 4, 3), np.uint8)
    upright[0, 0] = 255
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p),
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    assert np.array_equal(np.asarray(decode_image(encoded(stored, exif=exif))), upright)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path.write_bytes(encoded(Image.fromarray(noise))[:2000])
    with pytest.raises(DataError, match=r"cut\.png: image cannot be decoded"):
        decode_image(path)


def test_a_decompression_bomb_is_refused() -> None:
    bomb = encoded(Image.new("L", (200, 200)))
    with pytest.raises(DataError, match=r"40,000 pixels, more than the limit of 30,000"):
        decode_image(bomb, max_pixels=30_000)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_very_large_jpeg_is_decoded_at_half_its_size(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph = encoded(photo(401, 301), "JPEG", quality=95, **options)
    whole = load_pixels(photograph, ImageSpec((48, 48)))
    monkeypatch.setattr(images, "_HALVED_FROM", 401 * 301)
    assert decode_image(photograph).size == (401, 301)
    monkeypatch.setattr(images, "_HALVED_FROM", 401 * 301 - 1)
    assert decode_image(photograph, max_pixels=201 * 151).size == (201, 151)
    halved = load_pixels(photograph, ImageSpec((48, 48)))
    assert np.abs(halved.astype(int) - whole).max() <= 4
    with pytest.raises(
        DataError, match="120,701 pixels, 30,351 at half its size, more than the limit of 30,350"
    ):
        decode_image(photograph, max_pixels=201 * 151 - 1)


def test_the_limit_of_pixels_names_the_image_and_the_way_to_raise_it(tmp_path: Path) -> None:
    path = tmp_path / "poster.png"
    path.write_bytes(encoded(photo()))
    expected = r"poster\.png: image has 1,200 pixels, more than the limit of 1,199, .*--max-pixels"
    with pytest.raises(DataError, match=expected):
        load_pixels(path, ImageSpec((8, 8), max_pixels=1199))
    assert load_pixels(path, ImageSpec((8, 8), max_pixels=1200)).shape == (8, 8, 3)


def test_blocks_of_rows_change_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (31, 17, 4), dtype=np.uint8)
    grey = np.random.default_rng(0).integers(0, 65536, (31, 17), dtype=np.uint16)
    sources = [encoded(Image.fromarray(rgba)), encoded(Image.fromarray(grey))]
    whole = [pixels_of(source) for source in sources]
    monkeypatch.setattr(images, "_BLOCK_PIXELS", 40)
    assert [pixels_of(source) for source in sources] == whole


def photo(width: int = 40, height: int = 30) -> Image.Image:
    """A smooth image without any symmetry."""
    down, across = np.mgrid[0:height, 0:width]
    channels = [across * 200 // width, down * 150 // height, (across + down) * 99 // width]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def pixels_of(source: bytes) -> list[object]:
    return np.asarray(decode_image(source)).tolist()


def jpeg_with(*segments: tuple[int, bytes], **options: object) -> bytes:
    """A JPEG with further marker segments at its start."""
    whole = encoded(photo(), "JPEG", **options)
    packed = (struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in segments)
    return whole[:2] + b"".join(packed) + whole[2:]


def png_with(*chunks: tuple[bytes, bytes], valid: bool = True, last: bool = False) -> bytes:
    """A PNG with further chunks behind its header, or behind its pixels."""
    whole = encoded(photo())
    at = len(whole) - 12 if last else 33
    packed = (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body) ^ (not valid))
        for kind, body in chunks
    )
    return whole[:at] + b"".join(packed) + whole[at:]


def tiff_with(tag: int, kind: int, count: int, value: int, mode: str = "RGB") -> bytes:
    """A TIFF with one more entry before those of its pixels."""
    whole = encoded(photo().convert(mode), "TIFF")
    (start,) = struct.unpack_from("<L", whole, 4)
    (entries,) = struct.unpack_from("<H", whole, start)
    body = whole[start + 2 : start + 2 + 12 * entries]
    entry = struct.pack("<HHLL", tag, kind, count, value)
    return (
        whole[:4]
        + struct.pack("<L", len(whole))
        + whole[8:]
        + struct.pack("<H", entries + 1)
        + entry
        + body
        + bytes(4)
    )


def exif_of(*entries: tuple[int, int, int, int]) -> bytes:
    """EXIF of big-endian entries: tag, type, count, value."""
    packed = b"".join(struct.pack(">HHLL", *entry) for entry in entries)
    return b"Exif\0\0MM\0*" + struct.pack(">LH", 8, len(entries)) + packed + bytes(4)


FAR = 0x7FFFFFFF
LONG_TEXT = b"Comment\0\0" + zlib.compress(bytes(70 << 20))
ODD_METADATA = {
    "EXIF that is no EXIF": png_with((b"eXIf", b"\0\x08\0\x02\x01\x12")),
    "EXIF of other bytes": jpeg_with((0xE1, b"Exif\0\0" + bytes(range(200)))),
    "EXIF that is empty": jpeg_with((0xE1, b"Exif\0\0")),
    "EXIF with a value far away": jpeg_with((0xE1, exif_of((0x10F, 2, 99, FAR)))),
    "EXIF with a broken directory": jpeg_with((0xE1, exif_of((0x8769, 4, 1, FAR)))),
    "an unreadable raw profile": png_with((b"tEXt", b"Raw profile type exif\0\nexif\n6\nxyz")),
    "a text that is too long": png_with((b"zTXt", LONG_TEXT)),
    "a text that is too long, at the end": png_with((b"zTXt", LONG_TEXT), last=True),
    "an international text that is cut off": png_with((b"iTXt", b"key\0\1")),
    "a comment with a wrong checksum": png_with((b"tEXt", b"a\0b"), valid=False),
    "a profile that is compressed otherwise": png_with((b"iCCP", b"name\0\7abc")),
    "a resolution that is cut off": png_with((b"pHYs", b"\0")),
    "a profile without its number": jpeg_with((0xE2, b"ICC_PROFILE\0")),
    "a JFIF segment that is cut off": jpeg_with((0xE0, b"JFIF\0")),
    "an Adobe segment that is cut off": jpeg_with((0xEE, b"Adobe")),
    "a Photoshop block that is cut off": jpeg_with((0xED, b"Photoshop 3.0\x008BIM\4\4")),
    "an index of images that is no index": jpeg_with((0xE2, b"MPF\0" + bytes(30))),
    "an index of images without a number": jpeg_with(
        (0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1\xb0\0\0\7\0\0\0\x040100\0\0\0\0")
    ),
    "XMP of other bytes": jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe\0")),
    "a TIFF's text far away": tiff_with(0x10E, 2, 99, FAR),
    "a TIFF's profile far away": tiff_with(0x8773, 7, 99, FAR),
    "a TIFF's EXIF far away": tiff_with(0x8769, 4, 1, FAR),
    "a TIFF's resolution of no type": tiff_with(0x11A, 99, 1, 0),
}


@pytest.mark.parametrize("what", ODD_METADATA)
def test_whole_pixels_are_read_whatever_the_metadata(what: str) -> None:
    odd = ODD_METADATA[what]
    kind = "JPEG" if odd[:1] == b"\xff" else "TIFF" if odd[:2] == b"II" else "PNG"
    assert pixels_of(odd) == pixels_of(encoded(photo(), kind))


@pytest.mark.parametrize(
    "odd",
    [
        jpeg_with((0xE1, exif_of((0x10F, 2, 99, FAR), (0x112, 3, 1, 3 << 16)))),
        jpeg_with((0xE1, exif_of((0x112, 3, 1, 3 << 16))), (0xE2, b"ICC_PROFILE\0")),
        jpeg_with(
            (0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="3"/>'), (0xEE, b"Adobe")
        ),
        png_with((b"eXIf", exif_of((0x112, 3, 1, 3 << 16))[6:]), (b"zTXt", LONG_TEXT)),
        png_with(
            (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'), (b"pHYs", b"")
        ),
    ],
)
def test_the_orientation_counts_though_other_metadata_is_broken(odd: bytes) -> None:
    kind = "JPEG" if odd[:1] == b"\xff" else "PNG"
    upright = encoded(photo(), kind)
    assert pixels_of(odd) == np.asarray(decode_image(upright))[::-1, ::-1].tolist()


def test_pixels_that_are_not_whole_are_not_read_for_their_metadata() -> None:
    for odd in (png_with((b"zTXt", LONG_TEXT)), jpeg_with((0xEE, b"Adobe"))):
        with pytest.raises(DataError, match="cannot be decoded"):
            decode_image(odd[:-200])


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_the_documentation_is_read(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "preprocessing.md").read_text()
    options = {"sizes": [(40, 30)]} if name == "ICO" else {}
    assert decode_image(encoded(photo(), name, **options)).size == (40, 30)
    assert f"| {name} |" in page


OTHER_FORMATS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "EPS ": b"\xc5\xd0\xd3\xc6" + bytes(60),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(60),
    "WMF ": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60),
    "FITS": b"SIMPLE  =                    T" + bytes(2880),
    "PSD": b"8BPS\0\1" + bytes(60),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "BUFR": b"BUFR\0\0\0\1" + bytes(60),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(60),
    "JPEG XL": b"\xff\x0a" + bytes(60),
    "JPEG XL ": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60),
    "PDF": b"%PDF-1.7\n" + bytes(60),
    "ZIP": b"PK\3\4" + bytes(60),
    "gzip": b"\x1f\x8b\x08" + bytes(60),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_decoders_of_other_formats_never_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("its decoder ran")

    Image.init()
    for other in set(Image.OPEN) - set(FORMATS):
        monkeypatch.setitem(Image.OPEN, other, (refuse, Image.OPEN[other][1]))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(DataError, match=rf"image cannot be decoded \({name.strip()} is not read"):
        decode_image(OTHER_FORMATS[name])


@pytest.mark.parametrize(
    ("stored", "kind", "reason"),
    [
        (np.ones((4, 4), np.float32), "TIFF", "floating-point numbers"),
        (np.full((4, 4), 70_000, np.int32), "TIFF", "32-bit or signed integers"),
        (np.full((4, 4), 7, np.int32), "TIFF", "32-bit or signed integers"),
        (np.ones((4, 4), np.float32), "PPM", "floating-point numbers"),
    ],
)
def test_pixels_of_an_unknown_range_are_refused(stored: np.ndarray, kind: str, reason: str) -> None:
    image = Image.fromarray(stored)
    for source in (image, encoded(image, kind)):
        with pytest.raises(DataError, match=reason):
            decode_image(source)


def test_greys_of_twelve_bits_are_refused() -> None:
    whole = bytearray(encoded(Image.fromarray(np.full((4, 4), 4095, np.uint16)), "TIFF"))
    at = whole.index(struct.pack("<HHLH", 258, 3, 1, 16))
    struct.pack_into("<H", whole, at + 8, 12)
    with pytest.raises(DataError, match="greys of 12 bits"):
        decode_image(bytes(whole))


def test_sixteen_bit_greys_of_a_pgm_keep_their_upper_eight() -> None:
    stored = Image.fromarray(np.full((4, 4), 0x2C00, np.uint16))
    assert (np.asarray(decode_image(encoded(stored, "PPM"))) == 0x2C).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\n <!DOCTYPE HTML><title>404</title>", "it is an HTML page"),
        (b"\xef\xbb\xbf<html></html>", "it is an HTML page"),
        (b"<?xml version='1.0'?><Error/>", "it is XML"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a pointer of Git LFS"),
        (b'{"message": "not found"}', "it is JSON"),
        (b"data:image/png;base64,AAAA", "it is a data URL"),
    ],
)
def test_what_was_saved_in_place_of_an_image_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        decode_image(content)
    assert caught.value.fix


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("quality", [50, 95])
def test_of_a_jpeg_without_its_end_marker_whole_pixels_are_read(
    subsampling: int, quality: int
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (41, 57, 3), np.uint8)
    options = {"quality": quality, "subsampling": subsampling}
    whole = encoded(Image.fromarray(values), "JPEG", **options)
    for cut in (1, 2):
        assert pixels_of(whole[:-cut]) == pixels_of(whole)
    for cut in range(3, 60):
        with pytest.raises(DataError, match="truncated"):
            decode_image(whole[:-cut])


def test_of_a_progressive_jpeg_a_missing_end_may_be_missing_pixels() -> None:
    whole = encoded(photo(), "JPEG", progressive=True)
    with pytest.raises(DataError, match="truncated"):
        decode_image(whole[:-2])
