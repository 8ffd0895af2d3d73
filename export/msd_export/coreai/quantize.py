"""int8 for Core AI: weights of 8 bits, expanded to floats when they are used."""

import re
from collections.abc import Collection

import torch
from coreai_opt.common import ExportBackend
from coreai_opt.quantization import (
    ExecutionMode,
    ModuleQuantizerConfig,
    QuantizationSpec,
    Quantizer,
    QuantizerConfig,
)
from coreai_opt.quantization.spec import PerChannelGranularity, QuantizationScheme

from msd_export.graph import ExportableGraph, example_inputs, weighted_layers
from msd_export.layers import group_of
from msd_export.signature import ModelSignature


def quantize_weights(
    graph: ExportableGraph, signature: ModelSignature, kept: Collection[str]
) -> ExportableGraph:
    """Return a graph whose weights are int8, symmetric, with a scale for each row.

    A row holds the weights of an output channel of a convolution, of an output of a linear layer,
    or of a word. Changes the graph.

    Args:
        graph: The float graph.
        signature: Shapes of its inputs.
        kept: Groups of layers that stay in float.
    """
    weights = QuantizationSpec(
        dtype=torch.int8,
        qscheme=QuantizationScheme.SYMMETRIC,
        granularity=PerChannelGranularity(axis=0),
    )
    config = QuantizerConfig(
        global_config=None,
        module_name_configs={
            re.escape(name): ModuleQuantizerConfig(
                op_input_spec=None, op_output_spec=None, op_state_spec={"weight": weights}
            )
            for name in weighted_layers(graph)
            if group_of(name) not in kept
        },
        execution_mode=ExecutionMode.EAGER,
    )
    quantizer = Quantizer(graph, config)
    quantizer.prepare(example_inputs(signature, batch=1))
    quantized: ExportableGraph = quantizer.finalize(backend=ExportBackend.CoreAI)
    return quantized
