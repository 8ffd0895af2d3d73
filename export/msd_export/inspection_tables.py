"""An inspection as tables for people: strings only, drawn by whoever shows them."""

from collections.abc import Mapping
from dataclasses import dataclass

from msd_export.inspection import Inspection

_LAYERS = 12


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table.

    Attributes:
        title: Above it.
        columns: Their names.
        rows: As many cells each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(found: Inspection) -> tuple[TextTable, ...]:
    """Return what `msd inspect` shows, in its order.

    Names are the file's own: what would steer a terminal is replaced.
    """
    return tuple(
        TextTable(
            _printable(table.title),
            table.columns,
            tuple(tuple(map(_printable, row)) for row in table.rows),
        )
        for table in _tables(found)
    )


def _printable(text: str) -> str:
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _tables(found: Inspection) -> tuple[TextTable, ...]:
    facts = found.facts
    layers = facts.layers()
    return (
        _signature(found),
        TextTable(
            "Operators",
            ("type", "count", "int8"),
            tuple(
                (name, str(count), str(facts.int8_operators.get(name, 0)))
                for name, count in facts.operators.items()
            ),
        ),
        _sizes(f"Largest of {len(layers)} layers", dict(list(layers.items())[:_LAYERS])),
        _sizes("By outermost module", facts.groups()),
        _sizes("By storage type", facts.storage()),
        _stated(found),
    )


def _signature(found: Inspection) -> TextTable:
    form = f"{found.target} {found.precision}" if found.precision else found.target
    tensors = [("input", tensor) for tensor in found.facts.inputs]
    tensors += [("output", tensor) for tensor in found.facts.outputs]
    return TextTable(
        f"{found.path}: {form}, {found.size_bytes:,} bytes",
        ("", "name", "shape", "dtype"),
        tuple((kind, t.name, " x ".join(map(str, t.shape)), t.dtype) for kind, t in tensors),
    )


def _sizes(title: str, sizes: Mapping[str, int]) -> TextTable:
    rows = tuple((name, f"{size:,}") for name, size in sizes.items())
    return TextTable(title, ("name", "bytes"), rows)


def _stated(found: Inspection) -> TextTable:
    stated = {**(found.provenance or {}), **found.facts.metadata, **_parity(found)}
    rows = tuple((name, str(value)) for name, value in stated.items())
    return TextTable("Stated", ("what", "value"), rows)


def _parity(found: Inspection) -> dict[str, str]:
    views = (found.parity or {}).get("views", {})
    assert isinstance(views, dict)  # it was read so
    return {
        f"parity, {name}": f"max error {view['max_abs_error']:.1e},"
        f" agreement {view['agreement']:.2%}, drop {view['drop'] * 100:+.2f} points"
        for name, view in views.items()
    }
