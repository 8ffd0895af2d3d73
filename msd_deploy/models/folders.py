"""Model folders: saving and loading a model with its preprocessing and labels.

A folder is self-contained and can be moved: config.json, model.safetensors, preprocess.json,
tokenizer.json, labels.json, manifest.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast, get_args

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    SCHEMA_VERSION,
    Json,
    read_json,
    read_manifest,
    read_versioned_json,
    sha256_of_json,
    write_json,
    write_manifest,
)
from msd_deploy.data.preprocess import TOKENIZER_NAME, Preprocessor, highest_id
from msd_deploy.errors import ArtifactError
from msd_deploy.models.classifier import ViewClassifier, check_finite
from msd_deploy.models.configs import FAMILIES, FamilyConfig, FusionConfig
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.problem import Problem, decides_one_class
from msd_deploy.quiet import quiet_transformers

LABELS_NAME = "labels.json"
_CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

Model = TypeVar("Model", bound=ViewClassifier, covariant=True)


@dataclass(frozen=True, slots=True)
class LoadedModel(Generic[Model]):
    """A model with its preprocessor and labels.

    Attributes:
        model: The model, in eval mode.
        preprocessor: Prepares its inputs.
        labels: Names of its classes.
        problem: Kind of its task.
        digest: SHA-256 over the folder's files, independent of its path.
        folder: The folder that it was loaded from.
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
        folder: Path of the folder.
        model: The model.
        preprocessor: Prepared the inputs that it was trained on.
        labels: Names of the classes.
        problem: Kind of its task.
        facts: Additional JSON values of the manifest.
    """
    with new_folder(folder) as building:
        with quiet_transformers():
            model.save_pretrained(building)
        preprocessor.save(building)
        write_json(building / LABELS_NAME, labels_as_json(labels, problem))
        write_manifest(building, "model", facts)


def labels_as_json(labels: tuple[str, ...], problem: Problem) -> dict[str, object]:
    """Return labels.json: class names in the order of the logits, and the decision rule."""
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
    content = read_versioned_json(path)
    labels, problem = content.get("labels"), content.get("problem")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ArtifactError("has no list of labels", where=path, fix="Restore the file")
    if problem not in get_args(Problem):
        raise ArtifactError(
            f"has an unknown problem {problem!r}",
            where=path,
            fix=f"Use one of {', '.join(get_args(Problem))}",
        )
    return tuple(labels), cast(Problem, problem)


def load_model(folder: Path) -> LoadedModel[FusionForClassification]:
    """Load a FusionForClassification, a student or a teacher; see `load_classifier`.

    Raises:
        ArtifactError: See there; or the folder holds a teacher of another family.
    """
    if (family := family_of(folder)) is not None:
        raise ArtifactError(
            f"is a {family} teacher, not a fusion model",
            where=folder,
            fix="Name a student, or a run of `msd distill`",
        )
    return _load(folder, FusionForClassification)


def load_classifier(folder: Path, manifest: Json | None = None) -> LoadedModel[ViewClassifier]:
    """Load a model folder of any kind after verifying the digests of its files.

    Args:
        folder: The model folder.
        manifest: What `read_manifest` returned, where this command has verified the files already.

    Raises:
        ArtifactError: The folder is missing, incomplete or altered.
    """
    kind = FusionForClassification if family_of(folder) is None else FamilyForClassification
    return _load(folder, kind, manifest)


def family_of(folder: Path) -> str | None:
    """Return the family of a model folder; None for a fusion model or a folder without a model.

    Raises:
        ArtifactError: Its config.json is malformed or of an unknown model type.
    """
    path = folder / _CONFIG_NAME
    config = read_json(path) if path.is_file() else {}
    kind = config.get("model_type", FusionConfig.model_type)
    if kind == FusionConfig.model_type:
        return None
    if kind != FamilyConfig.model_type or config.get("family") not in FAMILIES:
        unknown = config.get("family") if kind == FamilyConfig.model_type else kind
        raise ArtifactError(
            f"holds an unknown kind of model ({unknown!r})",
            where=path,
            fix="Name a folder that `msd distill` or `msd teacher` wrote",
        )
    return FAMILIES[str(config["family"])]


def _load(folder: Path, kind: type[Model], manifest: Json | None = None) -> LoadedModel[Model]:
    if not folder.is_dir():
        raise ArtifactError(
            "no such model folder",
            where=folder,
            fix="Name a folder that `msd distill` or `msd teacher` wrote",
        )
    manifest = manifest or read_manifest(folder, "model")
    labels, problem = read_labels(folder)
    preprocessor = Preprocessor.load(folder)
    try:
        with quiet_transformers():
            model = kind.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(
            f"model cannot be loaded ({reason})", where=folder, fix="Restore the folder"
        ) from error
    if model.config.num_labels != len(labels):
        raise ArtifactError(
            f"has {model.config.num_labels} classes and {len(labels)} labels",
            where=folder,
            fix="Restore its config.json or labels.json",
        )
    _check_tokenizer(model.config, preprocessor, folder)
    check_finite(model.state_dict(), folder / WEIGHTS_NAME)
    _copy_weights(model)
    digest = sha256_of_json(manifest["files"])
    nn.Module.eval(model)
    return LoadedModel(model, preprocessor, labels, problem, digest, folder)


def _check_tokenizer(config: PreTrainedConfig, preprocessor: Preprocessor, folder: Path) -> None:
    """Check that a model has an embedding of every token."""
    stated = config.to_dict()
    of_text = stated.get("backbone", stated)
    count = of_text.get("text_config", of_text).get("vocab_size")
    if count is not None and highest_id(preprocessor.tokenizer) >= count:
        raise ArtifactError(
            f"has token ids up to {highest_id(preprocessor.tokenizer)}, the model embeddings of"
            f" {count}",
            where=folder / TOKENIZER_NAME,
            fix="Restore the tokenizer that the model was trained with",
        )


def _copy_weights(model: torch.nn.Module) -> None:
    """Copy weights from the memory-mapped file into aligned memory.

    Rounding of matrix products depends on the alignment, which varies from load to load: a resumed
    run would not be bit-equal.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
