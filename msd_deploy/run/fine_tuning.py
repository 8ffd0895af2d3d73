"""`msd teacher`: train a teacher, evaluate and write it; see `fine_tune_teacher`.

A checkpoint is fine-tuned on the labels, a teacher is adapted to single views, or classes are
prompts and nothing is trained. What is read is in fine_tuning_inputs.py, the output folder in
fine_tuning_folder.py.
"""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from msd_deploy import process_group
from msd_deploy.artifacts.atomic import remove_stale_folders
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import Json
from msd_deploy.config.fine_tuning import TeachingConfig
from msd_deploy.config.parsing import config_as_json
from msd_deploy.data.augment.batches import build_augmentation
from msd_deploy.data.labels import class_weights_as_json
from msd_deploy.data.prepared import PreparedData
from msd_deploy.distillation.encoded_cache import encode_data
from msd_deploy.distillation.history import History
from msd_deploy.distillation.losses import class_weight_tensor
from msd_deploy.distillation.objectives import AdaptationObjective, LabelObjective
from msd_deploy.distillation.plan import (
    Phase,
    TrainingPlan,
    TrainingResult,
    note_of_result,
    plan_key,
    watched_views,
)
from msd_deploy.distillation.trainer import TrainingJob, train
from msd_deploy.hooks import RunHooks
from msd_deploy.metrics import LogitsByView, metric_name
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import save_model
from msd_deploy.models.predict import predict_views
from msd_deploy.models.pretrained.teacher import freeze
from msd_deploy.models.pretrained.zero_shot import ZeroShotStart
from msd_deploy.run.adaptation import Adaptation, begin_adaptation, notes_of_loss
from msd_deploy.run.calibration import best_temperature
from msd_deploy.run.fine_tuning_folder import (
    begin_fine_tuning,
    check_fine_tuning_output,
    is_finished,
    result_of,
    teaching_with_absolute_paths,
    teaching_without_paths,
)
from msd_deploy.run.fine_tuning_inputs import FineTuning, labelled_examples, read_fine_tuning
from msd_deploy.run.single_views import check_on_validation, unsound_views
from msd_deploy.run.stages import parameter_count, state_scores, without_validation
from msd_deploy.views import View

_HISTORY_NAME, _CHECKPOINTS_NAME, _ENCODED_NAME = "history.jsonl", "checkpoints", "encoded"
_FEWEST_FOR_TEMPERATURE = 50
_MOST_FACTOR = 100.0


def fine_tune_teacher(
    config: TeachingConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    hooks: RunHooks | None = None,
) -> Json:
    """Fine-tune a checkpoint on the labels, or adapt a teacher to single views, and write it.

    Under `accelerate launch` every process calls it; the main one writes.

    Args:
        config: Everything that decides the result.
        folder: Where it goes.
        resume: Continue an interrupted fine-tuning with the same configuration.
        overwrite: Replace an existing teacher.
        hooks: Progress and stopping.

    Returns:
        family, parameters, metric, per split and view the metric's value, and the data set's
        further metrics; of an adaptation also adapted_from, with those before it.

    Raises:
        MsdError: Bad input, or another process uses the folder; nothing is written then.
        StoppedError: Asked to stop; the fine-tuning can be resumed.
    """
    config = teaching_with_absolute_paths(config)
    process_group.begin()
    with claimed(folder) if process_group.is_main() else nullcontext():
        process_group.barrier()
        replaces = check_fine_tuning_output(config, folder, resume=resume, overwrite=overwrite)
        if resume and is_finished(folder):
            return result_of(folder)
        with process_group.local_main_process_first():
            teaching = read_fine_tuning(config, folder, hooks or RunHooks())
        process_group.barrier()
        model = _build(teaching)
        if process_group.is_main():
            begin_fine_tuning(teaching, replaces=replaces)
        process_group.barrier()
        adaptation = None
        if config.finetune.adapt is not None:
            adaptation = begin_adaptation(
                model, teaching.start_digest, teaching.data, teaching.hooks.stages
            )
        training = None
        if not config.finetune.zero_shot:
            training = _train(teaching, model, adaptation)
        result = _evaluate(teaching, model, adaptation)
        if process_group.is_main():
            _save(teaching, model, training, adaptation, result)
            remove_stale_folders(folder.resolve().parent)
        process_group.barrier()
        return result_of(folder)


def _build(teaching: FineTuning) -> ViewClassifier:
    """Build the model from the seed; training continues from the same generator state."""
    torch.manual_seed(teaching.config.seed)
    return teaching.start.build(
        teaching.preprocessor,
        labels=teaching.data.info.labels,
        problem=teaching.data.info.problem,
        dropout=teaching.config.finetune.dropout,
    )


def _train(
    teaching: FineTuning, model: ViewClassifier, adaptation: Adaptation | None
) -> TrainingResult:
    config, data = teaching.config, teaching.data
    objective: LabelObjective | AdaptationObjective
    if adaptation is None:
        view, weights = config.finetune.view, class_weight_tensor(data.info.class_weights)
        objective = LabelObjective(0.0 if view else config.finetune.modality_dropout, weights)
        used = labelled_examples(data, config.finetune)
        what = teaching.start.family if view is None else f"the {view} encoder"
        how = f"Fine-tuning {what} on the labels"
    else:
        objective, used = adaptation.objective, adaptation.used
        how = f"Adapting the {teaching.start.family} teacher to single views"
    if config.finetune.gradient_checkpointing:
        model.checkpoint_activations()
    if config.finetune.encodes_once:
        freeze(model, config.finetune.freeze)
        data = _encoded(teaching, model, used)
    teaching.hooks.stages.on_stage(how)
    result = train(
        TrainingJob(
            model,
            objective,
            data,
            _plan(teaching),
            checkpoints=teaching.folder / _CHECKPOINTS_NAME,
            history=History(teaching.folder / _HISTORY_NAME),
            hooks=teaching.hooks.training,
            used=used,
            augment=build_augmentation(
                config.augment, data.splits["train"], teaching.preprocessor, seed=config.seed
            ),
        )
    )
    if note := note_of_result(result):
        teaching.hooks.stages.on_note(note)
    return result


def _encoded(teaching: FineTuning, model: ViewClassifier, used: NDArray[np.bool_]) -> PreparedData:
    """Return the data with the outputs of the model's frozen parts; see `encode_data`."""
    return encode_data(
        model,
        teaching.data,
        teaching.folder / _ENCODED_NAME,
        used=used,
        key={
            "checkpoint": teaching.start_digest,
            "data": teaching.data.digest,
            "preprocess": teaching.preprocessor.digest(),
            "freeze": teaching.config.finetune.freeze,
        },
        hooks=teaching.hooks.stages,
    )


def _plan(teaching: FineTuning) -> TrainingPlan:
    settings = teaching.config.finetune
    phase: Phase = "teacher" if settings.adapt is None else "adaptation"
    plan = TrainingPlan(
        phase=phase,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate * settings.fresh_rate,
        pretrained_rate=1 / settings.fresh_rate,
        weight_decay=settings.weight_decay,
        warmup_share=settings.warmup_share,
        seed=teaching.config.seed,
        log_every=settings.log_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        keep=settings.keep,
        patience=settings.patience,
        watched=(View(settings.view),)
        if settings.view
        else watched_views(settings.keep, phase, trains_single_views=settings.modality_dropout > 0),
        parts=settings.accumulate,
        precision=settings.precision,
        key=plan_key(
            config_as_json(teaching_without_paths(teaching.config)),
            teaching.data.digest,
            teaching.preprocessor.digest(),
            teaching.start_digest,
        ),
    )
    return without_validation(plan, teaching.data)


def _evaluate(teaching: FineTuning, model: ViewClassifier, adaptation: Adaptation | None) -> Json:
    """Return the result of `fine_tune_teacher`.

    Notes unsound views, what an adaptation lost, and a better temperature.
    """
    data, hooks = teaching.data, teaching.hooks.stages
    hooks.on_stage("Evaluating the teacher")
    result: Json = {
        "family": teaching.start.family,
        "parameters": parameter_count(model),
        "metric": metric_name(data.info.problem),
    }
    view = teaching.config.finetune.view
    for name in ("validation", "test"):
        logits = predict_views(model, data.splits[name])
        own = logits if view is None else {View(view): logits[View(view)]}
        state_scores(result, data, name, own)
        if name == "validation":
            checked = check_on_validation(logits, data)
            views = {key: checked[key] for key in checked if key in own}
            result["single_views"] = views
            specialists = () if view is None else (view,)
            for note in unsound_views(views, str(result["metric"]), specialists=specialists):
                hooks.on_note(f"the {note}")
            if adaptation is not None:
                for note in notes_of_loss(adaptation, logits[View.MULTIMODAL], data):
                    hooks.on_note(note)
            if isinstance(teaching.start, ZeroShotStart):
                for note in _notes_on_temperature(teaching.start, data, logits):
                    hooks.on_note(note)
    return result


def _save(
    teaching: FineTuning,
    model: ViewClassifier,
    training: TrainingResult | None,
    adaptation: Adaptation | None,
    result: Json,
) -> None:
    """Replace the fine-tuning by the teacher's model folder."""
    data = teaching.data
    origin: Json = (
        {"checkpoint_digest": teaching.start_digest}
        if adaptation is None
        else {"adapted_from": adaptation.facts}
    )
    if isinstance(teaching.start, ZeroShotStart):
        origin["zero_shot"] = teaching.start.facts()
    if training is not None:
        origin["training"] = {_plan(teaching).phase: asdict(training)}
    save_model(
        teaching.folder,
        model,
        teaching.preprocessor,
        labels=data.info.labels,
        problem=data.info.problem,
        facts={
            "dataset_digest": data.digest,
            "parameters": result["parameters"],
            **origin,
            "teaching": config_as_json(teaching_without_paths(teaching.config)),
            **class_weights_as_json(data.info),
            "result": result,
        },
    )


def _notes_on_temperature(
    start: ZeroShotStart, data: PreparedData, logits: LogitsByView
) -> list[str]:
    """Return which temperature suits the labels of validation best, if they are enough."""
    split = data.splits["validation"]
    labelled = split.has_label()
    if labelled.sum() < _FEWEST_FOR_TEMPERATURE:
        return []
    factor = best_temperature(
        logits[View.MULTIMODAL][labelled],
        split.labels[labelled],
        data.info.problem,
        least=1 / _MOST_FACTOR,
        most=_MOST_FACTOR,
    )
    if not 1.05 / _MOST_FACTOR < factor < _MOST_FACTOR / 1.05:  # without an optimum in the range
        return []
    used = start.used_temperature
    return [
        f"the temperature is {used:.3g}; on {labelled.sum():,} validation examples the negative"
        f" log-likelihood is lowest with --prompt-temperature {factor * used:.3g}"
    ]
