"""What parity.json says where an export was verified in two runtimes."""

from collections.abc import Mapping

import numpy as np

from msd_deploy.artifacts import Json
from msd_deploy.evaluation import LogitsByView
from msd_deploy.views import View
from msd_export.parity import ViewParity


def second_runtime_as_json(
    parity: Mapping[View, ViewParity], logits: LogitsByView, first: LogitsByView, *, runtime: str
) -> Json:
    """Return what parity.json says of a second runtime.

    Args:
        parity: Its comparison with the source.
        logits: What it answered.
        first: What the first runtime answered.
        runtime: Its name.
    """
    return {
        "runtime": runtime,
        "views": {view.value: result.as_json() for view, result in parity.items()},
        "max_abs_difference": {
            view.value: float(np.abs(logits[view] - first[view]).max()) for view in parity
        },
    }
