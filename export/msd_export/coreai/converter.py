"""The target coreai: .aimodel assets for Core AI, in float or with weights of 8 bits.

One example at a time, of one text length; a second function takes a text alone, and both share
their weights. Core AI is a beta: an asset states the version of what wrote it, and others may not
load it.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from msd_deploy.artifacts.manifest import Json
from msd_deploy.quiet import quiet
from msd_export.coreai.asset import MAIN_FUNCTION, state, stored_numbers
from msd_export.formats import Precision
from msd_export.graph import (
    HalfPrecision,
    entry_points_of,
    layer_groups,
    program_of,
)
from msd_export.model_file import converting, refuse_float
from msd_export.signature import INPUT_NAMES, OUTPUT_NAMES, TEXT_ENTRY, TEXT_INPUT_NAMES
from msd_export.source import ExportSource

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_INPUTS = {MAIN_FUNCTION: INPUT_NAMES, TEXT_ENTRY: TEXT_INPUT_NAMES}
"""The inputs of each function, in its order."""


class CoreAIConverter:
    """Writes .aimodel assets of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what can stay in float; see `converters.Converter`."""
        return layer_groups(self._source.graph("nhwc")) if precision == "int8" else ()

    def convert(self, precision: Precision, path: Path, *, kept: Collection[str] = ()) -> None:
        """Write a variant; see `converters.Converter`.

        In int8, as in fp16, what is not a weight is float16.
        """
        with converting("Core AI", path):
            graph = self._source.graph("nhwc")
            if precision == "int8":
                from msd_export.coreai.quantize import quantize_weights

                graph = quantize_weights(graph.half(), self._source.signature, kept)
            entries = entry_points_of(graph, MAIN_FUNCTION)
            modules: Mapping[str, nn.Module] = entries
            if precision != "fp32":
                modules = {name: HalfPrecision(entry) for name, entry in entries.items()}
            programs = {
                name: program_of(module, self._source.signature, _INPUTS[name])
                for name, module in modules.items()
            }
            write_asset(programs, self._source.metadata(), path)

    def describe(self, precision: Precision, path: Path) -> Json:
        """Count what is stored in each type; see `converters.Converter`."""
        with quiet():
            numbers = stored_numbers(path)
        if precision == "int8":
            refuse_float(precision, numbers.get("int8", 0), path)
        return {"weights": numbers}


def write_asset(
    programs: Mapping[str, "ExportedProgram"], metadata: Mapping[str, str], path: Path
) -> None:
    """Write programs as the functions of an .aimodel asset.

    The same programs give other bytes each time: Core AI names inner functions at random.

    Args:
        programs: The graphs, by the name of their function.
        metadata: See `state`.
        path: The asset's folder.
    """
    from coreai_torch import TorchConverter, get_decomp_table

    # Else an asset holds stack traces, with the folders of the machine that converted it.
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    table = get_decomp_table()
    for name, program in programs.items():
        converter.add_exported_program(
            program.run_decompositions(table),
            input_names=_INPUTS[name],
            output_names=OUTPUT_NAMES,
            entrypoint_name=name,
        )
    converter.to_coreai().save_asset(path)
    state(path, metadata)
