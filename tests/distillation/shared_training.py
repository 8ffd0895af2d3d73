"""What test_many_processes runs in one process and in two: `accelerate launch THIS FOLDER OTHER`.

A model without BatchNorm and without dropout, so that what remains between one process and two is
the order in which float32 numbers are added. Writes FOLDER/rank-N.json: each case's loss per step,
its validation metric, and the digest of its final model.
"""

import json
import sys
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ViTConfig

from msd_deploy import process_group
from msd_deploy.config.distill import DistillConfig
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.source import DatasetInfo
from msd_deploy.distillation.history import History
from msd_deploy.distillation.objectives import LabelObjective
from msd_deploy.distillation.plan import TrainingPlan
from msd_deploy.distillation.quantization_aware import fake_quantized
from msd_deploy.distillation.student_objective import build_student_objective
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.distillation.trainer import TrainingJob, train
from msd_deploy.errors import StoppedError
from msd_deploy.hooks import Hooks, StepReport
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.predict import predict_views
from msd_deploy.problem import NO_LABEL

SIDE, CLASSES, STOP = 16, 3, 4
STUDENTS: dict[str, dict[str, Any]] = {
    "kd": {"method": "kd"},
    "fixed": {},
    "int8": {},
    "meta": {"weighting": "meta", "meta_every": 1, "meta_batch_size": 8},
    "meta-exact": {
        "weighting": "meta",
        "meta_every": 2,
        "meta_batch_size": 8,
        "meta_gradient": "exact",
    },
}


def make_split(rows: int, seed: int) -> PreparedSplit:
    """Random rows, up to four per image, some without an image, a tenth without a label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    if seed == 0:
        labels[rng.random(rows) < 0.1] = NO_LABEL
    mask = np.arange(6)[None, :] < rng.integers(2, 7, rows)[:, None]
    input_ids = rng.integers(3, 40, (rows, 6), dtype=np.int32)
    input_ids[:, 0] = 2  # every text starts alike, as [CLS] is what the image view has of it
    return PreparedSplit(
        pixels=rng.integers(0, 256, (rows, SIDE, SIDE, 3), dtype=np.uint8),
        image_index=np.where(rng.random(rows) < 0.1, -1, rng.integers(0, rows // 2, rows)),
        input_ids=input_ids,
        attention_mask=mask.astype(np.int32),
        labels=labels,
        source_rows=np.arange(rows),
    )


DATA = PreparedData(
    splits={"train": make_split(61, 0), "validation": make_split(30, 1)},
    info=DatasetInfo(("a", "b", "c"), "single_label"),
    digest="",
)


def make_model(*, has_batch_norm: bool = False) -> FusionForClassification:
    """A seeded model, with a ViT encoder or with a stem that has BatchNorm."""
    torch.manual_seed(0)
    vit = ViTConfig(
        image_size=SIDE,
        patch_size=8,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    vision = {"kind": "transformers", "config": vit.to_dict()}
    model = FusionForClassification(
        FusionConfig(
            vision={"kind": "conv_stem", "channels": [4, 8]} if has_batch_norm else vision,
            image_size=(SIDE, SIDE),
            vocab_size=40,
            max_text_length=6,
            hidden_size=16,
            num_hidden_layers=2,
            intermediate_size=32,
            num_labels=CLASSES,
        )
    )
    if not has_batch_norm:  # the fused attention has no second derivative
        model.vision.backbone.set_attn_implementation("eager")  # type: ignore[union-attr,operator]
    return model


def make_plan(parts: int = 1) -> TrainingPlan:
    return TrainingPlan(
        phase="student",
        epochs=2,
        batch_size=12,
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup_share=0.1,
        seed=0,
        log_every=1,
        checkpoint_seconds=1e9,
        key="key",
        parts=parts,
    )


def predictions() -> TeacherPredictions:
    rng = np.random.default_rng(5)
    shape = (len(DATA.splits["train"]), 3, CLASSES)
    return TeacherPredictions({"train": torch.from_numpy(rng.normal(size=shape).astype("f4"))})


def run(name: str, folder: Path, stop_at: int | None = None) -> dict[str, Any]:
    """Train a case, from the folder's checkpoint if it has one; return what is compared."""
    folder.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []

    def on_step(report: StepReport) -> None:
        losses.append(sum(report.terms.values()))

    def should_stop() -> bool:
        # One process asks, all must stop.
        return len(losses) == stop_at and process_group.rank() == process_group.world_size() - 1

    model = make_model(has_batch_norm=name == "batch-norm")
    if name in ("labels", "batch-norm"):
        objective: Any = LabelObjective(0.5)
        used = DATA.splits["train"].has_label()
    else:
        built = build_student_objective(
            DistillConfig(**STUDENTS[name]), DATA, predictions(), seed=0
        )
        objective, used = built.objective, built.used
    job = TrainingJob(
        model,
        objective,
        DATA,
        make_plan(parts=2 if name == "labels" else 1),
        checkpoints=folder / "checkpoints",
        history=History(folder / "history.jsonl"),
        hooks=Hooks(on_step, should_stop),
        used=used,
    )
    rounding = fake_quantized(model) if name == "int8" else nullcontext()
    try:
        with rounding:
            train(job)
    except StoppedError:
        return {"losses": losses, "stopped": True}
    process_group.barrier()
    lines = [json.loads(line) for line in (folder / "history.jsonl").open()]
    digest = sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return {
        "losses": losses,
        "validation": [line["accuracy"] for line in lines if "split" in line],
        "weights": [line["weights"] for line in lines if "weights" in line],
        "steps": [line["step"] for line in lines if "terms" in line],
        "model": digest.hexdigest(),
    }


def run_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Run every case, and the learned weights' and the teacher's once more with a stop."""
    results = {name: run(name, folder / name) for name in ("labels", "batch-norm", *STUDENTS)}
    for name in ("labels", "meta"):
        again = folder / f"{name}-again"
        run(name, again, stop_at=STOP)
        results[f"{name}-again"] = run(name, again)
    results["meta-stopped"] = run("meta", folder / "meta-stopped", stop_at=STOP)
    return results


def answers() -> bytes:
    """Logits of 600 rows: three batches, of which one process of two has two."""
    by_view = predict_views(make_model(has_batch_norm=True), make_split(600, 2))
    return b"".join(by_view[view].tobytes() for view in sorted(by_view))


def main(folder: Path, other: Path) -> None:
    """Run everything in the processes that were launched, and continue the other's training."""
    torch.set_num_threads(1)
    process_group.begin()
    if process_group.is_main():
        folder.mkdir(exist_ok=True)
    process_group.barrier()
    results: dict[str, Any] = run_all(folder)
    results["meta-taken-over"] = run("meta", other / "meta-stopped")
    results["answers"] = sha256(answers()).hexdigest()
    results["count"] = process_group.world_size()
    (folder / f"rank-{process_group.rank()}.json").write_text(json.dumps(results))
    process_group.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
