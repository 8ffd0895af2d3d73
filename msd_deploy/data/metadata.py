"""Metadata of encoded images: the orientation that EXIF or XMP state, and files without metadata.

Decoders read metadata before pixels and some refuse the file for it: a text chunk that is too long,
a colour profile in wrong parts, a checksum of a comment. Nothing here decodes pixels.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from PIL import ExifTags, Image

UPRIGHT = 1
_ORIENTATIONS = range(UPRIGHT, 9)
_ORIENTATION = ExifTags.Base.Orientation.value
_EXIF_START = b"Exif\0\0"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_SHORT = 3
# Baseline tags of TIFF 6.0 and its extensions that say where the pixels are and what they mean.
_TIFF_PIXELS = frozenset(
    {254, *range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317}
    | {*range(320, 326), 332, 334, 336, 338, 339, 347, *range(512, 522), *range(529, 533)}
)
# JPEG markers: start and end of an image, start of a scan, application segments and comments.
_SCAN, _COMMENT = 0xDA, 0xFE
# Frames with Huffman codes in one pass, other frames, and the interval of restart markers.
_SEQUENTIAL, _RESTARTS = (0xC0, 0xC1), 0xDD
_OTHER_FRAMES = frozenset(range(0xC2, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JFIF, _EXIF_OR_XMP, _ADOBE, _LAST_APPLICATION = 0xE0, 0xE1, 0xEE, 0xEF
# What libjpeg itself requires of the two application segments that decide about colours.
_LEAST_BYTES = {_JFIF: 14, _ADOBE: 12}


def orientation_of(image: Image.Image) -> int:
    """Return the orientation that an image's EXIF states, else its XMP, from 1 to 8.

    Other values, and metadata that cannot be read, mean upright: 1.
    """
    try:
        orientation = image.getexif().get(_ORIENTATION)
    # Pillow's parser raises whatever it meets in broken EXIF.
    except Exception:
        orientation = None
    if orientation is None:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        orientation = _read_orientation(image.info.get("exif"), xmp)
    return int(orientation) if orientation in _ORIENTATIONS else UPRIGHT


def _read_orientation(exif: object, xmp: object) -> int:
    """Return the orientation in metadata that may be broken elsewhere."""
    if isinstance(exif, bytes):
        tiff = exif.removeprefix(_EXIF_START)
        for tag, kind, at in _tiff_entries(tiff):
            order = _BYTE_ORDERS[tiff[:4]]
            # Of more than one value, the entry has the place instead.
            if tag == _ORIENTATION and struct.unpack_from(order + "L", tiff, at + 4) == (1,):
                form = order + ("H" if kind == _SHORT else "L")
                return int(struct.unpack_from(form, tiff, at + 8)[0])
    found = re.search(rb'tiff:Orientation(="|>)([0-9])', xmp) if isinstance(xmp, bytes) else None
    return int(found[2]) if found else UPRIGHT


def without_metadata(encoded: bytes) -> tuple[bytes, int] | None:
    """Return a JPEG, PNG or TIFF file without its metadata, and its orientation, 1 to 8.

    Returns:
        None for other formats, and where nothing can be left out.
    """
    if encoded.startswith(b"\xff\xd8\xff"):
        bare, exif, xmp = _bare_jpeg(encoded)
    elif encoded.startswith(_PNG_START):
        bare, exif, xmp = _bare_png(encoded)
    elif encoded[:4] in _BYTE_ORDERS:
        bare, exif, xmp = _bare_tiff(encoded), encoded, b""
    else:
        return None
    orientation = _read_orientation(exif, xmp)
    if bare == encoded:
        return None
    return bare, orientation if orientation in _ORIENTATIONS else UPRIGHT


def _bare_jpeg(encoded: bytes) -> tuple[bytes, bytes, bytes]:
    kept, exif, xmp = [encoded[:2]], b"", b""
    at = 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF and encoded[at + 1] != _SCAN:
        marker, (length,) = encoded[at + 1], struct.unpack_from(">H", encoded, at + 2)
        segment, body = encoded[at : at + 2 + length], encoded[at + 4 : at + 2 + length]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _EXIF_OR_XMP and body.startswith(_EXIF_START):
            exif = exif or body
        elif marker == _EXIF_OR_XMP:
            xmp += body
        is_metadata = _JFIF <= marker <= _LAST_APPLICATION or marker == _COMMENT
        if not is_metadata or len(body) >= _LEAST_BYTES.get(marker, length):
            kept.append(segment)
        at += 2 + length
    return b"".join([*kept, encoded[at:]]), exif, xmp


def has_one_scan(encoded: bytes) -> bool:
    """Return whether a JPEG has all its pixels in one sequential scan without restart markers."""
    at, components = 2, 0
    while at + 10 <= len(encoded) and encoded[at] == 0xFF:
        marker, (length,) = encoded[at + 1], struct.unpack_from(">H", encoded, at + 2)
        if marker == _SCAN:
            return components == encoded[at + 4]
        if marker in _SEQUENTIAL:
            components = encoded[at + 9]
        elif marker in _OTHER_FRAMES or marker == _RESTARTS:
            return False
        at += 1 if marker == 0xFF else 2 + length
    return False


def _bare_png(encoded: bytes) -> tuple[bytes, bytes, bytes]:
    kept, exif, xmp = [_PNG_START], b"", b""
    at = len(_PNG_START)
    while at + 12 <= len(encoded):
        length, kind = struct.unpack_from(">L4s", encoded, at)
        body, chunk = encoded[at + 8 : at + 8 + length], encoded[at : at + 12 + length]
        if kind in _PNG_PIXELS:
            kept.append(chunk)
        elif chunk[-4:] == struct.pack(">L", zlib.crc32(kind + body)):
            exif = body if kind == b"eXIf" else exif
            xmp += body if kind == b"iTXt" else b""
        at += len(chunk)
    return b"".join(kept), exif, xmp


def _bare_tiff(encoded: bytes) -> bytes:
    """Return a TIFF whose first directory has no entries but those of the pixels."""
    order = _BYTE_ORDERS[encoded[:4]]
    entries = list(_tiff_entries(encoded))
    kept = [at for tag, _, at in entries if tag in _TIFF_PIXELS]
    if len(kept) == len(entries):
        return encoded
    (start,) = struct.unpack_from(order + "L", encoded, 4)
    directory = b"".join(encoded[at : at + 12] for at in kept)
    directory = struct.pack(order + "H", len(kept)) + directory + bytes(4)
    return encoded[:start] + directory + encoded[start + len(directory) :]


def _tiff_entries(tiff: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield tag, type and place of each entry of the first directory."""
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return
    (start,) = struct.unpack_from(order + "L", tiff, 4)
    if start + 2 > len(tiff):
        return
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, at)
        yield tag, kind, at
