"""The columns of image, text and label in a table, found by name and type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import pyarrow as pa

from msd_deploy.data.readers.rows import LABEL_KEYS, WITHOUT_LABELS, shown
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import DataError, shortened

MIXED = pa.struct([("json", pa.string())])
"""The type of a column whose values are of several types, each as JSON; `None` where absent."""
LINE, FILE, FLAW = "msd-deploy: line", "msd-deploy: file", "msd-deploy: flaw"
"""Columns of text files beside their own: where a row stands, and why it cannot be used, if so."""
_UNREAD = "not read: "
_OPTIONS = "Name columns with --image-column, --text-column and --label-column"


def unread_type(kind: str) -> pa.DataType:
    """Return the type of a column of which only is known which rows have a value.

    Args:
        kind: The type that its values are of, for a message.
    """
    return pa.struct([(f"{_UNREAD}{kind}", pa.null())])


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that are read.

    Attributes:
        image: The image's, or None.
        text: The text's, or None.
        label: The label's or the labels'; None: rows have none.
        is_multi_label: Whether a row has a list of labels; not known of values of several types.
        names: The names of its class indices; None where rows hold names or numbers themselves.
    """

    image: str | None
    text: str | None
    label: str | None
    is_multi_label: bool
    names: tuple[str, ...] | None


def find_columns(where: str, features: datasets.Features, options: SourceOptions) -> Columns:
    """Find the columns: those that are named, else image, text, and label or labels.

    Raises:
        DataError: One is missing or of a type that cannot be used; names those that are there.
    """
    image = _not_null(features, _column(where, features, options.image_column, ("image",)))
    text = _not_null(features, _column(where, features, options.text_column, ("text",)))
    label = _not_null(features, _column(where, features, options.label_column, LABEL_KEYS))
    lacks_label = label is None and options.teacher is None
    if lacks_label or (image is None and text is None):
        has = "label or labels" if lacks_label else "image nor text"
        fix = f"{_OPTIONS}, or {WITHOUT_LABELS}" if lacks_label else _OPTIONS
        raise DataError(f"has no column {has}: {_listed(features)}", where=where, fix=fix)
    chosen = [name for name in (image, text, label) if name is not None]
    if len(set(chosen)) < len(chosen):
        twice = max(chosen, key=chosen.count)
        what = f"column {shown(twice)} would be read as two things: {_listed(features)}"
        raise DataError(what, where=where, fix=_OPTIONS)
    if image is not None:
        _check_image(where, features, image)
    if text is not None and not _is_written_as_text(_arrow_type(features, text)):
        _refuse(where, features, text, "text", "a string or an integer")
    kind = (False, None) if label is None else _label_type(where, features, label)
    return Columns(image, text, label, *kind)


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse names of columns that occur twice, or that Arrow's schema would end early.

    Raises:
        DataError: There is such a name.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        what = f"names the column {shown(twice)} twice"
        raise DataError(what, where=where, fix="Rename one of them")
    if any("\0" in name for name in names):
        what = "has a NUL character in the name of a column"
        raise DataError(what, where=where, fix="Remove it")


def _column(
    where: str, features: datasets.Features, named: str | None, usual: tuple[str, ...]
) -> str | None:
    if named is not None:
        if named not in features:
            what = f"has no column {shown(named)}: {_listed(features)}"
            raise DataError(what, where=where, fix=_OPTIONS)
        return named
    found = [name for name in usual if name in features]
    if len(found) > 1:
        what = f"has columns {' and '.join(found)}: {_listed(features)}"
        raise DataError(what, where=where, fix="Choose one with --label-column")
    return found[0] if found else None


def _not_null(features: datasets.Features, name: str | None) -> str | None:
    """Return a column, or None if it has no type, as one in which every value is missing."""
    return None if name is None or pa.types.is_null(_arrow_type(features, name)) else name


def _check_image(where: str, features: datasets.Features, name: str) -> None:
    feature, kind = features[name], _arrow_type(features, name)
    if kind == MIXED:
        return
    is_of_its_type = {"bytes": is_binary, "path": is_string}
    is_struct = pa.types.is_struct(kind) and all(
        # Without a type where every value is missing: an image has its bytes or its path.
        is_of_its_type[field.name](field.type) or pa.types.is_null(field.type)
        for field in kind
        if field.name in is_of_its_type
    )
    has_image = is_struct and {field.name for field in kind} & {"bytes", "path"}
    if not (isinstance(feature, datasets.Image) or has_image or is_binary(kind)) and (
        not is_string(kind)
    ):
        _refuse(where, features, name, "image", "an image, bytes or a path")


def _label_type(
    where: str, features: datasets.Features, name: str
) -> tuple[bool, tuple[str, ...] | None]:
    feature, kind = features[name], _arrow_type(features, name)
    if kind == MIXED:
        return False, None
    is_list = is_list_of_values(kind)
    if is_list:
        kind = kind.value_type
        feature = feature[0] if isinstance(feature, list) else feature.feature
    if isinstance(feature, datasets.ClassLabel):
        return is_list, tuple(feature.names)
    if not _is_written_as_text(kind):
        expected = "a class, a string or an integer, or a list of these"
        _refuse(where, features, name, "label", expected)
    return is_list, None


def _refuse(
    where: str, features: Mapping[str, object], name: str, role: str, expected: str
) -> None:
    kind = shortened(_kind(features[name]))
    what = f"column {shown(name)} is {kind}, not {expected}: {_listed(features)}"
    fix = f"Name another column with --{role}-column"
    if role != "image":
        fix += f", or {_conversion(kind)}, and save the file again"
    raise DataError(what, where=where, fix=fix)


def _conversion(kind: str) -> str:
    if kind == "struct":
        return "write one of its fields"
    if kind.startswith("list"):
        return "convert the entries of its lists to strings"
    if kind.startswith("float"):
        return 'convert whole numbers in pandas with .astype("Int64"), others with .astype(str)'
    return "convert it in pandas with .astype(str)"


def _listed(features: Mapping[str, object]) -> str:
    """Return the columns and their types, as a message shows them."""
    some = [(name, _kind(feature)) for name, feature in list(features.items())[:20]]
    listed = ", ".join(f"{shortened(name)} ({shortened(kind)})" for name, kind in some)
    return f"it has {listed}" if listed else "it has none"


def _kind(feature: object) -> str:
    if feature == {"json": datasets.Value("string")}:
        return "several types"
    if isinstance(feature, dict) and str(next(iter(feature), "")).startswith(_UNREAD):
        return str(next(iter(feature))).removeprefix(_UNREAD)
    if isinstance(feature, dict):
        return "struct"
    if isinstance(feature, datasets.Value):
        return str(feature.dtype)
    if isinstance(feature, datasets.List):
        return f"list of {_kind(feature.feature)}"
    return type(feature).__name__


def _arrow_type(features: datasets.Features, name: str) -> pa.DataType:
    return features.arrow_schema.field(name).type


def _is_written_as_text(kind: pa.DataType) -> bool:
    return is_string(kind) or kind == MIXED or bool(pa.types.is_integer(kind))


def is_string(kind: pa.DataType) -> bool:
    """Return whether values are strings."""
    is_plain = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(is_plain or pa.types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Return whether values are bytes."""
    is_plain = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(is_plain or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind))


def is_list_of_values(kind: pa.DataType) -> bool:
    """Return whether values are lists, of any or of a fixed length."""
    is_plain = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_plain or pa.types.is_fixed_size_list(kind))
