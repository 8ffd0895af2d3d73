"""Export a student to a Core ML package: an ML Program in float that runs from iOS 16 on.

Image normalisation is part of the graph, so an app passes a pixel buffer. Includes decompositions
for operators of the attention masks of CLIP, SigLIP and VisualBERT, which coremltools' front end
does not convert. Not covered: compressed weights (`coreml/weights.py`), integer activations
(`coreml/activations.py`) and running a package (`coreml/predictor.py`).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from msd_deploy.errors import ExportError
from msd_deploy.models.fusion import MASKED_SCORE
from msd_deploy.quiet import quiet_python
from msd_export.coreml.package import CoreMLModel, number_names_anew, save_package
from msd_export.signature import INPUT_NAMES, OUTPUT_NAMES, ModelSignature


def coreml_decompositions() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Return the table for `ExportedProgram.run_decompositions`."""
    aten = torch.ops.aten
    return {
        aten.alias.default: _alias,
        aten.new_ones.default: _new_ones,
        aten.__and__.Tensor: torch.logical_and,
        aten.where.ScalarOther: _where_scalar,
    }


def _alias(tensor: Tensor) -> Tensor:
    return tensor.view(tensor.shape)


def _new_ones(
    like: Tensor, size: list[int], *, dtype: torch.dtype | None = None, **options: object
) -> Tensor:
    return torch.full(size, 1, dtype=dtype or like.dtype)


def _where_scalar(condition: Tensor, chosen: Tensor, other: float) -> Tensor:
    """Fill with a scalar; what is meant as minus infinity stays finite in float16 (no NaN)."""
    return torch.where(condition, chosen, torch.full_like(chosen, max(other, MASKED_SCORE)))


FloatPrecision = Literal["fp32", "fp16"]

_FIELDS = {
    "description": "short_description",
    "author": "author",
    "license": "license",
    "version": "version",
}
"""The metadata that a package has fields of its own for: our name and coremltools'."""

_DESCRIPTIONS = {
    "image": "The picture, RGB; Core ML scales no pixel buffer: give it in exactly this size.",
    "image_present": "1 if there is a picture, 0 if not: then the picture's content is ignored.",
    "input_ids": "Tokens of the text as preprocess.json says, padded at the end.",
    "attention_mask": "1 for tokens, 0 for padding; without a text 1 for the first token alone.",
    "logits": "One number per class, in the order of the labels.",
    "probabilities": "One probability per class, in the order of the labels.",
}


def export_coreml(
    model: nn.Module,
    signature: ModelSignature,
    metadata: Mapping[str, str],
    path: Path,
    *,
    precision: FloatPrecision = "fp16",
) -> None:
    """Write a model as an .mlpackage; the same model gives the same bytes.

    Args:
        model: In eval mode. Its forward takes image float32 [1, 3, height, width] in 0..255,
            image_present int32 [1], input_ids and attention_mask int32 [1, length], and returns
            logits and probabilities, float32 [1, classes].
        signature: Image size, text length and labels.
        metadata: description, author, license and version become the package's own fields,
            everything else its user-defined metadata, where labels (JSON) and problem are added.
        path: The folder to write, NAME.mlpackage; replaced where it exists.
        precision: Of weights and arithmetic. Core ML computes fp32 on CPU and GPU alone: the
            Neural Engine has float16 only.

    Raises:
        ExportError: The model cannot be captured or converted.
    """
    with quiet_python():
        number_names_anew()
        try:
            converted = _convert(_capture(model, signature), signature, precision)
        except Exception as error:  # torch.export and coremltools raise all kinds, bare ones too
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ExportError(
                f"the conversion to Core ML failed ({reason})", where=path.name
            ) from error
        _describe(converted, signature, metadata)
        save_package(converted, path)


def _capture(model: nn.Module, signature: ModelSignature) -> torch.export.ExportedProgram:
    """Return the model's graph for one example.

    torch.export, not torch.jit.trace: where both convert they give the same program, but the tracer
    freezes branches on data silently, where torch.export refuses them, and its front end lacks what
    run_decompositions resolves (DINOv2's bicubic resizing of positions).
    """
    text = torch.ones(1, signature.max_length, dtype=torch.int32)
    example = (
        torch.zeros(1, 3, *signature.image_size),
        torch.ones(1, dtype=torch.int32),
        text,
        text.clone(),
    )
    with torch.no_grad():
        program = torch.export.export(model, example)
    decomposed: torch.export.ExportedProgram = program.run_decompositions(coreml_decompositions())
    return decomposed


def _convert(
    program: torch.export.ExportedProgram, signature: ModelSignature, precision: FloatPrecision
) -> CoreMLModel:
    import coremltools as ct

    half, single = ct.precision.FLOAT16, ct.precision.FLOAT32
    text_shape = (1, signature.max_length)
    image_present, input_ids, attention_mask = (
        ct.TensorType(name, shape=shape, dtype=np.int32)
        for name, shape in zip(INPUT_NAMES[1:], [(1,), text_shape, text_shape], strict=True)
    )
    image = ct.ImageType(
        INPUT_NAMES[0], shape=(1, 3, *signature.image_size), color_layout=ct.colorlayout.RGB
    )
    converted: CoreMLModel = ct.convert(
        program,
        inputs=[image, image_present, input_ids, attention_mask],
        outputs=[ct.TensorType(name, dtype=np.float32) for name in OUTPUT_NAMES],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=half if precision == "fp16" else single,
        compute_units=ct.ComputeUnit.ALL,
        skip_model_load=True,
    )
    return converted


def _describe(model: CoreMLModel, signature: ModelSignature, metadata: Mapping[str, str]) -> None:
    for name, field in _FIELDS.items():
        if name in metadata:
            setattr(model, field, metadata[name])
    for name in INPUT_NAMES:
        model.input_description[name] = _DESCRIPTIONS[name]
    for name in OUTPUT_NAMES:
        model.output_description[name] = _DESCRIPTIONS[name]
    own = {name: value for name, value in metadata.items() if name not in _FIELDS}
    labels = json.dumps(signature.labels, ensure_ascii=False)
    model.user_defined_metadata.update(own | {"labels": labels, "problem": signature.problem})
