"""Each tool's own quantization of a student, as the documentation of the installed version says.

`against_defaults.py` measures what is written here beside our exports. Nothing is tuned: every
recipe is the call of the tool's documented example with its default arguments, and, where the
documentation gives a choice, a second recipe with what it recommends for accuracy. Followed were:

- onnxruntime 1.32: the docstrings of `quantize_static` ("Choosing parameters for CPU inference"),
  `quantize_dynamic` and `quant_pre_process`, and the page "Quantize ONNX Models", which prepares a
  model first and quantizes embeddings and matrices in 4 bits by `MatMulNBitsQuantizer`.
- coremltools 9.0: the examples in the docstrings of `linear_quantize_weights`, `palettize_weights`
  and `linear_quantize_activations`, after `ct.convert` in float16, its default.
- ai-edge-quantizer 0.10: its README, "Python API" and "Hardware & Recipe Decision Guide".
- executorch 1.5: "Quantization" of the XNNPACK backend, the PT2E flow.

Float models are converted as ours are, since the tools have no say in it, and state no metadata.
The calibration examples are ours. Covered are writing a file and running one; no evaluation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msd_export.formats import Precision, Target
from msd_export.signature import INPUT_NAMES, Logits, ModelInputs, single_examples

if TYPE_CHECKING:
    from msd_deploy.models.classifier import ViewClassifier
    from msd_deploy.models.folders import LoadedModel

FLOAT = "float"


@dataclass(frozen=True, slots=True)
class Student:
    """What a tool is given.

    Attributes:
        loaded: The student.
        float_model: Its float file in the tool's format; ExecuTorch has none.
        calibration: The training examples that calibrate our exports, under all three views.
    """

    loaded: "LoadedModel[ViewClassifier]"
    float_model: Path
    calibration: ModelInputs


Write = Callable[[Student, Path], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A quantization by a tool's own documentation.

    Attributes:
        precision: Ours that it is compared with.
        call: The documented call, in words for the table.
        write: Writes the file.
    """

    precision: Precision
    call: str
    write: Write


def write_float(target: Target, loaded: "LoadedModel[ViewClassifier]", path: Path) -> None:
    """Write the float model that a target's tools start from; Core ML's is float16.

    Raises:
        ExportError: The converter failed.
    """
    from msd_export.graph import example_inputs, graph_of, program_of, signature_of

    signature = signature_of(loaded)
    graph = graph_of(loaded, image_layout="nchw" if target == "coreml" else "nhwc")
    match target:
        case "onnx":
            from msd_export.onnx.export import export_onnx

            export_onnx(graph, signature, {}, path)
        case "coreml":
            from msd_export.coreml.export import export_coreml

            export_coreml(graph, signature, {}, path)
        case "litert":
            import litert_torch

            from msd_export.litert.export import StudentSignature

            inputs = dict(zip(INPUT_NAMES, example_inputs(signature, batch=1), strict=True))
            module = StudentSignature(graph).eval()
            path.write_bytes(litert_torch.convert(module, sample_kwargs=inputs).model_content())
        case "executorch":
            _lower(program_of(graph, signature, INPUT_NAMES), path)
        case _:
            raise NotImplementedError(target)


class _CalibrationReader:
    """Hands out examples one by one, as onnxruntime's `CalibrationDataReader` does."""

    def __init__(self, inputs: ModelInputs) -> None:
        self._examples: Iterator[ModelInputs] = single_examples(inputs)

    def get_next(self) -> ModelInputs | None:
        """Return the next example; None behind the last one."""
        return next(self._examples, None)

    def __iter__(self) -> Iterator[ModelInputs]:
        return self._examples


def _prepared(student: Student, path: Path) -> str:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = str(path.with_suffix(".prepared.onnx"))
    quant_pre_process(str(student.float_model), prepared)
    return prepared


def _onnx_static(student: Student, path: Path, *, unsigned: bool = False, **options: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_static

    types = {"activation_type": QuantType.QUInt8} if unsigned else {}
    reader = _CalibrationReader(student.calibration)
    quantize_static(_prepared(student, path), str(path), reader, **types, **options)


def _onnx_dynamic(student: Student, path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(_prepared(student, path), str(path))


def _onnx_int4(student: Student, path: Path) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(student.float_model))
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


def _coreml_weights(student: Student, path: Path) -> None:
    from coremltools.optimize import coreml as optimize

    choice = optimize.OpLinearQuantizerConfig(mode="linear_symmetric")
    config = optimize.OptimizationConfig(global_config=choice)
    optimize.linear_quantize_weights(_core_ml_model(student), config).save(str(path))


def _coreml_palette(student: Student, path: Path, *, nbits: int) -> None:
    from coremltools.optimize import coreml as optimize

    choice = optimize.OpPalettizerConfig(mode="kmeans", nbits=nbits)
    config = optimize.OptimizationConfig(global_config=choice)
    optimize.palettize_weights(_core_ml_model(student), config).save(str(path))


def _coreml_activations(student: Student, path: Path) -> None:
    from coremltools.optimize import coreml as optimize
    from PIL import Image

    examples = [
        {**{name: example[name] for name in INPUT_NAMES[1:]}, "image": Image.fromarray(pixels)}
        for example in single_examples(student.calibration)
        for pixels in np.asarray(example["image"], np.uint8)
    ]
    choice = optimize.OpLinearQuantizerConfig(mode="linear_symmetric")
    config = optimize.OptimizationConfig(global_config=choice)
    integer = optimize.linear_quantize_activations(_core_ml_model(student), config, examples)
    optimize.linear_quantize_weights(integer, config).save(str(path))


def _core_ml_model(student: Student) -> Any:
    import coremltools

    return coremltools.models.MLModel(str(student.float_model), skip_model_load=True)


def _litert(student: Student, path: Path, *, name: str) -> None:
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(str(student.float_model))
    tool.load_quantization_recipe(getattr(recipe, name)())
    ranges = None
    if tool.need_calibration:
        ranges = tool.calibrate({"serving_default": list(single_examples(student.calibration))})
    tool.quantize(ranges).export_model(str(path), overwrite=True)


def _executorch(student: Student, path: Path, *, is_dynamic: bool) -> None:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from msd_export.executorch.predictor import rows_of
    from msd_export.graph import graph_of, program_of, signature_of

    signature = signature_of(student.loaded)
    program = program_of(graph_of(student.loaded, image_layout="nhwc"), signature, INPUT_NAMES)
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=is_dynamic)
    prepared = prepare_pt2e(program.module(), XNNPACKQuantizer().set_global(config))
    with torch.no_grad():
        for example in rows_of(student.calibration, INPUT_NAMES):
            prepared(*example)
    _lower(program_of(convert_pt2e(prepared), signature, INPUT_NAMES), path)


def _lower(program: Any, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


RECIPES: Mapping[Target, Mapping[str, Recipe]] = {
    "onnx": {
        "static": Recipe("int8", "quantize_static", _onnx_static),
        "static-channels": Recipe(
            "int8", "quantize_static, per_channel", partial(_onnx_static, per_channel=True)
        ),
        "static-x86": Recipe(
            "int8",
            "quantize_static, per_channel, QUInt8 activations, reduce_range",
            partial(_onnx_static, per_channel=True, unsigned=True, reduce_range=True),
        ),
        "dynamic": Recipe("int8-dynamic", "quantize_dynamic", _onnx_dynamic),
        "int4": Recipe("int4", "MatMulNBitsQuantizer", _onnx_int4),
    },
    "coreml": {
        "weights": Recipe("int8", "linear_quantize_weights", _coreml_weights),
        "palette6": Recipe(
            "pal6", "palettize_weights, kmeans, 6 bits", partial(_coreml_palette, nbits=6)
        ),
        "palette4": Recipe(
            "pal4", "palettize_weights, kmeans, 4 bits", partial(_coreml_palette, nbits=4)
        ),
        "activations": Recipe("w8a8", "linear_quantize_activations", _coreml_activations),
    },
    "litert": {
        "static": Recipe("int8", "static_wi8_ai8", partial(_litert, name="static_wi8_ai8")),
        "dynamic": Recipe(
            "int8-dynamic", "dynamic_wi8_afp32", partial(_litert, name="dynamic_wi8_afp32")
        ),
    },
    "executorch": {
        "static": Recipe(
            "int8", "XNNPACKQuantizer, per channel", partial(_executorch, is_dynamic=False)
        ),
        "dynamic": Recipe(
            "int8-dynamic",
            "XNNPACKQuantizer, per channel, dynamic",
            partial(_executorch, is_dynamic=True),
        ),
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """One file that is compared.

    Attributes:
        target: Its format.
        precision: The one of ours that it is, or is compared with; FLOAT for what the tools start
            from.
        recipe: The name of a tool's recipe; None: ours.
    """

    target: Target
    precision: str
    recipe: str | None = None

    @property
    def name(self) -> str:
        """The row's name in results, for example onnx-int8 or onnx-int8-static."""
        return "-".join(filter(None, (self.target, self.precision, self.recipe)))

    @property
    def is_ours(self) -> bool:
        """Whether it is one of our exports."""
        return self.recipe is None and self.precision != FLOAT

    @property
    def by(self) -> str:
        """Who quantized it, for the table."""
        if self.recipe is not None:
            return RECIPES[self.target][self.recipe].call
        return "ours" if self.is_ours else FLOAT


def rows_of(targets: Iterable[Target]) -> list[Row]:
    """Return all rows: of each target the float one, then ours before the tools' of a precision."""
    rows: list[Row] = []
    for target in targets:
        recipes = RECIPES[target]
        rows.append(Row(target, FLOAT))
        for precision in dict.fromkeys(recipe.precision for recipe in recipes.values()):
            named = [name for name, recipe in recipes.items() if recipe.precision == precision]
            rows += [Row(target, precision), *(Row(target, precision, name) for name in named)]
    return rows


def open_runner(target: Target, path: Path) -> Callable[[ModelInputs], Logits]:
    """Open a file in its runtime, on one thread.

    Unlike our predictors, which refuse a file whose probabilities are not those of its logits, it
    returns what a tool's file gives.

    Returns:
        A function from one example to its logits, float32 [1, classes].
    """
    match target:
        case "onnx":
            import onnxruntime

            from msd_export.onnx.predictor import open_session

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            session = open_session(path, options)
            return lambda example: session.run(["logits"], dict(example))[0]
        case "coreml":
            from msd_export.coreml.mil.evaluator import MilEvaluator

            evaluator = MilEvaluator.load(path)
            return lambda example: evaluator.run(example)["logits"]
        case "litert":
            from ai_edge_litert.interpreter import Interpreter

            from msd_export.litert.predictor import main_signature

            interpreter = Interpreter(str(path), num_threads=1)
            run = interpreter.get_signature_runner(main_signature(interpreter))
            scale, zero = run.get_output_details()["logits"]["quantization"]
            if scale:  # a recipe with integer outputs
                return lambda example: np.float32(scale) * (run(**example)["logits"] - zero)
            return lambda example: run(**example)["logits"]
        case "executorch":
            from executorch.runtime import Runtime

            from msd_export.executorch.predictor import MAIN_METHOD, rows_of

            program = Runtime.get().load_program(path)
            method = program.load_method(MAIN_METHOD)
            return lambda example: method.execute(rows_of(example, INPUT_NAMES)[0])[0].numpy()
        case _:
            raise NotImplementedError(target)
