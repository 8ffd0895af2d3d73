"""Changed settings in a report, and notes on the limits of its figures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.describe import changed_settings
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, StudentConfig, TeacherConfig
from msd_deploy.distillation.methods import method_name
from msd_deploy.report.notes import (
    difference_notes,
    shared_image_notes,
    training_notes,
    validation_notes,
)
from msd_deploy.report.page import method_text
from msd_deploy.report.predictions import Decisions, StudentOutputs
from msd_deploy.report.schema import StudentJson
from msd_deploy.temperatures import UNCALIBRATED

DEFAULT = RunConfig()
TO_THE_END = DistillConfig(keep="last", patience=0)


def _words(config: RunConfig) -> str:
    """Return the page's sentence on a run."""
    distill = config.distill
    student = {
        "method": method_name(distill),
        "alpha": distill.alpha,
        "temperature": distill.temperature,
        "loss": distill.loss,
        "settings": changed_settings(config),
    }
    return method_text(cast(StudentJson, student))


NOTHING = Decisions(None, {}, {})


def _student(name: str, config: RunConfig) -> StudentOutputs:
    return StudentOutputs(name, RunDirectory(Path(name)), config, {}, {}, UNCALIBRATED, {}, NOTHING)


def test_default_settings_are_not_listed() -> None:
    assert changed_settings(DEFAULT) == {}
    assert "Changed settings" not in _words(DEFAULT)


def test_changed_settings_are_listed_by_key() -> None:
    config = RunConfig(
        DataConfig(labelled_share=0.1, spec="easy-vqa"),
        student=StudentConfig(size="small"),
        distill=DistillConfig(hint_weight=5.0, keep="best", log_every=1, alpha=0.2),
        augment=AugmentConfig(preset="light", flip=0.5),
        seed=3,
    )
    assert changed_settings(config) == {
        "data.labelled_share": 0.1,
        "student.size": "small",
        "distill.alpha": 0.2,
        "distill.hint_weight": 5.0,
        "distill.keep": "best",
        "augment.preset": "light",
        "augment.flip": 0.5,
        "seed": 3,
    }
    assert _words(config).endswith(
        'Changed settings: data.labelled_share = 0.1, student.size = "small",'
        ' distill.hint_weight = 5.0, distill.keep = "best",'
        ' augment.preset = "light", augment.flip = 0.5, seed = 3.'
    )


def test_models_are_listed_by_the_names_of_their_folders(tmp_path: Path) -> None:
    config = replace(
        DEFAULT,
        teacher=TeacherConfig(path=tmp_path / "clip", adapt_epochs=4),
        student=StudentConfig(vision=str(tmp_path / "encoder"), start=tmp_path / "student"),
    )
    expected = {
        "teacher.path": "clip",
        "teacher.adapt_epochs": 4,
        "student.vision": "encoder",
        "student.start": "student",
    }
    assert changed_settings(config) == expected
    assert json.loads(json.dumps(changed_settings(config))) == expected
    hub = replace(DEFAULT, student=StudentConfig(vision="timm/some-encoder"))
    assert changed_settings(hub) == {"student.vision": "timm/some-encoder"}


@pytest.mark.parametrize("key", ["hint_weight", "relation_weight"])
def test_distillation_of_features_is_not_called_plain(key: str) -> None:
    plain = replace(DEFAULT, distill=DistillConfig(method="kd"))
    assert "plain knowledge distillation" in _words(plain)
    words = _words(replace(DEFAULT, distill=replace(plain.distill, **{key: 2.0})))
    assert "plain" not in words
    assert "from the teacher's features" in words
    assert f"distill.{key} = 2.0" in words


def test_runs_of_other_labels_sizes_or_seeds_are_noted() -> None:
    other = RunConfig(DataConfig(labelled_share=0.1), student=StudentConfig(size="small"), seed=1)
    notes = difference_notes([_student("a", DEFAULT), _student("b", other)])
    assert [note.partition(": ")[2].partition(". ")[0] for note in notes] == [
        "1.0 (a), 0.1 (b)",
        '"tiny" (a), "small" (b)',
        "0 (a), 1 (b)",
    ]
    method = replace(DEFAULT, distill=DistillConfig(method="kd"))
    assert difference_notes([_student("a", DEFAULT), _student("b", method)]) == []


@pytest.mark.parametrize(
    ("distill", "words"),
    [
        (replace(TO_THE_END, weighting="meta"), "to learn the views' weights"),
        (replace(TO_THE_END, keep="best"), "to choose the epoch"),
        (replace(TO_THE_END, patience=2), "to choose the epoch"),
        (DistillConfig(), "to choose the epoch"),
        (
            replace(TO_THE_END, weighting="meta", keep="best"),
            "to learn the views' weights and to choose the epoch",
        ),
    ],
)
def test_a_training_that_used_the_validation_split_is_noted(
    distill: DistillConfig, words: str
) -> None:
    plain = replace(DEFAULT, distill=TO_THE_END)
    students = [_student("plain", plain), _student("seen", replace(DEFAULT, distill=distill))]
    assert validation_notes(students) == [
        f"The training of seen used the validation split: {words}."
        " Its figures on validation are therefore too optimistic."
    ]


def test_weights_learned_on_training_rows_need_no_note_on_validation() -> None:
    own = replace(TO_THE_END, weighting="meta", meta_rows="train")
    assert validation_notes([_student("own", replace(DEFAULT, distill=own))]) == []


def test_trainings_that_ended_early_are_noted() -> None:
    models = {
        "teacher": {"training": {"teacher": _ended(7, 9, 7)}},
        "student": {"training": {"student": _ended(9, 9, 6), "int8": _ended(3, 3, 3)}},
    }
    given = {"teacher": {}, "student": {"training": {"student": _ended(9, 9, 9)}}}
    students = [
        StudentOutputs(
            name, RunDirectory(Path(name)), DEFAULT, metrics, {}, UNCALIBRATED, {}, NOTHING
        )
        for name, metrics in (("a", models), ("b", given))
    ]
    assert training_notes(students) == [
        "The teacher: training ended after 7 of 9 epochs, as the validation metric no longer rose.",
        "The student of a: epoch 6 of 9 is kept by the validation metric.",
    ]
    assert training_notes(students[1:]) == []


def _ended(epochs: int, planned: int, kept: int) -> dict[str, int]:
    return {"epochs": epochs, "planned_epochs": planned, "kept_epoch": kept}


def test_examples_that_share_images_are_noted_to_be_dependent() -> None:
    notes = shared_image_notes(np.array([0, 0, 1, 1, 2, -1, -1], np.int64))
    assert len(notes) == 1
    assert "5 examples share 3 images" in notes[0]
    assert "too narrow" in notes[0]
    assert shared_image_notes(np.array([2, 0, 1, -1, -1], np.int64)) == []
