"""Model folders: weights, configuration, preprocessing and labels, each loading alone, elsewhere.

config.json, model.safetensors, preprocess.json, tokenizer.json, labels.json, manifest.json.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast, get_args

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    SCHEMA_VERSION,
    read_json,
    read_manifest,
    read_versioned_json,
    sha256_of_json,
    write_json,
    write_manifest,
)
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.configs import FAMILIES, FamilyConfig, FusionConfig
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.problem import Problem, decides_one_class

LABELS_NAME = "labels.json"
_CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

Model = TypeVar("Model", bound=ViewClassifier, covariant=True)


@dataclass(frozen=True, slots=True)
class LoadedModel(Generic[Model]):
    """A model with all that it needs to be used.

    Attributes:
        model: In eval mode.
        preprocessor: Makes its inputs.
        labels: Names of its classes.
        problem: What it is asked.
        digest: SHA-256 over the folder's files: what the model is, wherever it lies.
        folder: Where it was read.
    """

    model: Model
    preprocessor: Preprocessor
    labels: tuple[str, ...]
    problem: Problem
    digest: str
    folder: Path


def save_model(
    folder: Path,
    model: ViewClassifier,
    preprocessor: Preprocessor,
    *,
    labels: tuple[str, ...],
    problem: Problem,
    facts: Mapping[str, object],
) -> None:
    """Write a model folder; an existing one is replaced when the new one is complete.

    Args:
        folder: Its final place.
        model: The model.
        preprocessor: Made the inputs that it was trained on.
        labels: Names of the classes.
        problem: What it is asked.
        facts: Further JSON values for the manifest.
    """
    with new_folder(folder) as building:
        with quiet_transformers():
            model.save_pretrained(building)
        preprocessor.save(building)
        write_json(building / LABELS_NAME, labels_as_json(labels, problem))
        write_manifest(building, "model", facts)


def labels_as_json(labels: tuple[str, ...], problem: Problem) -> dict[str, object]:
    """Return labels.json: the classes' names in the order of the logits, and how to decide."""
    decision = "argmax" if decides_one_class(problem) else "probability >= 0.5"
    return {
        "schema_version": SCHEMA_VERSION,
        "problem": problem,
        "decision": decision,
        "labels": list(labels),
    }


def read_labels(folder: Path) -> tuple[tuple[str, ...], Problem]:
    """Read labels.json.

    Raises:
        ArtifactError: It is missing or malformed.
    """
    path = folder / LABELS_NAME
    stated = read_versioned_json(path)
    labels, problem = stated.get("labels"), stated.get("problem")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ArtifactError("states no list of labels", where=path)
    if problem not in get_args(Problem):
        raise ArtifactError(f"states an unknown problem {problem!r}", where=path)
    return tuple(labels), cast(Problem, problem)


def load_model(folder: Path) -> LoadedModel[FusionForClassification]:
    """Load the folder of a student, or of a teacher of its kind; see `load_classifier`.

    Raises:
        ArtifactError: As there, or it holds a teacher of another family.
    """
    if (family := family_of(folder)) is not None:
        raise ArtifactError(
            f"is a {family} teacher, not a model of our own kind",
            where=folder,
            fix="Name a student, or a run of `msd distill`",
        )
    return _load(folder, FusionForClassification)


def load_classifier(folder: Path) -> LoadedModel[ViewClassifier]:
    """Load a model folder of any kind, its files verified against their digests.

    Raises:
        ArtifactError: The folder is missing, incomplete or altered.
    """
    kind = FusionForClassification if family_of(folder) is None else FamilyForClassification
    return _load(folder, kind)


def family_of(folder: Path) -> str | None:
    """Return the name of a model folder's family, or None if it is a student's kind, or no model.

    Raises:
        ArtifactError: Its config.json is malformed, or asks for a kind that is unknown.
    """
    path = folder / _CONFIG_NAME
    stated = read_json(path) if path.is_file() else {}
    kind = stated.get("model_type", FusionConfig.model_type)
    if kind == FusionConfig.model_type:
        return None
    if kind != FamilyConfig.model_type or stated.get("family") not in FAMILIES:
        unknown = stated.get("family") if kind == FamilyConfig.model_type else kind
        raise ArtifactError(f"holds an unknown kind of model ({unknown!r})", where=path)
    return FAMILIES[str(stated["family"])]


def _load(folder: Path, kind: type[Model]) -> LoadedModel[Model]:
    if not folder.is_dir():
        raise ArtifactError("no such model folder", where=folder)
    manifest = read_manifest(folder, "model")
    labels, problem = read_labels(folder)
    preprocessor = Preprocessor.load(folder)
    try:
        with quiet_transformers():
            model = kind.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"model cannot be loaded ({reason})", where=folder) from error
    if model.config.num_labels != len(labels):
        raise ArtifactError(
            f"has {model.config.num_labels} classes and {len(labels)} labels", where=folder
        )
    _own_memory(model)
    digest = sha256_of_json(manifest["files"])
    nn.Module.eval(model)
    return LoadedModel(model, preprocessor, labels, problem, digest, folder)


def _own_memory(model: torch.nn.Module) -> None:
    """Copy weights out of the mapped file into torch's own, aligned memory.

    Matrix products round differently by alignment, which varies from load to load: a resumed run
    would not give the same bits.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal for a while."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
