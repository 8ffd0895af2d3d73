"""Read .aimodel assets: their functions, what they store and what they state of themselves."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msd_deploy.artifacts.manifest import read_json, write_json
from msd_deploy.errors import ArtifactError
from msd_export.model_file import ModelFacts, StoredTensor, TensorFacts, bits_of, reading

if TYPE_CHECKING:
    from coreai.authoring import AIModelAsset

MAIN_FUNCTION = "main"
"""The function for image and text."""
_METADATA = "metadata.json"
_OWN_FIELDS = ("description", "author", "license")
_FURTHER = "creatorDefinedMetadata"
_PROGRAM, _DIGEST = "main.mlirb", "main.hash"
_LAYER = "all layers"
_TENSOR = re.compile(r"NDArray \((\w+), ([\d ×]+)\)")
_NOTES = (
    "int8 weights are expanded to float16 when they are used: no operator computes in int8",
    "An asset does not name layers: bytes are listed by how they are stored",
    "Operators are those of all entry points together",
)


_TRIAL = """
import asyncio, sys
from coreai.authoring import AIModelAsset
async def load():
    async with AIModelAsset.load(sys.argv[1]).executable() as model:
        return model.load_function(sys.argv[2])
asyncio.run(load())
"""


def try_asset(path: Path) -> None:
    """Check that Core AI can load an asset.

    In a process of its own: a program that it cannot read ends the process (coreai-core 1.0.0b3).

    Raises:
        OSError: A file cannot be read.
        ValueError: The program is not the one that was written.
        RuntimeError: Core AI cannot load it.
    """
    digest = hashlib.sha256((path / _PROGRAM).read_bytes()).digest()
    if (path / _DIGEST).read_bytes() != digest:
        raise ValueError(f"{_PROGRAM} does not have the digest in {_DIGEST}")
    # -P: a module of the present folder is not Core AI's.
    command = [sys.executable, "-P", "-c", _TRIAL, str(path), MAIN_FUNCTION]
    trial = subprocess.run(command, capture_output=True, text=True, check=False)
    if trial.returncode:
        lines = trial.stderr.splitlines()
        reasons = [line.partition("error: ")[2] for line in lines if "error: " in line]
        other = "".join(lines[-1:]) or f"its process ended with {trial.returncode}"
        raise RuntimeError(reasons[0] if reasons else other)


def open_asset(path: Path) -> "AIModelAsset":
    """Open an asset that `try_asset` has tried, or that was just written.

    Raises:
        RuntimeError: Core AI cannot read it.
    """
    from coreai.authoring import AIModelAsset

    return AIModelAsset.load(path)


def state(path: Path, metadata: Mapping[str, str]) -> None:
    """Have an asset state metadata.

    Args:
        path: The asset.
        metadata: Description, author and license become the asset's own fields, all others entries.
    """
    written = read_json(path / _METADATA)
    own = {name: metadata[name] for name in _OWN_FIELDS if name in metadata}
    entries = {name: text for name, text in metadata.items() if name not in own}
    write_json(path / _METADATA, {**written, **own, _FURTHER: entries})


def metadata_of(path: Path) -> dict[str, str]:
    """Return what an asset states of itself: author, license, description, producer and entries.

    Raises:
        ArtifactError: It cannot be read.
    """
    stated = read_json(path / _METADATA)
    entries = stated.get(_FURTHER)
    if not isinstance(entries, dict):
        raise ArtifactError(f"has no {_FURTHER}", where=path / _METADATA, fix="Export it again")
    own = {name: stated[name] for name in (*_OWN_FIELDS, "producer") if name in stated}
    return {name: str(text) for name, text in {**own, **entries}.items()}


def stored_numbers(path: Path) -> dict[str, int]:
    """Return how many numbers an asset stores of each type, for example float16, most first."""
    return _stored(open_asset(path).summary().storage_types)


def read_coreai(path: Path) -> ModelFacts:
    """Read an .aimodel asset; see `model_file.Reader`."""
    with reading("Core AI", path):
        try_asset(path)
        summary = open_asset(path).summary()
        return ModelFacts(
            inputs=_borders(summary.function_inputs(MAIN_FUNCTION)),
            outputs=_borders(summary.function_outputs(MAIN_FUNCTION)),
            operators=dict(Counter(dict(summary.operation_distribution)).most_common()),
            int8_operators={},
            tensors=tuple(
                StoredTensor(_LAYER, storage, numbers, bits_of(storage))
                for storage, numbers in _stored(summary.storage_types).items()
            ),
            metadata=metadata_of(path),
            notes=_NOTES,
            entry_points=tuple(n for n in summary.function_names if n != MAIN_FUNCTION),
        )


def _stored(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    return dict(Counter({name.lower(): count for name, count in counts}).most_common())


def _borders(tensors: Iterable[tuple[str, str]]) -> tuple[TensorFacts, ...]:
    """Return inputs or outputs, of their names and types, "NDArray (UInt8, 1 × 48 × 48 × 3)"."""
    borders = []
    for name, kind in tensors:
        found = _TENSOR.fullmatch(kind)
        shape = tuple(map(int, found[2].split(" × "))) if found else ()
        borders.append(TensorFacts(name, shape, found[1].lower() if found else kind))
    return tuple(borders)
