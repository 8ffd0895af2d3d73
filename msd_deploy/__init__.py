"""Modality-specific Distillation: from a large vision-and-language classifier to a small one.

Holds the method: data, models, distillation and evaluation. It knows nothing of exported formats
(`msd_export`), of measuring them (`msd_mobile_bench`) or of the command line (`msd_cli`).
"""

from msd_deploy.version import __version__

__all__ = ["__version__"]
