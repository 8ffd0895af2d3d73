"""Damage to the bytes of a file."""

from hypothesis import strategies as st

_Draw = st.DrawFn
_KINDS = ("flip", "set", "delete", "repeat", "insert", "cut", "swap", "zero")


@st.composite
def damaged(draw: _Draw, raw: bytes, most: int = 4) -> bytes:
    """Return bytes with up to `most` changes; none of them is a possibility too."""
    changed = bytearray(raw)
    for _ in range(draw(st.integers(0, most))):
        _change(draw, changed)
    return bytes(changed)


def _change(draw: _Draw, changed: bytearray) -> None:
    if not changed:
        return
    at = draw(st.integers(0, len(changed) - 1))
    end = min(len(changed), at + draw(st.integers(1, 16)))
    match draw(st.sampled_from(_KINDS)):
        case "flip":
            changed[at] ^= 1 << draw(st.integers(0, 7))
        case "set":
            changed[at] = draw(st.sampled_from([0, 1, 9, 10, 13, 34, 44, 127, 128, 254, 255]))
        case "delete":
            del changed[at:end]
        case "repeat":
            changed[at:at] = changed[at:end]
        case "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=8))
        case "cut":
            del changed[at:]
        case "swap":
            changed[at:end] = changed[at:end][::-1]
        case "zero":
            changed[at:end] = bytes(end - at)
