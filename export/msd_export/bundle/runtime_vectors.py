"""Examples of test vectors as the runtimes' own tools take them, beside the model file.

Those tools fill inputs by chance where they are given none, with identifiers beyond the vocabulary.
docs/preprocessing.md has their commands.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import write_text
from msd_deploy.metrics import probabilities
from msd_export.bundle.vectors import Example, asked_of
from msd_export.executorch.predictor import MAIN_METHOD, rows_of
from msd_export.folder import ExportFolder
from msd_export.formats import FORMATS, Target
from msd_export.litert.predictor import main_signature
from msd_export.opened_model import OpenedModel
from msd_export.signature import (
    INPUT_NAMES,
    OUTPUT_NAMES,
    TEXT_ENTRY,
    TEXT_INPUT_NAMES,
    ModelInputs,
    Predictor,
    calibrated,
)

_MOST_EXAMPLES = 5
FLAGS_NAME = "benchmark_model.flags"
_Outputs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Case:
    """What a model is given and answers, each with a batch dimension of 1.

    of_text is the answer of the entry point for a text alone; None: the example has an image, or
    the file has none.
    """

    inputs: ModelInputs
    outputs: _Outputs
    of_text: _Outputs | None


def write_runtime_vectors(
    folder: Path, export: ExportFolder, opened: OpenedModel, examples: Sequence[Example]
) -> int:
    """Write a model file and up to five examples in every view into a new folder.

    Args:
        folder: The folder; it is only made for a target whose tools take examples.
        export: The export.
        opened: The same, opened.
        examples: Examples of a data set.

    Returns:
        How many cases were written: 0 for Core ML and Core AI, whose tools take none.
    """
    write = _WRITERS.get(export.target)
    if write is None:
        return 0
    folder.mkdir()
    model = folder / FORMATS[export.target].model_file
    shutil.copyfile(export.folder / model.name, model)
    places = np.linspace(0, len(examples) - 1, min(_MOST_EXAMPLES, len(examples))).astype(int)
    cases = [
        _case(opened, opened.inputs(image=pixels, text=text))
        for place in places
        for pixels, text in asked_of(examples[place])
    ]
    write(model, cases)
    return len(cases)


def _case(opened: OpenedModel, inputs: ModelInputs) -> _Case:
    def outputs(predictor: Predictor) -> _Outputs:
        logits = predictor.predict(inputs)
        stated = probabilities(calibrated(logits, inputs, opened.temperatures), opened.problem)
        return {"logits": logits, "probabilities": stated.astype(np.float32)}

    entry = opened.text_entry_for(inputs)
    return _Case(inputs, outputs(opened.predictor), outputs(entry) if entry else None)


def _write_onnx(model: Path, cases: Sequence[_Case]) -> None:
    """Write test_data_set_N/{input,output}_K.pb, as ONNX's own test data is laid out."""
    from onnx import numpy_helper

    for number, case in enumerate(cases):
        folder = model.parent / f"test_data_set_{number}"
        folder.mkdir()
        for kind, names, arrays in (
            ("input", INPUT_NAMES, case.inputs),
            ("output", OUTPUT_NAMES, case.outputs),
        ):
            for place, name in enumerate(names):
                tensor = numpy_helper.from_array(arrays[name], name)
                (folder / f"{kind}_{place}.pb").write_bytes(tensor.SerializeToString())


def _write_executorch(model: Path, cases: Sequence[_Case]) -> None:
    """Write the program with its cases, as ExecuTorch's bundled program."""
    import torch
    from executorch.devtools import BundledProgram
    from executorch.devtools.bundled_program.config import MethodTestCase, MethodTestSuite
    from executorch.devtools.bundled_program.serialize import (
        serialize_from_bundled_program_to_flatbuffer,
    )

    def suite(
        method: str, names: Sequence[str], chosen: Sequence[tuple[_Case, _Outputs]]
    ) -> MethodTestSuite:
        tests = [
            MethodTestCase(
                inputs=rows_of(case.inputs, names)[0],
                expected_outputs=[torch.from_numpy(outputs[name]) for name in OUTPUT_NAMES],
            )
            for case, outputs in chosen
        ]
        return MethodTestSuite(method, tests)

    suites = [suite(MAIN_METHOD, INPUT_NAMES, [(case, case.outputs) for case in cases])]
    texts = [(case, case.of_text) for case in cases if case.of_text is not None]
    if texts:
        suites.append(suite(TEXT_ENTRY, TEXT_INPUT_NAMES, texts))
    bundled = BundledProgram(None, suites, str(model))
    content = serialize_from_bundled_program_to_flatbuffer(bundled)
    model.with_suffix(".bpte").write_bytes(content)
    model.unlink()


def _write_litert(model: Path, cases: Sequence[_Case]) -> None:
    """Write each tensor as bytes, and the options of benchmark_model that name them."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model))
    runner = interpreter.get_signature_runner(main_signature(interpreter))
    names = {each["index"]: name for name, each in runner.get_input_details().items()}
    # benchmark_model takes them in the order of the file's inputs.
    tensors = {names[each["index"]]: each["name"] for each in interpreter.get_input_details()}
    for number, case in enumerate(cases):
        folder = model.parent / f"example_{number}"
        folder.mkdir()
        for name, array in {**case.inputs, **case.outputs}.items():
            (folder / f"{name}.bin").write_bytes(array.tobytes())
        shapes = [",".join(map(str, case.inputs[name].shape)) for name in tensors]
        files = [f"{tensor}:{folder.name}/{name}.bin" for name, tensor in tensors.items()]
        flags = (
            f"--input_layer={','.join(tensors.values())}",
            f"--input_layer_shape={':'.join(shapes)}",
            f"--input_layer_value_files={','.join(files)}",
        )
        write_text(folder / FLAGS_NAME, "\n".join(flags) + "\n")


_WRITERS: dict[Target, Callable[[Path, Sequence[_Case]], None]] = {
    "onnx": _write_onnx,
    "ort": _write_onnx,
    "executorch": _write_executorch,
    "litert": _write_litert,
}
