"""A small study end to end, through worker processes: results, resume, refusals."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts.manifest import sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.distillation.methods import METHODS
from msd_deploy.distillation.teacher_cache import TeacherPredictions, read_predictions
from msd_deploy.errors import ArtifactError, ConfigError, MsdError, StoppedError
from msd_deploy.hooks import Hooks, StageHooks
from msd_deploy.models.folders import load_model
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.run.task import Task, read_task
from msd_deploy.study.cells import cell_directory, read_cell
from msd_deploy.study.compare import PAGE_NAME, RESULT_NAME, TABLE_NAME, run_study
from msd_deploy.study.compute import measure_flops, steps_by_method
from msd_deploy.study.config import StudyConfig
from msd_deploy.study.workers import train_cells
from msd_deploy.views import View


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory, write_memes: Callable[..., Path]
) -> StudyConfig:
    """Three methods on 240 generated memes as a FILE.jsonl, so that its test split is small."""
    folder = tmp_path_factory.mktemp("memes")
    base = RunConfig(
        data=DataConfig(spec=str(write_memes(folder, 240))),
        teacher=TeacherConfig(epochs=1),
        distill=DistillConfig(epochs=1),
    )
    return StudyConfig(base, methods=("none", "kd", "msd-meta"), seeds=1, jobs=1)


@pytest.fixture(scope="module")
def finished_study(
    study: StudyConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("studies") / "memes"
    return out, run_study(study, out, facts={"command": "msd compare", "host": "a machine"})


@pytest.fixture
def own_study(finished_study: tuple[Path, dict[str, object]], tmp_path: Path) -> Path:
    """A copy of the finished study, to write into."""
    return Path(shutil.copytree(finished_study[0], tmp_path / "own"))


def test_the_result_states_every_method_view_and_pair(
    finished_study: tuple[Path, dict[str, object]],
) -> None:
    out, result = finished_study
    assert json.loads((out / RESULT_NAME).read_text()) == json.loads(json.dumps(result))
    methods, paired = result["methods"], result["paired"]
    assert isinstance(methods, dict)
    assert isinstance(paired, dict)
    assert list(methods) == ["none", "kd", "msd-meta"]
    assert all(set(views) == {"multimodal", "image", "text"} for views in methods.values())
    assert list(paired) == ["kd - none", "msd-meta - none", "msd-meta - kd"]
    assert result["changed_settings"] == {"teacher.epochs": 1, "distill.epochs": 1}
    assert result["steps"] == {"none": 3, "kd": 3, "msd-meta": 3}


def test_the_figures_are_those_of_the_kept_students(
    finished_study: tuple[Path, dict[str, object]],
) -> None:
    out, result = finished_study
    cell = cell_directory(out, "kd", 1)
    metrics, logits = read_cell(cell)
    data = data_of_run(read_run(RunDirectory(out)), load_model(cell.student).preprocessor)
    right = logits[View.IMAGE].argmax(axis=1) == data.splits["test"].labels
    stated = result["methods"]["kd"]["image"]["per_seed"]["1"]  # type: ignore[index]
    assert stated == pytest.approx(right.mean(), abs=1e-6)
    assert metrics["test"]["image"]["value"] == pytest.approx(right.mean(), abs=1e-6)  # type: ignore[index]


def test_the_table_is_markdown_with_a_row_a_method(
    finished_study: tuple[Path, dict[str, object]],
) -> None:
    table = (finished_study[0] / TABLE_NAME).read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows[:5]}) == 1
    assert "| msd-meta | " in table
    assert "command: `msd compare`" in table
    assert "host: a machine" in table


def test_the_page_shows_the_same_study(finished_study: tuple[Path, dict[str, object]]) -> None:
    out, result = finished_study
    page = (out / PAGE_NAME).read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    for view in ("multimodal", "image", "text"):
        mean = result["methods"]["msd-meta"][view]["mean"]  # type: ignore[index]
        assert f"<td>{100 * mean:.1f}</td>" in page
    assert "Fewer than three seeds" in page


def test_a_study_goes_on_with_more_methods_and_keeps_its_students(
    study: StudyConfig, finished_study: tuple[Path, dict[str, object]], own_study: Path
) -> None:
    out, before = own_study, finished_study[1]
    weights = cell_directory(out, "kd", 1).student / "model.safetensors"
    digest, written = sha256_of_file(weights), weights.stat().st_mtime_ns
    counted: list[tuple[int, int]] = []
    hooks = StageHooks(
        on_count=lambda what, done, total: (
            counted.append((done, total)) if what == "students" else None
        )
    )
    more = replace(study, methods=("none", "kd", "kd-dropout", "msd-meta"))
    result = run_study(more, out, hooks=hooks)
    assert counted == [(3, 4), (4, 4)]
    assert (sha256_of_file(weights), weights.stat().st_mtime_ns) == (digest, written)
    assert result["methods"]["kd"] == before["methods"]["kd"]  # type: ignore[index]
    fewer = run_study(replace(study, methods=("kd",)), out)
    assert set(fewer["methods"]) == set(more.methods)  # type: ignore[arg-type]


def test_students_of_one_seed_start_from_the_same_weights(
    study: StudyConfig, finished_study: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    """And so does the same cell, trained anew: to the same bits, where a start was killed.

    Its record is that of a version without adaptation and early stopping.
    """
    out, _ = finished_study
    again = tmp_path / "again"
    again.mkdir()
    record = json.loads((out / "study.json").read_text())
    for section, key in (("teacher", "adapt_epochs"), ("distill", "patience"), ("distill", "keep")):
        del record["base"][section][key]
    (again / "study.json").write_text(json.dumps(record))
    run_study(replace(study, methods=("kd",)), again)
    digests = {
        sha256_of_file(cell_directory(folder, "kd", 1).student / "model.safetensors")
        for folder in (out, again)
    }
    assert len(digests) == 1


def test_a_stopped_study_names_how_to_continue(study: StudyConfig, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="Run the same command again"):
        run_study(study, tmp_path / "study", training=Hooks(should_stop=lambda: True))
    assert not (tmp_path / "study" / RESULT_NAME).exists()


def test_a_study_prints_the_notes_on_its_data_once(
    write_memes: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_memes(tmp_path, 40)
    data.write_text(
        data.read_text() + '{"text": "of an image that is gone", "image": "gone.png"}\n'
    )
    base = RunConfig(data=DataConfig(spec=str(data), image_size=16))
    notes: list[str] = []
    with pytest.raises(StoppedError):
        run_study(
            StudyConfig(base),
            tmp_path / "study",
            hooks=StageHooks(on_note=notes.append),
            training=Hooks(should_stop=lambda: True),
        )
    assert notes.count("1 row was skipped:") == 1
    assert sum("gone.png" in note for note in notes) == 1


def test_a_studys_damaged_predictions_are_rebuilt_by_msd_compare(
    study: StudyConfig, finished_study: tuple[Path, dict[str, object]], own_study: Path
) -> None:
    out = own_study
    damaged = out / "teacher_predictions" / "test.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="run the same `msd compare` again") as caught:
        run_study(study, out)
    assert "msd distill" not in str(caught.value)
    shutil.rmtree(damaged.parent)
    mended, before = run_study(study, out)["methods"], finished_study[1]["methods"]
    assert mended["kd"] == before["kd"]  # type: ignore[index]


def test_another_study_is_not_written_over(
    study: StudyConfig, finished_study: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    out, _ = finished_study
    with pytest.raises(
        ArtifactError, match=r"other settings \(budget: 'steps' then, 'compute' now\)"
    ):
        run_study(replace(study, budget="compute"), out)
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ArtifactError, match="already exists and is not a study"):
        run_study(study, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_a_mistake_leaves_no_study_and_overwrites_none(
    study: StudyConfig, own_study: Path, tmp_path: Path
) -> None:
    out = own_study
    typo = replace(study, base=replace(study.base, data=DataConfig(spec="typo.jsonl")))
    with pytest.raises(MsdError, match=r"typo\.jsonl"):
        run_study(typo, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(MsdError, match=r"typo\.jsonl"):
        run_study(typo, out, overwrite=True)
    own = replace(study.base, teacher=TeacherConfig(path=out / "teacher"))
    with pytest.raises(ArtifactError, match=r"lies in the study of .* that would be overwritten"):
        run_study(replace(study, base=own), out, overwrite=True)
    with pytest.raises(ArtifactError, match="is not a run of `msd distill`"):
        run_distillation(study.base, RunDirectory(out), overwrite=True)
    assert (out / RESULT_NAME).is_file()


def test_a_distance_that_means_nothing_is_refused_before_any_training(
    study: StudyConfig, tmp_path: Path
) -> None:
    dkd = replace(study.base, distill=replace(study.base.distill, loss="dkd"))
    with pytest.raises(ConfigError, match="Use kl or mse"):
        run_study(replace(study, base=dkd), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def flops_of(
    study: StudyConfig, task: Task, predictions: TeacherPredictions, **settings: object
) -> float:
    """Return the operations a step of msd-fixed with other settings."""
    changed = replace(study.base, distill=replace(study.base.distill, **settings))
    only = replace(study, base=changed, methods=("msd-fixed",))
    return measure_flops(only, task, predictions)[1]


def test_equal_compute_gives_cheaper_methods_more_steps(
    study: StudyConfig, finished_study: tuple[Path, dict[str, object]]
) -> None:
    out, _ = finished_study
    task, _ = read_task(study.base, RunDirectory(out), StageHooks(), Hooks())
    predictions = read_predictions(RunDirectory(out).teacher_predictions)
    methods = ("kd", "kd-dropout", "msd-fixed", "msd-meta")
    compute = replace(study, budget="compute", methods=methods)
    flops, reference = measure_flops(compute, task, predictions)
    assert flops["msd-fixed"] == reference
    assert flops["kd-dropout"] < flops["kd"] < flops["msd-fixed"] < flops["msd-meta"]
    whole = flops_of(study, task, predictions, single_view_examples=1.0, single_view_steps=1.0)
    late = flops_of(study, task, predictions, single_view_examples=1.0, single_view_steps=0.25)
    early = 0.25 + 0.75 * 0.25  # single_view_rest
    assert late == pytest.approx(early * whole + (1 - early) * flops["kd"])
    half = flops_of(study, task, predictions, single_view_examples=0.5, single_view_steps=1.0)
    early = 0.67 + 0.33 * 0.25
    assert flops["msd-fixed"] == pytest.approx(early * half + (1 - early) * flops["kd"])
    assert half - flops["kd"] == pytest.approx((whole - flops["kd"]) / 2, rel=0.3)
    rarely = replace(study.base, distill=replace(study.base.distill, meta_every=100))
    of_updates = flops["msd-meta"] - whole
    (rare,) = measure_flops(
        replace(compute, base=rarely, methods=("msd-meta",)), task, predictions
    )[0].values()
    # The weights' network costs a little in every step, an update in every 4th or 100th.
    assert 0 < rare - whole < 0.1 * of_updates
    steps = steps_by_method(compute, flops, reference, 1000)
    assert steps["msd-fixed"] == 1000
    for method in compute.methods:
        assert steps[method] * flops[method] == pytest.approx(1000 * reference, rel=1e-3)
    assert steps_by_method(
        replace(study, budget="converged"), flops, reference, 10
    ) == dict.fromkeys(study.methods, 40)


def test_the_image_is_encoded_once_for_all_views(
    study: StudyConfig,
    finished_study: tuple[Path, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from msd_deploy.data.batch import collate
    from msd_deploy.distillation.steps import MultiViewModel

    loaded = load_model(cell_directory(finished_study[0], "kd", 1).student)
    data = data_of_run(read_run(RunDirectory(finished_study[0])), loaded.preprocessor)
    calls: list[int] = []
    encode = loaded.model.vision.forward
    monkeypatch.setattr(
        loaded.model.vision,
        "forward",
        lambda pixels: (calls.append(len(pixels)), encode(pixels))[1],
    )
    MultiViewModel(loaded.model)(collate(data.splits["train"], np.arange(8)), tuple(View))
    assert calls == [8]


def test_a_worker_that_fails_stops_the_study_with_its_error(
    study: StudyConfig, own_study: Path
) -> None:
    bad = replace(study.base, data=replace(study.base.data, spec="gone.jsonl"))
    with pytest.raises(MsdError, match=r"gone\.jsonl"):
        train_cells(
            replace(study, base=bad),
            own_study,
            [("kd", 9)],
            {"kd": 1},
            on_done=lambda cell, done: None,
            should_stop=lambda: False,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("kd", "magic")}, r"unknown method 'magic'.*msd-meta"),
        ({"methods": ("kd", "kd")}, "each method once"),
        ({"methods": ()}, "at least one"),
        ({"seeds": 0}, "seeds"),
        (
            {"base": RunConfig(distill=DistillConfig(image_weight=0.0))},
            "above 0 for each view",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StudyConfig(**changes)  # type: ignore[arg-type]


def test_every_method_is_a_configuration_of_its_own() -> None:
    study = StudyConfig()
    configs = [study.of_cell(method, 1).distill for method in METHODS]
    assert len(set(configs)) == len(METHODS)


def test_a_study_trains_everything_to_the_end() -> None:
    study = StudyConfig(RunConfig(distill=DistillConfig(keep="best", patience=2))).to_the_end()
    assert (study.base.distill.keep, study.base.distill.patience) == ("last", None)
    for budget, keep in (("steps", "last"), ("compute", "last"), ("converged", "best")):
        distill = replace(study, budget=budget).of_cell("msd-fixed", 1).distill  # type: ignore[arg-type]
        assert (distill.keep, distill.patience) == (keep, None)


def test_a_study_states_the_settings_that_its_methods_share() -> None:
    assert StudyConfig().changed_settings() == {}
    distill = DistillConfig(temperature=4.0, weighting="population", keep="best", patience=2)
    base = RunConfig(data=DataConfig(labelled_share=0.05), distill=distill, seed=5)
    assert StudyConfig(base, dropout=0.5).changed_settings() == {
        "data.labelled_share": 0.05,
        "distill.temperature": 4.0,
        "dropout": 0.5,
    }
