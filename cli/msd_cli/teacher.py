"""`msd teacher`: fine-tune pretrained checkpoints as a teacher."""

from pathlib import Path
from typing import Annotated, Any

import typer

from msd_cli.console import (
    ProgressDisplay,
    add_score_rows,
    new_table,
    print_json,
    print_note,
    result_console,
)
from msd_cli.options import ConfigOption, Given, JsonOption, OptionsOf, OverwriteOption
from msd_deploy.config.fine_tuning import TeachingConfig


def teacher(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder of the teacher.")],
    config: ConfigOption = None,
    given: Annotated[
        Given,
        OptionsOf(
            TeachingConfig,
            without=("data.labelled_share", "data.vocabulary_size"),
            defaults={
                "data.image_size": "what the checkpoint was trained with",
                "data.tokenizer": "the checkpoint's own",
                "data.max_length": "length of the longest training text, up to the model's maximum",
            },
        ),
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted training with its settings.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune pretrained checkpoints on the labels, as a teacher for msd distill.

    With --adapt it continues a trained teacher instead, without labels, so that
    it also predicts from image or text alone. With --zero-shot nothing is
    trained: the classes are prompts, and labels are only scored. With --view it
    is a teacher of one modality, which gives msd distill the targets of that view.

    The teacher is trained on image and text together and on each alone. Its
    folder is complete: it loads offline, on any machine. Ctrl-C stops after the
    current step; --resume continues.

    Examples:
        msd teacher --model openai/clip-vit-base-patch32 --data memes.jsonl --out teachers/clip
        msd teacher --text minilm-l6 --vision effnet-lite2 --out teachers/memes
        msd teacher --text minilm-l6 --vision effnet-lite2 --freeze vision --out teachers/fast
        msd teacher --adapt teachers/clip --data memes.jsonl --out teachers/adapted
        msd teacher --model openai/clip-vit-base-patch32 --zero-shot "a photo of {label}" \
            --labels shoes,shirt --data unlabelled.jsonl --out teachers/prompts
        msd teacher --view image --vision effnet-lite2 --out teachers/images
        msd teacher --resume --out teachers/clip
        msd distill --data memes.jsonl --teacher teachers/clip --out runs/memes
    """
    from msd_cli.settings import teaching_settings
    from msd_deploy.hooks import Hooks, RunHooks
    from msd_deploy.run.fine_tuning import fine_tune_teacher

    settings = teaching_settings(given, config_file=config, out=out, resume=resume)
    display = ProgressDisplay(stopped_fix="Continue with --resume if training had started")
    with display.running():
        hooks = RunHooks(display.stages(), Hooks(display.on_step, display.should_stop))
        result = fine_tune_teacher(settings, out, resume=resume, overwrite=overwrite, hooks=hooks)
    if as_json:
        print_json({"teacher": str(out), **result})
        return
    _print_result(result)
    spec = (
        settings.data.spec or "FILE.jsonl"
    )  # a finished teacher does not record where its data was
    view = settings.finetune.view
    option = "--teacher" if view is None else f"--{view}-teacher"
    print_note(f"{out} is ready. Next: msd distill {option} {out} --data {spec}")


def _print_result(result: dict[str, Any]) -> None:
    title = f"{result['family']} teacher: {result['metric']} (95 % interval)"
    splits: list[str] = [split for split in ("validation", "test") if split in result]
    if not splits:  # without labels, as notes on the data state
        return
    columns = {split: (result, split) for split in splits}
    if "adapted_from" in result:
        before = {f"{split} before": (result["adapted_from"], split) for split in splits}
        columns = {**before, **columns}
    table = new_table(title, "view", *columns)
    add_score_rows(table, list(columns.values()))
    result_console().print(table)
