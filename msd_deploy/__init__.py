"""Modality-specific Distillation: from a large vision-and-language classifier to a small one.

Holds the method: data, models, distillation and evaluation. It knows nothing of exported formats
(`msd_export`), of measuring them (`msd_mobile_bench`) or of the command line (`msd_cli`).
"""

__version__ = "0.1.0"  # before the imports: modules that they load read it

from msd_deploy.api import DistilledRun, distill
from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, StudentConfig, TeacherConfig
from msd_deploy.errors import MsdError
from msd_deploy.hooks import Hooks, RunHooks, StageHooks

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "DistillConfig",
    "DistilledRun",
    "Hooks",
    "MsdError",
    "RunConfig",
    "RunHooks",
    "StageHooks",
    "StudentConfig",
    "TeacherConfig",
    "__version__",
    "distill",
]
