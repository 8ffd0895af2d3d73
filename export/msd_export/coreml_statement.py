"""What a Core ML package states of itself, held against the files beside it.

An app reads the package's own metadata, a tool the files: where the two differ, answers get wrong
names, or inputs are made otherwise than the model learned them.
"""

import json
from pathlib import Path

from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError
from msd_deploy.models.folders import read_labels
from msd_export.coreml_package import read_spec


def stated_metadata(package: Path) -> dict[str, str]:
    """Return the user-defined metadata of a package.

    Raises:
        ArtifactError: It is not a package, or holds no ML Program.
    """
    return dict(read_spec(package).description.metadata.userDefined)


def refuse_contradictions(package: Path, folder: Path) -> None:
    """Check that labels and preprocessing in a folder are those that its package states.

    Raises:
        ArtifactError: They are not, or are missing in the folder.
    """
    stated = stated_metadata(package)
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
