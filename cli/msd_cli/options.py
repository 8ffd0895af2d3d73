"""Options that several commands share, each with its help text."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from typer.models import OptionInfo

from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.run import RunConfig

DATA_PANEL = "Data"
DEFAULT_DATA = RunConfig().data.spec

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SPEC",
        help="Data set: synthetic:memes, synthetic:posters, synthetic:entailment,"
        " synthetic:listings, easy-vqa, hateful-memes:DIR, mm-imdb:DIR, snli-ve:DIR, vqa-v2:DIR,"
        " hub:OWNER/NAME or hub:FOLDER (a Hugging Face dataset), or a FILE.jsonl of your own.",
        show_default=DEFAULT_DATA,
        rich_help_panel=DATA_PANEL,
    ),
]
ExamplesOption = Annotated[
    int | None,
    typer.Option(
        "--examples",
        help="Training examples of a generated task.",
        show_default="the task's own number",
        rich_help_panel=DATA_PANEL,
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="A,B,...",
        help="Closed list of classes of FILE.jsonl or hub:NAME; a row with another label is skipped"
        " and named.",
        show_default="the classes found in it",
        rich_help_panel=DATA_PANEL,
    ),
]
ImageColumnOption = Annotated[
    str | None,
    typer.Option(
        "--image-column",
        metavar="NAME",
        help="The picture's column of hub:NAME.",
        show_default="image",
        rich_help_panel=DATA_PANEL,
    ),
]
TextColumnOption = Annotated[
    str | None,
    typer.Option(
        "--text-column",
        metavar="NAME",
        help="The text's column of hub:NAME.",
        show_default="text",
        rich_help_panel=DATA_PANEL,
    ),
]
LabelColumnOption = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        metavar="NAME",
        help="The column of the label, or of a list of labels, of hub:NAME.",
        show_default="label or labels",
        rich_help_panel=DATA_PANEL,
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Unusable rows are an error.", rich_help_panel=DATA_PANEL),
]
AugmentOption = Annotated[
    Literal["none", "light", "strong"] | None,
    typer.Option(
        "--augment",
        metavar="PRESET",
        help="none, light or strong: changes to what is trained on, new in every pass. light:"
        " pictures are cropped to at least 60 % of their area, and brightness, contrast and"
        " saturation are up to 20 % off."
        " strong: 40 % of the area and 40 % off, a square painted over in half of the pictures, a"
        " tenth of the words left out. None of them mirrors.",
        show_default=AugmentConfig().preset,
        rich_help_panel=DATA_PANEL,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]
ClassWeightsOption = Annotated[
    Literal["none", "balanced"] | None,
    typer.Option(
        "--class-weights",
        metavar="HOW",
        help="balanced: in the labels' loss, a class counts the more the fewer rows have it.",
        show_default="none",
        rich_help_panel=DATA_PANEL,
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that exists.")
]
ThreadsOption = Annotated[int, typer.Option("--threads", help="CPU threads.")]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder that `msd distill --out` wrote.")
]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run (its student), a model folder, or a folder in a run's exports."
    ),
]


def option(panel: str, explanation: str, default: object, *names: str) -> OptionInfo:
    """Describe an option that is None unless given: only then does it override what was stated.

    Args:
        panel: Under which title `--help` lists it.
        explanation: What it means.
        default: What holds where it is not given.
        names: How it is written, unless as its parameter.
    """
    described = typer.Option(
        *names, help=explanation, show_default=str(default), rich_help_panel=panel
    )
    return cast(OptionInfo, described)


def split_labels(stated: str | None) -> tuple[str, ...] | None:
    """Return the classes of a comma-separated option."""
    if stated is None:
        return None
    return tuple(label.strip() for label in stated.split(",") if label.strip())
