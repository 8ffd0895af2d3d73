"""Precisions of an ONNX file without calibration: fp16 weights, int8-dynamic, int4.

- fp16: weights are stored in half precision and cast to float32 where they are used, which ONNX
  Runtime does once when it loads the file: half the size, the speed of fp32 on every processor.
- int8-dynamic: matrices and embeddings in 8 bits, the scale of an activation computed from each
  input (MatMulInteger). Convolutions stay in float: ConvInteger is slower than float on x86 and
  ARM.
- int4: matrices in blocks of 32 weights of 4 bits with a scale (MatMulNBits, a kernel of ONNX
  Runtime's own for x86 and ARM), embeddings and convolutions in 8 bits, one scale per row or output
  channel, expanded when the file is loaded.
"""

import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from msd_deploy.errors import ExportError
from msd_deploy.quiet import quiet_python
from msd_export.onnx.export import save_like

_BLOCK = 32
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: the fastest kernel of ONNX Runtime
# Smaller ones cost more in scales and operators than they save.
_LEAST_WEIGHTS = 512
_DYNAMIC_OPERATORS = ("MatMul", "Gemm", "Gather")


def store_fp16(source: Path, path: Path) -> None:
    """Write a copy of a float32 file whose weights are stored in half precision.

    Raises:
        ExportError: A weight is beyond the range of half precision.
    """
    model = onnx.load(source)
    original = onnx.load(source)
    for tensor in _large_weights(model):
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError(
                f"the weight {tensor.name} has values up to {np.abs(values).max():.1e}, out of"
                " range for float16",
                where=path.name,
            )
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_fp16"))
        cast = helper.make_node(
            "Cast", [f"{name}_fp16"], [name], f"{name}_cast", to=TensorProto.FLOAT
        )
        model.graph.node.insert(0, cast)
    save_like(original, model, path)


def quantize_dynamic(source: Path, path: Path) -> None:
    """Write a copy of a float32 file with matrices and embeddings in 8 bits; see the module.

    Raises:
        ExportError: The quantizer failed.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    try:
        with quiet_python(), tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            written = Path(scratch) / "model.onnx"
            quantize(
                str(source),
                str(written),
                op_types_to_quantize=list(_DYNAMIC_OPERATORS),
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
            save_like(onnx.load(source), onnx.load(written), path)
    except Exception as error:  # the quantizer raises whatever its passes meet
        raise ExportError(f"dynamic int8 failed ({error})", where=path.name) from error


def quantize_int4(source: Path, path: Path) -> None:
    """Write a copy of a float32 file with matrices in 4 bits, the rest in 8; see the module.

    Raises:
        ExportError: The quantizer failed.
    """
    original = onnx.load(source)
    model = onnx.load(source)
    split_gemms(model)
    try:
        with quiet_python():
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            quantizer = MatMulNBitsQuantizer(
                model, block_size=_BLOCK, is_symmetric=True, accuracy_level=_INT8_ACTIVATIONS
            )
            quantizer.process()
            quantized: onnx.ModelProto = quantizer.model.model
            store_int8(quantized, ("Conv", "Gather"))
            save_like(original, quantized, path)
    except Exception as error:  # as above
        raise ExportError(f"int4 quantization failed ({error})", where=path.name) from error


def split_gemms(model: onnx.ModelProto) -> None:
    """Replace every Gemm with a constant matrix by MatMul and Add, which 4-bit kernels are for."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Gemm" or node.input[1] not in weights:
            nodes.append(node)
            continue
        tensor = weights[node.input[1]]
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            transposed = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
            tensor = numpy_helper.from_array(transposed, f"{tensor.name}_transposed")
            model.graph.initializer.append(tensor)
        product = f"{node.output[0]}_product"
        has_bias = len(node.input) > 2 and bool(node.input[2])
        result = product if has_bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], tensor.name], [result], node.name))
        if has_bias:
            named = f"{node.name}_bias"
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], named))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unused(model)


def store_int8(model: onnx.ModelProto, operators: Collection[str]) -> None:
    """Store the weights of some operators as int8 with a scale per first dimension.

    w = q * s, q in -127..127, s = max |w| of the row or output channel / 127. The operators still
    compute in float32. Changes the model.
    """
    used = {name for node in model.graph.node if node.op_type in operators for name in node.input}
    for tensor in _large_weights(model):
        if tensor.name not in used:
            continue
        values = numpy_helper.to_array(tensor)
        axes = tuple(range(1, values.ndim))
        scale = np.abs(values).max(axis=axes) / 127
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        shape = (-1, *[1] * len(axes))
        integers = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(integers, f"{name}_int8"))
        scale = scale.reshape(shape)
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        # Not DequantizeLinear: ONNX Runtime repeats that in every run (13.9 ms instead of 2.1 on a
        # mobile student), whereas it folds these two into a constant when it loads the file.
        wide, product = f"{name}_wide", f"{name}_expand"
        cast = helper.make_node("Cast", [f"{name}_int8"], [wide], wide, to=TensorProto.FLOAT)
        expand = helper.make_node("Mul", [wide, f"{name}_scale"], [name], product)
        model.graph.node.insert(0, expand)
        model.graph.node.insert(0, cast)


def _large_weights(model: onnx.ModelProto) -> list[TensorProto]:
    return [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= _LEAST_WEIGHTS
    ]


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove the initializers that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
