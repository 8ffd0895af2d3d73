"""What a model's file states of itself, held against the files beside it.

An app reads the file's own metadata, a tool the files beside it: where the two differ, answers get
wrong names, or inputs are made otherwise than the model learned them.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError
from msd_deploy.models.folders import read_labels

COMPARED = frozenset({"labels", "problem", "preprocess_digest"})
"""The entries of a file's metadata that are held against what lies beside it."""


def refuse_contradictions(stated: Mapping[str, str], folder: Path) -> None:
    """Check that labels and preprocessing in a folder are those that its model states.

    Args:
        stated: The metadata of the model's file; what it does not state is not compared.
        folder: The export.

    Raises:
        ArtifactError: They are not, or are missing in the folder.
    """
    labels, problem = read_labels(folder)
    for what, inside, beside in (
        ("labels", stated.get("labels"), json.dumps(labels, ensure_ascii=False)),
        ("problem", stated.get("problem"), problem),
        (
            "preprocessing",
            stated.get("preprocess_digest"),
            Preprocessor.load(folder).digest(),
        ),
    ):
        if inside is not None and inside != beside:
            raise ArtifactError(
                f"its {what} are not those of the model inside",
                where=folder,
                fix="Export the run again",
            )
