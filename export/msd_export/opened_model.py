"""Open a run, model folder or export for inference, and read a data set for it.

The metadata inside an exported file is compared with the files beside it: an app reads the former,
tools the latter, and where they differ, logits get wrong labels or inputs are preprocessed
differently from training.
"""

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msd_deploy.artifacts.claim import read_finished
from msd_deploy.artifacts.manifest import MANIFEST_NAME, read_versioned_json
from msd_deploy.artifacts.run_directory import (
    MODEL_FOLDERS,
    RunDirectory,
    check_model_exists,
)
from msd_deploy.data.images import ImageSource
from msd_deploy.data.labels import check_classes, in_classes_of
from msd_deploy.data.prepare import notes_of, prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import IdArray, Preprocessor
from msd_deploy.data.readers.hub_dataset import PREFIX
from msd_deploy.data.readers.spec import kind_of_spec, load_evaluation_source, load_source
from msd_deploy.data.source import DatasetInfo, EvaluationSplit, SourceData, SourceOptions, Split
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import probabilities
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel, read_labels, read_operating_point
from msd_deploy.operating_point import OperatingPoint, decided_classes
from msd_deploy.problem import Problem
from msd_deploy.run.record import prepare_for_run, read_finished_run, source_of_run
from msd_deploy.temperatures import (
    UNCALIBRATED,
    RowModalities,
    Temperatures,
    read_temperatures,
)
from msd_deploy.views import View
from msd_export.folder import KIND, open_export
from msd_export.predictors import TorchPredictor, open_predictor
from msd_export.signature import (
    Logits,
    ModelInputs,
    Predictor,
    calibrated,
)


def refuse_contradictions(metadata: Mapping[str, str], folder: Path) -> None:
    """Check that labels, preprocessing and temperatures in a folder are those its model states.

    Args:
        metadata: Of the model's file; an entry that it lacks is not compared.
        folder: The export.

    Raises:
        ArtifactError: They are not, or are missing in the folder.
    """
    labels, problem = read_labels(folder)
    for what, inside, beside in (
        ("labels", metadata.get("labels"), json.dumps(labels, ensure_ascii=False)),
        ("problem", metadata.get("problem"), problem),
        (
            "preprocessing",
            metadata.get("preprocess_digest"),
            Preprocessor.load(folder).digest(),
        ),
        (
            "temperatures",
            metadata.get("temperatures"),
            read_temperatures(folder).as_text(),
        ),
    ):
        if inside is not None and inside != beside:
            raise ArtifactError(
                f"the {what} here and in the model file do not match",
                where=folder,
                fix="Export the run again",
            )


ImageLike = str | os.PathLike[str] | ImageSource


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The result for one example.

    Attributes:
        probabilities: By label, in the order of the logits: a softmax, or where several labels may
            apply a sigmoid each.
        logits: float32 [classes].
        view: What the example had: image and text, the image alone, or the text alone.
        input_ids: int32 [max_length], the text's identifiers, padded.
        is_text_cut: Whether the text has more tokens than the model takes.
        decided: The labels that are decided at the model's operating point; none if it abstains.
            Without one the most probable label, or each with a probability of .5.
    """

    probabilities: dict[str, float]
    logits: Logits
    view: View
    input_ids: IdArray
    is_text_cut: bool
    decided: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The label with the highest probability, decided or not."""
        return max(self.probabilities, key=lambda label: self.probabilities[label])


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model ready for inference, with its preprocessing and its labels.

    Attributes:
        predictor: Runs it.
        preprocessor: Makes its inputs.
        labels: Names of its classes.
        problem: Whether one label applies or several.
        temperatures: The temperatures of its probabilities.
        operating_point: Which labels it decides at which probabilities; None: the most probable
            one, or each with a probability of .5.
        text_entry: Runs a text alone, as an app does; None: `predictor` does.
    """

    predictor: Predictor
    preprocessor: Preprocessor
    labels: tuple[str, ...]
    problem: Problem
    temperatures: Temperatures = UNCALIBRATED
    operating_point: OperatingPoint | None = None
    text_entry: Predictor | None = None

    def __repr__(self) -> str:
        """Return the runtime, problem and number of classes: the fields hold whole tokenizers."""
        return f"OpenedModel({self.predictor.runtime}, {self.problem}, {len(self.labels)} classes)"

    def predict(self, *, image: ImageLike | None = None, text: str | None = None) -> Prediction:
        """Classify an image, a text, or both; a blank text counts as none.

        Args:
            image: A file, its bytes, a Pillow image, or a uint8 array [height, width] of greys,
                [height, width, 3] RGB or [height, width, 4] RGBA; any size.
            text: Any length; what exceeds the model's number of tokens is cut.

        Raises:
            ConfigError: Neither was given, or the text is not a string.
            DataError: The image cannot be read.
        """
        text = "" if text is None else text
        if not isinstance(text, str):
            raise ConfigError(f"must be a string, not {text!r}", where="text")
        has_text = bool(text.strip())
        if image is None and not has_text:
            raise ConfigError(
                "nothing to predict from", fix="Give image (--image), text (--text), or both"
            )
        inputs, is_text_cut = self._inputs(image, text)
        logits = (self.text_entry_for(inputs) or self.predictor).predict(inputs)
        scaled = calibrated(logits, inputs, self.temperatures)
        (found,) = probabilities(scaled, self.problem)
        view = View.TEXT if image is None else View.MULTIMODAL if has_text else View.IMAGE
        modalities = RowModalities(np.array([image is not None]), np.array([has_text]))
        (is_decided,) = decided_classes(
            scaled, View.MULTIMODAL, modalities, self.problem, self.operating_point
        )
        named = dict(zip(self.labels, found.tolist(), strict=True))
        decided = tuple(itertools.compress(self.labels, is_decided))
        return Prediction(named, logits[0], view, inputs["input_ids"][0], is_text_cut, decided)

    def text_entry_for(self, inputs: ModelInputs) -> Predictor | None:
        """Return the entry point for a text alone if it exists and the inputs have no image."""
        return None if inputs["image_present"].any() else self.text_entry

    def inputs(self, *, image: ImageLike | None = None, text: str = "") -> ModelInputs:
        """Return what the model is given for an image, a text, or both; see `predict`.

        Raises:
            DataError: The image cannot be read.
        """
        inputs, _ = self._inputs(image, text)
        return inputs

    def _inputs(self, image: ImageLike | None, text: str) -> tuple[ModelInputs, bool]:
        """Return the inputs, and whether the text was cut."""
        input_ids, attention_mask, cut = self.preprocessor.tokens_and_cut([text])
        pixels = np.zeros((*self.preprocessor.image.size, 3), np.uint8)
        if image is not None:
            source = Path(image) if isinstance(image, (str, os.PathLike)) else image
            pixels = self.preprocessor.pixels(source)
        inputs: ModelInputs = {
            "image": np.stack([pixels]),
            "image_present": np.array([image is not None], np.int32),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
        }
        return inputs, bool(cut)


def open_model(path: Path, *, threads: int = 1) -> OpenedModel:
    """Open a run's student, a model folder, or an export folder; digests are verified.

    Raises:
        ArtifactError: It is none of these, incomplete, altered, or contradicts itself.
    """
    folder = path
    if is_run := (path / "run.json").is_file():
        read_finished(RunDirectory(path))
        folder = RunDirectory(path).student
    elif not (folder / MANIFEST_NAME).is_file():
        check_model_exists(path)
        raise ArtifactError("is not a run, model or export folder", where=path, fix=MODEL_FOLDERS)
    predictor: Predictor
    text_entry = None
    if not is_run and read_versioned_json(folder / MANIFEST_NAME).get("kind") == KIND:
        export = open_export(folder)
        exported = open_predictor(export.target, export.model_path, threads=threads)
        refuse_contradictions(exported.metadata, folder)
        predictor, text_entry = exported, exported.text_entry
    else:
        predictor = TorchPredictor(folder, threads=threads)
    labels, problem = read_labels(folder)
    return OpenedModel(
        predictor,
        Preprocessor.load(folder),
        labels,
        problem,
        read_temperatures(folder),
        read_operating_point(folder),
        text_entry,
    )


def check_has_data(folder: Path, options: SourceOptions) -> None:
    """Check that a model that is named without a data set is a run, which has one.

    Args:
        folder: The model.
        options: How a data set is read; a run's own is read as for its training.

    Raises:
        ConfigError: It is a model or export folder, or `options` are not the defaults.
    """
    if RunDirectory(folder).run_json.is_file():
        if options != SourceOptions():
            raise ConfigError(
                "a run's own data set is read as for its training",
                where="options",
                fix="Leave out the options of the data set",
            )
    elif (folder / MANIFEST_NAME).is_file():
        raise ConfigError(
            "a model or export folder has no data set of its own",
            where="data",
            fix="Name one (--data SPEC)",
        )


def split_name(split: EvaluationSplit) -> Split:
    """Return the split of the prepared data that holds what was requested; all rows are test's."""
    return "test" if split == "all" else split


def read_for_evaluation(
    model: Path,
    opened: LoadedModel[ViewClassifier] | OpenedModel,
    spec: str | None,
    *,
    options: SourceOptions,
    split: EvaluationSplit,
    hooks: StageHooks,
) -> tuple[PreparedData, str, SourceData]:
    """Read and prepare data of which one split is used; return also its name and its source.

    Args:
        model: The run, model folder or export folder.
        opened: The model in it.
        spec: The data set; None: that of the run, which must not have changed.
        options: How `spec` is read.
        split: What is used; "all" of a file of which the model saw nothing in training.
        hooks: Progress and notes.

    Raises:
        ConfigError: All rows of a data set were requested that has training rows.
        DataError: The data cannot be read, or has other classes than the model.
        ArtifactError: It is not a finished run, where no `spec` is given.
    """
    if spec is None:
        record = read_finished_run(RunDirectory(model))
        spec = record.config.data.spec
        if split == "all":
            raise ConfigError(
                f"all rows of {spec} include the run's training rows",
                fix="Name another --split, or other data (--data SPEC)",
            )
        hooks.on_stage(f"Reading {spec}")
        source = source_of_run(record)
        data = prepare_for_run(record, source, opened.preprocessor, on_count=hooks.on_count)
        return data, spec, source
    hooks.on_stage(f"Reading {spec}")
    source = load_evaluation_source(spec, options=options, split=split, labels=opened.labels)
    data = prepare_for_model(opened, source, spec, options=options, hooks=hooks)
    return data, spec, source


def prepare_for_model(
    model: LoadedModel[ViewClassifier] | OpenedModel,
    source: SourceData,
    spec: str,
    *,
    options: SourceOptions,
    hooks: StageHooks,
) -> PreparedData:
    """Prepare data for a model that was not made from it, in the order of the model's classes.

    Args:
        model: Its preprocessing, classes and problem count.
        source: The data.
        spec: What it is called.
        options: `strict` and `max_pixels` are used.
        hooks: Progress and notes.

    Raises:
        DataError: It cannot be used, or has other classes than the model.
    """
    check_classes(source, model.labels, model.problem, spec)
    data = prepare(
        source,
        model.preprocessor.with_max_pixels(options.max_pixels),
        strict=options.strict,
        on_count=hooks.on_count,
    )
    for note in notes_of(data.info):
        hooks.on_note(note)
    return in_classes_of(data, model.labels)


def source_of_model(
    loaded: LoadedModel[ViewClassifier], spec: str, options: SourceOptions
) -> SourceData:
    """Read all splits of a data set for a model; its rows need no labels.

    Args:
        loaded: The model; for VQA v2 its labels are the classes.
        spec: See `load_source`.
        options: How it is read.

    Raises:
        DataError: It cannot be read.
    """
    if not kind_of_spec(spec) or spec.startswith(PREFIX):
        teacher = DatasetInfo(loaded.labels, loaded.problem)
        return load_source(spec, options=replace(options, teacher=teacher))
    return load_evaluation_source(spec, options=options, split="test", labels=loaded.labels)
