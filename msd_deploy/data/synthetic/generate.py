"""Generated tasks whose dependence on each modality is known: memes, posters, entailment, listings.

The same seed gives the same bytes on every machine; a smaller training split is the beginning of a
larger one; validation and test have seeds of their own and are the same for every training size.
The tasks are defined in `tasks` and `listings`, their images drawn by `drawing`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import datasets
import numpy as np

from msd_deploy.data.source import (
    SPLITS,
    DatasetInfo,
    SourceData,
    SourceOptions,
    SourceRow,
    Split,
    build_split,
)
from msd_deploy.data.synthetic.drawing import encode_png, render
from msd_deploy.data.synthetic.listings import LISTINGS_LABELS, draw_listings
from msd_deploy.data.synthetic.tasks import (
    ENTAILMENT_LABELS,
    MEMES_LABELS,
    POSTERS_LABELS,
    Draw,
    draw_entailment,
    draw_memes,
    draw_posters,
    flip_labels,
)
from msd_deploy.problem import Problem
from msd_deploy.views import View

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Task:
    """A generated task.

    Attributes:
        labels: Class names.
        problem: single_label or multi_label.
        sizes: Default rows of train, validation and test.
        draw: From a generator and a number of examples to these examples.
        best_score: The score (accuracy or micro F1) that no model can exceed in expectation, from
            the cues of each view: the most probable class, or every class with P > 1/2.
    """

    labels: tuple[str, ...]
    problem: Problem
    sizes: Mapping[Split, int]
    draw: Callable[[np.random.Generator, int], Draw]
    best_score: Mapping[View, float]


def load_synthetic(name: str, options: SourceOptions) -> SourceData:
    """Generate a task.

    Args:
        name: One of TASK_NAMES.
        options: `seed`, `examples` (training rows) and `label_noise` are used. Each training label
            is flipped with probability label_noise: to another class, or 0 to 1 and 1 to 0 for each
            class of a multi-label task. Validation and test keep their labels.

    Raises:
        DataError: A large split cannot be written to the cache folder.
    """
    task = _TASKS[name]
    sizes = {**task.sizes, "train": options.examples or task.sizes["train"]}
    dataset = {
        split: build_split(
            _rows(name, split, sizes[split], options), labels=task.labels, problem=task.problem
        )
        for split in SPLITS
    }
    info = DatasetInfo(task.labels, task.problem, notes=_notes(name, sizes))
    return SourceData(datasets.DatasetDict(dataset), info)


def _notes(name: str, sizes: Mapping[Split, int]) -> tuple[str, ...]:
    task = _TASKS[name]
    metric = "accuracy" if task.problem == "single_label" else "micro F1"
    rows = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
    best = ", ".join(f"{view} {100 * score:.1f}" for view, score in task.best_score.items())
    return (f"generated rows: {rows}", f"best possible {metric} by construction: {best} %")


def _rows(name: str, split: Split, size: int, options: SourceOptions) -> Iterator[SourceRow]:
    task, noise = _TASKS[name], options.label_noise if split == "train" else 0.0
    for first in range(0, size, _CHUNK):
        entropy = [options.seed, first // _CHUNK]
        rng = np.random.default_rng([*entropy, *f"{name}/{split}".encode()])
        draw = task.draw(rng, _CHUNK)
        pngs = [encode_png(pixels) for pixels in render(draw.objects, rng)]
        flips = np.random.default_rng([*entropy, *f"{name}/label noise".encode()])
        labels = flip_labels(draw.labels, noise, len(task.labels), flips)
        for at in range(min(_CHUNK, size - first)):
            png = pngs[draw.image_index[at]]
            classes = np.flatnonzero(labels[at]) if labels.ndim == 2 else labels[at : at + 1]
            yield SourceRow(
                image_path="",
                image_bytes=png,
                image_sha256=hashlib.sha256(png).hexdigest(),
                text=draw.texts[at],
                labels=tuple(classes.tolist()),
                origin=f"synthetic:{name}/{split}:{first + at}",
            )


_SMALL: Mapping[Split, int] = {"train": 6_000, "validation": 500, "test": 2_000}
_LARGE: Mapping[Split, int] = {**_SMALL, "train": 10_000}
_TASKS: Mapping[str, Task] = {
    "memes": Task(
        MEMES_LABELS,
        "single_label",
        _SMALL,
        draw_memes,
        {View.MULTIMODAL: 0.950, View.IMAGE: 0.743, View.TEXT: 0.752},
    ),
    "posters": Task(
        POSTERS_LABELS,
        "multi_label",
        _LARGE,
        draw_posters,
        {View.MULTIMODAL: 0.923, View.IMAGE: 0.648, View.TEXT: 0.648},
    ),
    "entailment": Task(
        ENTAILMENT_LABELS,
        "single_label",
        {**_SMALL, "train": 16_000},
        draw_entailment,
        {View.MULTIMODAL: 0.950, View.IMAGE: 0.559, View.TEXT: 0.537},
    ),
    "listings": Task(
        LISTINGS_LABELS,
        "single_label",
        _SMALL,
        draw_listings,
        {View.MULTIMODAL: 0.950, View.IMAGE: 0.569, View.TEXT: 0.781},
    ),
}
TASK_NAMES = tuple(_TASKS)
