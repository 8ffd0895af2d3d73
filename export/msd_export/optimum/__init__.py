"""Exports in the conventions of Hugging Face Optimum (extra `[optimum]`): import from here.

`ExportedModel` is an OptimizedModel, `OnnxQuantizer` an OptimumQuantizer, and
`ClassifierExporterConfig` an ExporterConfig. Nothing else of this project imports optimum: it
brings torch and transformers along, which a process that runs an export does not need.
"""

from msd_export.optimum.config import ClassifierExporterConfig, ExportedConfig
from msd_export.optimum.model import ClassifierOutput, ExportedModel
from msd_export.optimum.quantizer import OnnxQuantizer

__all__ = [
    "ClassifierExporterConfig",
    "ClassifierOutput",
    "ExportedConfig",
    "ExportedModel",
    "OnnxQuantizer",
]
