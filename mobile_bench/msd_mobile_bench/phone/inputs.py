"""Examples of a run's test split as files that the runtimes' tools read on a phone.

Without them the tools fill integer inputs by chance, with identifiers beyond the vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import DataError
from msd_deploy.hooks import StageHooks
from msd_deploy.views import View
from msd_export.bundle.vectors import Example
from msd_export.bundle.vectors_folder import read_examples
from msd_export.formats import needing
from msd_export.opened_model import open_model
from msd_export.signature import INPUT_NAMES, TEXT_ENTRY, ModelInputs

_MOST_EXAMPLES = 2
"""A dense model takes the same time for each: these are for what depends on values after all."""
ViewInputs = Mapping[View, Sequence[ModelInputs]]


def read_inputs(run: RunDirectory, hooks: StageHooks) -> ViewInputs:
    """Return up to two examples for each view, preprocessed as the run's student takes them.

    A view of which the data has no example is left out.

    Raises:
        DataError: The data cannot be read, or no example has an image or a text.
        ArtifactError: The run is unfinished or damaged.
    """
    opened = open_model(run.root)
    examples, _ = read_examples(
        run.root, opened, None, options=SourceOptions(), split="test", hooks=hooks
    )
    inputs: dict[View, list[ModelInputs]] = {}
    for view in View:
        chosen = _spread([example for example in examples if _has(example, view)])
        for example in chosen:
            image = example.pixels if view.has_image else None
            text = example.text if view.has_text else ""
            inputs.setdefault(view, []).append(opened.inputs(image=image, text=text))
    if not inputs:
        raise DataError("no test example has an image or a text", where=run.root)
    return inputs


def _has(example: Example, view: View) -> bool:
    has_image, has_text = example.pixels is not None, bool(example.text.strip())
    return (has_image or not view.has_image) and (has_text or not view.has_text)


def _spread(examples: Sequence[Example]) -> list[Example]:
    places = np.linspace(0, len(examples) - 1, min(_MOST_EXAMPLES, len(examples))).astype(int)
    return [examples[place] for place in places]


def write_tensors(folder: Path, inputs: ModelInputs) -> list[Path]:
    """Write each input as its bytes, NAME.bin; return the files."""
    files = []
    for name in INPUT_NAMES:
        file = folder / f"{name}.bin"
        file.write_bytes(inputs[name].tobytes())
        files.append(file)
    return files


def write_onnx_tensors(folder: Path, inputs: ModelInputs) -> list[Path]:
    """Write each input as ONNX's test data, input_K.pb; return the files."""
    with needing("onnx"):
        from onnx import numpy_helper

    files = []
    for place, name in enumerate(INPUT_NAMES):
        file = folder / f"input_{place}.pb"
        file.write_bytes(numpy_helper.from_array(inputs[name], name).SerializeToString())
        files.append(file)
    return files


def litert_inputs(model: Path, entry: str | None) -> tuple[list[tuple[str, str]], str | None]:
    """Return the inputs of a .tflite file in the order in which benchmark_model takes them.

    Args:
        model: The file.
        entry: The signature for a text alone, or None for that of image and text.

    Returns:
        Our name and the shape of each, such as ("input_ids", "1,16"); and the name of the
        signature, None in a file that has only one.
    """
    with needing("litert"):
        from msd_export.litert.predictor import MAIN_ENTRY
        from msd_export.litert.program import indices, read_model

    content = read_model(model)
    signatures = {each.signatureKey.decode(): each for each in content.signatureDefs}
    key = (entry or MAIN_ENTRY) if len(signatures) > 1 else next(iter(signatures))
    graph = content.subgraphs[signatures[key].subgraphIndex]
    names = {each.tensorIndex: each.name.decode() for each in signatures[key].inputs}
    ordered = [
        (names[place], ",".join(str(size) for size in graph.tensors[place].shape))
        for place in indices(graph.inputs)
    ]
    return ordered, key if len(signatures) > 1 else None


def entry_of(signature: object, view: View) -> str | None:
    """Return the entry point that an app uses for a view; None: that for image and text.

    Args:
        signature: Of the export's manifest.
        view: The view.
    """
    points = signature.get("entry_points") if isinstance(signature, dict) else None
    has_one = isinstance(points, dict) and TEXT_ENTRY in points
    return TEXT_ENTRY if view is View.TEXT and has_one else None
