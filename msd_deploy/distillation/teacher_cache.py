"""Cache of the teacher's logits of every example and view, computed once and memory-mapped.

On disk: one safetensors per split, "logits" float32 [examples, views, classes], and a manifest with
the cache's key, the digests of teacher, data and preprocessing. For feature losses,
features.safetensors holds the multimodal features of the training split, float32 [examples,
hidden]. For augmented images, train-form-N.safetensors holds the logits of their N-th form, from 1.
Where a specialist gives the logits of a view, SPLIT-teacher.safetensors holds the teacher's own
logits of validation and test.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from msd_deploy import process_group
from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import MANIFEST_NAME, read_json, read_manifest, write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.augment import AugmentConfig
from msd_deploy.data.augment.batches import ImageAugmentation, digest_of_forms
from msd_deploy.data.batch import Batch
from msd_deploy.data.prepared import PreparedData
from msd_deploy.errors import ArtifactError
from msd_deploy.metrics import LogitArray, LogitsByView
from msd_deploy.models.predict import predict_features, predict_views
from msd_deploy.models.teachers import Teacher
from msd_deploy.views import View

_LOGITS, _FEATURES = "logits", "features"
_FEATURES_NAME = "features.safetensors"
_VIEWS = tuple(View)


@dataclass(frozen=True, slots=True)
class Specialist:
    """A teacher of one view, whose logits replace those of the teacher there.

    Attributes:
        view: View.IMAGE or View.TEXT.
        teacher: The model.
        data: The data, prepared for it; the same examples as the teacher's.
    """

    view: View
    teacher: Teacher
    data: PreparedData

    @property
    def key(self) -> str:
        """Key in files."""
        return f"{self.view}_teacher"

    def has_modality(self, split: str) -> NDArray[np.bool_]:
        """Return which examples of a split have its modality, bool [examples]."""
        rows = self.data.splits[split]
        return rows.has_image() if self.view is View.IMAGE else rows.has_text()

    def replace_in(
        self, logits: LogitsByView, split: str, transform: Callable[[Batch], Batch]
    ) -> LogitsByView:
        """Return logits with its own in its view, in the rows that have its modality.

        Where all rows have it, `logits` need not have the view.
        """
        rows, present = self.data.splits[split], self.has_modality(split)
        own = predict_views(self.teacher.model, rows, views=(self.view,), transform=transform)
        ordered = own[self.view][:, self.teacher.class_order]
        others = logits.get(self.view, ordered)
        return {**logits, self.view: np.where(present[:, None], ordered, others)}


@dataclass(frozen=True, slots=True)
class TeacherPredictions:
    """A teacher's logits, and optionally its features.

    Attributes:
        logits: Per split, float32 [examples, views, classes]; views in the order of `View`. A view
            that has a specialist is the specialist's.
        features: Multimodal features of the training split, float32 [examples, hidden], or None.
    """

    logits: Mapping[str, Tensor]
    features: Tensor | None = None

    def of_rows(self, split: str, rows: Tensor, form: int = 0) -> dict[View, Tensor]:
        """Return the logits [batch, classes] of each view for some rows; `form`: see `Batch`."""
        name = _name_of_form(split, form) if form else split
        selected = self.logits[name][rows.cpu()].to(rows.device)
        return {view: selected[:, index] for index, view in enumerate(_VIEWS)}

    def features_of_rows(self, rows: Tensor) -> Tensor:
        """Return the features [batch, hidden] of some training rows."""
        assert self.features is not None  # cached whenever a feature loss is configured
        return self.features[rows.cpu()].to(rows.device)

    def of_view(self, split: str, view: View) -> LogitArray:
        """Return the logits [examples, classes] of a split in one view."""
        return self.logits[split][:, _VIEWS.index(view)].numpy()

    def by_view(self, split: str) -> LogitsByView:
        """Return the logits of a split in every view."""
        return {view: self.of_view(split, view) for view in _VIEWS}

    def of_teacher(self, split: str) -> LogitsByView:
        """Return the teacher's own logits of validation or test, also of a specialist's view."""
        own = _name_of_own(split)
        return self.by_view(own if own in self.logits else split)


def cache_predictions(
    teacher: Teacher,
    data: PreparedData,
    folder: Path,
    *,
    specialists: Sequence[Specialist] = (),
    with_features: bool = False,
    augment: AugmentConfig | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> TeacherPredictions:
    """Return the teacher's predictions, computed unless they are cached under the same key.

    Several processes share the batches; the main one writes the same bits as a single process.

    Args:
        teacher: The teacher.
        data: Prepared by the teacher's own preprocessor.
        folder: The cache folder.
        specialists: Teachers of single views, which replace the teacher there.
        with_features: Whether to cache the features of the training split too.
        augment: The student's image augmentation; the logits of its views_per_picture forms of the
            training split are cached too.
        on_batch: Called with the examples done and their total over all splits.

    Raises:
        ArtifactError: See `read_predictions`.
    """
    key = {
        "teacher": teacher.digest,
        "data": data.digest,
        "preprocess": teacher.preprocessor.digest(),
    }
    key |= {one.key: one.teacher.digest for one in specialists}
    if with_features:
        key["features"] = "multimodal"
    forms = augment if augment and augment.views_per_picture else None
    if forms is not None:
        key["forms"] = digest_of_forms(forms)
    with _with_rebuild_instruction(folder):
        is_cached = _is_cached(folder, key)
    if not process_group.broadcast_from_main(is_cached):
        with new_folder(folder) if process_group.is_main() else nullcontext() as building:
            _compute(teacher, data, specialists, building, on_batch, forms)
            if with_features:
                features = predict_features(teacher.model, data.splits["train"])
                _save(building, _FEATURES_NAME, {_FEATURES: features})
            if building is not None:
                facts = {"key": key, "views": list(_VIEWS)}
                write_manifest(building, "teacher_predictions", facts)
        process_group.barrier()
    return read_predictions(folder)


def read_predictions(folder: Path) -> TeacherPredictions:
    """Read cached predictions, memory-mapped.

    Args:
        folder: A run's `teacher_predictions`.

    Raises:
        ArtifactError: The folder is incomplete or altered; names the command that rebuilds it.
    """
    with _with_rebuild_instruction(folder):
        manifest = read_manifest(folder, "teacher_predictions")
    files = manifest["files"]
    assert isinstance(files, dict)  # read_manifest verified it
    logits = {
        Path(name).stem: _mapped(folder / name, _LOGITS) for name in files if name != _FEATURES_NAME
    }
    has_features = _FEATURES_NAME in files
    return TeacherPredictions(
        logits, _mapped(folder / _FEATURES_NAME, _FEATURES) if has_features else None
    )


def _mapped(path: Path, name: str) -> Tensor:
    """Open a tensor of a file, memory-mapped."""
    with safe_open(path, framework="pt") as tensors:
        tensor = tensors.get_tensor(name)
    assert isinstance(tensor, Tensor)
    return tensor


def _is_cached(folder: Path, key: Mapping[str, str]) -> bool:
    manifest = folder / MANIFEST_NAME
    return manifest.is_file() and read_json(manifest).get("key") == key


@contextmanager
def _with_rebuild_instruction(folder: Path) -> Iterator[None]:
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(
            error.what, where=error.where, fix=rebuild_instruction(folder)
        ) from error


def rebuild_instruction(folder: Path) -> str:
    """Return how to rebuild unusable predictions in a run's or a study's folder."""
    command = f"run `msd distill --resume --out {folder.parent}` to rebuild it"
    if RunDirectory(folder.parent).study_json.is_file():
        command = "run the same `msd compare` again"
    return f"Remove the folder {folder} and {command}"


def _compute(
    teacher: Teacher,
    data: PreparedData,
    specialists: Sequence[Specialist],
    folder: Path | None,
    on_batch: Callable[[int, int], None],
    forms: AugmentConfig | None,
) -> None:
    inputs: list[tuple[str, str, Callable[[Batch], Batch]]] = [
        (name, name, lambda batch: batch) for name in data.splits
    ]
    if forms is not None:
        augmentation = ImageAugmentation(forms, data.splits["train"])
        for form in range(1, forms.views_per_picture + 1):
            inputs.append((_name_of_form("train", form), "train", partial(augmentation, form=form)))
    total, before = sum(len(data.splits[split_name]) for _, split_name, _ in inputs), 0
    for name, split_name, transform in inputs:
        split, is_scored = data.splits[split_name], name in ("validation", "test")
        given = {one.view for one in specialists if one.has_modality(split_name).all()}
        views = [view for view in View if is_scored or view not in given]
        on_split = partial(_report_split, on_batch, before, total)
        predicted = predict_views(
            teacher.model, split, views=views, on_batch=on_split, transform=transform
        )
        own = {view: logits[:, teacher.class_order] for view, logits in predicted.items()}
        by_view = own
        for specialist in specialists:
            by_view = specialist.replace_in(by_view, split_name, transform)
        _save(folder, f"{name}.safetensors", {_LOGITS: _stacked(by_view)})
        if specialists and is_scored:
            _save(folder, f"{_name_of_own(name)}.safetensors", {_LOGITS: _stacked(own)})
        before += len(split)


def _stacked(logits: LogitsByView) -> LogitArray:
    return np.ascontiguousarray(np.stack([logits[view] for view in _VIEWS], axis=1))


def _name_of_own(split: str) -> str:
    return f"{split}-teacher"


def _name_of_form(split: str, form: int) -> str:
    return f"{split}-form-{form}"


def _save(folder: Path | None, name: str, arrays: Mapping[str, LogitArray]) -> None:
    """Write arrays into a folder, which only the main process has."""
    if folder is not None:
        save_file(dict(arrays), folder / name)


def _report_split(
    on_batch: Callable[[int, int], None], before: int, total: int, done: int, of_split: int
) -> None:
    on_batch(before + done, total)
