"""Open whatever a user points at: a run (its student), a model folder, or an exported form."""

from dataclasses import dataclass
from pathlib import Path

from msd_deploy.artifacts import MANIFEST_NAME, RunDirectory, read_versioned_json
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError
from msd_deploy.models.folders import read_labels
from msd_deploy.problem import Problem
from msd_export.export_folder import KIND, open_export
from msd_export.predictors import Predictor, TorchPredictor, open_predictor
from msd_export.statement import refuse_contradictions


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model that can be asked, with what makes its inputs and reads its answers.

    Attributes:
        predictor: Runs it.
        preprocessor: Makes its inputs.
        labels: Names of its classes.
        problem: What it is asked.
    """

    predictor: Predictor
    preprocessor: Preprocessor
    labels: tuple[str, ...]
    problem: Problem


def open_model(path: Path, *, threads: int = 1) -> OpenedModel:
    """Open a run's student, a model folder, or an export folder; digests are verified.

    Raises:
        ArtifactError: It is none of these, incomplete, altered, or contradicts itself.
    """
    folder = path
    if (path / "run.json").is_file():
        RunDirectory(path).require_finished()
        folder = RunDirectory(path).student
    if not (folder / MANIFEST_NAME).is_file():
        raise ArtifactError(
            "is no run, model or export folder" if path.exists() else "no such folder",
            where=path,
            fix="Name a run, its student, or a folder in its exports",
        )
    predictor: Predictor
    if read_versioned_json(folder / MANIFEST_NAME).get("kind") == KIND:
        exported = open_predictor(open_export(folder), threads=threads)
        refuse_contradictions(exported.metadata, folder)
        predictor = exported
    else:
        predictor = TorchPredictor(folder, threads=threads)
    labels, problem = read_labels(folder)
    return OpenedModel(predictor, Preprocessor.load(folder), labels, problem)
