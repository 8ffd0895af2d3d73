"""Model folders: saving and loading a model with its preprocessing and labels.

A folder is self-contained and can be moved: config.json, model.safetensors, preprocess.json,
tokenizer.json, labels.json, manifest.json, and calibration.json where the model is calibrated.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast, get_args

import torch
from torch import nn
from transformers import PreTrainedModel

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    RESTORE,
    SCHEMA_VERSION,
    Json,
    read_json,
    read_manifest,
    read_versioned_json,
    sha256_of_json,
    write_json,
    write_manifest,
)
from msd_deploy.data.batch import Batch
from msd_deploy.data.preprocess import (
    PREPROCESS_NAME,
    SPECIAL_TOKENS,
    TOKENIZER_NAME,
    Preprocessor,
    highest_id,
)
from msd_deploy.errors import ArtifactError
from msd_deploy.models.classifier import ViewClassifier, check_finite
from msd_deploy.models.configs import FAMILIES, FamilyConfig, FusionConfig, SpecialistConfig
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.loading import CONFIG_NAME, load_weights, reason_of
from msd_deploy.models.specialist import SpecialistForClassification
from msd_deploy.operating_point import OperatingPoint, point_from_json
from msd_deploy.problem import Problem, decides_one_class
from msd_deploy.quiet import quiet_transformers
from msd_deploy.temperatures import (
    CALIBRATION_NAME,
    UNCALIBRATED,
    Temperatures,
    read_temperatures,
)
from msd_deploy.views import View

LABELS_NAME = "labels.json"
WEIGHTS_NAME = "model.safetensors"
SINGLE_VIEW = "single-view"

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
        temperatures: Its temperatures.
        operating_point: Its operating point, if it has one.
    """

    model: Model
    preprocessor: Preprocessor
    labels: tuple[str, ...]
    problem: Problem
    digest: str
    folder: Path
    temperatures: Temperatures = UNCALIBRATED
    operating_point: OperatingPoint | None = None


def save_model(
    folder: Path,
    model: ViewClassifier,
    preprocessor: Preprocessor,
    *,
    labels: tuple[str, ...],
    problem: Problem,
    facts: Mapping[str, object],
    temperatures: Temperatures = UNCALIBRATED,
    operating_point: OperatingPoint | None = None,
) -> None:
    """Write a model folder; an existing one is replaced when the new one is complete.

    Args:
        folder: Path of the folder.
        model: The model.
        preprocessor: Prepared the inputs that it was trained on.
        labels: Names of the classes.
        problem: Kind of its task.
        facts: Additional JSON values of the manifest.
        temperatures: Its temperatures; calibration.json is written if they were fitted.
        operating_point: Its operating point; None: the most probable class is decided, or every
            class with a probability of .5.
    """
    with new_folder(folder) as building:
        with quiet_transformers():
            model.save_pretrained(building)
        preprocessor.save(building)
        write_json(building / LABELS_NAME, labels_as_json(labels, problem, operating_point))
        if temperatures.is_fitted:
            write_json(building / CALIBRATION_NAME, temperatures.as_json())
        write_manifest(building, "model", facts)


def labels_as_json(
    labels: tuple[str, ...], problem: Problem, point: OperatingPoint | None = None
) -> dict[str, object]:
    """Return labels.json: class names in the order of the logits, and how decisions are made."""
    return {
        "schema_version": SCHEMA_VERSION,
        "problem": problem,
        "decision": _decision(problem, has_point=point is not None),
        **({} if point is None else {"operating_point": point.as_json(problem)}),
        "labels": list(labels),
    }


def _decision(problem: Problem, *, has_point: bool) -> str:
    if decides_one_class(problem):
        return "argmax, if probability >= abstain_below" if has_point else "argmax"
    return "probability >= thresholds" if has_point else "probability >= 0.5"


def read_labels(folder: Path) -> tuple[tuple[str, ...], Problem]:
    """Read labels.json.

    Raises:
        ArtifactError: It is missing or malformed.
    """
    path = folder / LABELS_NAME
    content = read_versioned_json(path)
    labels, problem = content.get("labels"), content.get("problem")
    if not isinstance(labels, list) or not labels or not all(map(_is_text, labels)):
        raise ArtifactError("has no list of labels", where=path, fix=RESTORE)
    repeated = [label for label, times in Counter(labels).items() if times > 1]
    if repeated:
        raise ArtifactError(f"has the label {repeated[0]!r} twice", where=path, fix=RESTORE)
    if problem not in get_args(Problem):
        raise ArtifactError(
            f"has an unknown problem {problem!r}",
            where=path,
            fix=f"Use one of {', '.join(get_args(Problem))}",
        )
    decision = _decision(cast(Problem, problem), has_point="operating_point" in content)
    if content.get("decision", decision) != decision:
        raise ArtifactError(
            f"has the decision {content['decision']!r}, which is {decision!r} for {problem}",
            where=path,
            fix=RESTORE,
        )
    return tuple(labels), cast(Problem, problem)


def read_operating_point(folder: Path) -> OperatingPoint | None:
    """Read the operating point of labels.json, whose labels `read_labels` checks; None: none.

    Raises:
        ArtifactError: It is malformed, or a threshold is not a number from 0 to 1.
    """
    labels, problem = read_labels(folder)
    content = read_versioned_json(folder / LABELS_NAME)
    if "operating_point" not in content:
        return None
    return point_from_json(content["operating_point"], len(labels), problem, folder / LABELS_NAME)


def _is_text(value: object) -> bool:
    """Return whether a value is a string that UTF-8 can hold."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def load_model(folder: Path) -> LoadedModel[FusionForClassification]:
    """Load a FusionForClassification, a student or a teacher; see `load_classifier`.

    Raises:
        ArtifactError: See there; or the folder holds a teacher of another family.
    """
    manifest = _verified(folder)
    if (family := family_of(folder)) is not None:
        raise ArtifactError(
            f"is a {family} teacher, not a fusion model",
            where=folder,
            fix="Name a student, or a run of `msd distill`",
        )
    return _load(folder, FusionForClassification, manifest)


def load_classifier(folder: Path, manifest: Json | None = None) -> LoadedModel[ViewClassifier]:
    """Load a model folder of any kind after verifying the digests of its files.

    Args:
        folder: The model folder.
        manifest: What `read_manifest` returned, where this command has verified the files already.

    Raises:
        ArtifactError: The folder is missing, incomplete or altered.
    """
    manifest = manifest or _verified(folder)
    kinds: dict[str | None, type[ViewClassifier]] = {
        None: FusionForClassification,
        SINGLE_VIEW: SpecialistForClassification,
    }
    return _load(folder, kinds.get(family_of(folder), FamilyForClassification), manifest)


def family_of(folder: Path) -> str | None:
    """Return the family of a model folder, or "single-view" for a teacher of one modality.

    None for a fusion model or a folder without a model.

    Raises:
        ArtifactError: Its config.json is malformed or of an unknown model type.
    """
    path = folder / CONFIG_NAME
    config = read_json(path) if path.is_file() else {}
    kind = config.get("model_type", FusionConfig.model_type)
    if kind == FusionConfig.model_type:
        return None
    if kind == SpecialistConfig.model_type:
        return SINGLE_VIEW
    family = config.get("family")
    if kind != FamilyConfig.model_type or family not in list(FAMILIES):
        unknown = family if kind == FamilyConfig.model_type else kind
        raise ArtifactError(
            f"holds an unknown kind of model ({unknown!r})",
            where=path,
            fix="Name a folder that `msd distill` or `msd teacher` wrote",
        )
    return FAMILIES[str(family)]


def _verified(folder: Path) -> Json:
    """Return the manifest of a model folder whose files are verified."""
    if not folder.is_dir():
        raise ArtifactError(
            "no such model folder",
            where=folder,
            fix="Name a folder that `msd distill` or `msd teacher` wrote",
        )
    return read_manifest(folder, "model")


def _load(folder: Path, kind: type[Model], manifest: Json) -> LoadedModel[Model]:
    labels, problem = read_labels(folder)
    preprocessor, temperatures = Preprocessor.load(folder), read_temperatures(folder)
    point = read_operating_point(folder)
    model, report = load_weights(kind, folder)
    assert isinstance(model, kind)
    unmatched = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if unmatched:
        raise ArtifactError(
            f"does not match the weights ({', '.join(unmatched[:3])})",
            where=folder / CONFIG_NAME,
            fix="Restore the folder",
        )
    if model.config.num_labels != len(labels):
        raise ArtifactError(
            f"has {model.config.num_labels} classes and {len(labels)} labels",
            where=folder,
            fix="Restore its config.json or labels.json",
        )
    check_finite(model.state_dict(), folder / WEIGHTS_NAME)
    _copy_weights(model)
    digest = sha256_of_json(manifest["files"])
    nn.Module.eval(model)
    _check_inputs(model, preprocessor, folder)
    check_that_it_runs(model, preprocessor, folder)
    return LoadedModel(model, preprocessor, labels, problem, digest, folder, temperatures, point)


def _check_inputs(model: ViewClassifier, preprocessor: Preprocessor, folder: Path) -> None:
    """Check that preprocessing makes the inputs that a model was trained on."""
    if isinstance(model, FusionForClassification):
        tokens, length, padding = model.config.vocab_size, model.config.max_text_length, None
    elif isinstance(model, SpecialistForClassification):
        # Texts of an image's teacher are not read.
        tokens = model.config.encoder.get("vocab_size", len(SPECIAL_TOKENS))
        length, padding = model.config.max_text_length, None
    else:
        assert isinstance(model, FamilyForClassification)  # there is no other kind
        assert isinstance(model.backbone, PreTrainedModel)
        text = model.backbone.config.get_text_config()
        tokens, length = text.vocab_size, text.max_position_embeddings
        padding = model.config.text_padding
    size, highest = tuple(model.config.image_size), highest_id(preprocessor.tokenizer)
    if highest >= tokens:
        raise ArtifactError(
            f"has token ids up to {highest}, the model embeddings of {tokens}",
            where=folder / TOKENIZER_NAME,
            fix="Restore the tokenizer that the model was trained with",
        )
    found = {
        f"images of {preprocessor.image.size} pixels, and the model {size}": (
            preprocessor.image.size != size
        ),
        f"texts of {preprocessor.max_length} tokens, and the model {length}": (
            preprocessor.max_length > length
        ),
        f"the padding id {preprocessor.pad_id}, and the model {padding}": (
            padding not in (None, preprocessor.pad_id)
        ),
    }
    for what in (what for what, differs in found.items() if differs):
        raise ArtifactError(f"has {what}", where=folder / PREPROCESS_NAME, fix="Restore the folder")


def check_that_it_runs(model: ViewClassifier, preprocessor: Preprocessor, folder: Path) -> None:
    """Check that a model answers to one example, as no check of single values can.

    Raises:
        ArtifactError: It cannot be run, or answers with NaN.
    """
    ids, mask = (torch.from_numpy(array).long() for array in preprocessor.tokens(["a"]))
    row = torch.zeros(1, dtype=torch.int64)
    pixels = torch.zeros(1, 3, *preprocessor.image.size, dtype=torch.uint8)
    batch = Batch(pixels, row, row == 0, ids, mask, row, row)
    try:
        with torch.inference_mode():
            logits = model.logits_by_view(batch, (View.MULTIMODAL,))[View.MULTIMODAL]
    except Exception as error:  # whatever a class of transformers raises for an odd value
        raise ArtifactError(
            f"model cannot be run ({reason_of(error)})", where=folder, fix="Restore the folder"
        ) from error
    if not torch.isfinite(logits).all():
        raise ArtifactError(
            "model answers with NaN or infinity", where=folder, fix="Restore the folder"
        )


def _copy_weights(model: torch.nn.Module) -> None:
    """Copy weights from the memory-mapped file into aligned memory.

    Rounding of matrix products depends on the alignment, which varies from load to load: a resumed
    run would not be bit-equal.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
