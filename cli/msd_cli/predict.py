"""`msd predict`: classify one example."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msd_cli.console import new_table, print_json, print_note, result_console
from msd_cli.options import Given, JsonOption, ModelArgument, OptionsOf, utf8_text
from msd_cli.settings import usage_errors
from msd_deploy.artifacts.run_directory import check_model_exists
from msd_deploy.config.parsing import with_options
from msd_deploy.config.run import DataConfig

if TYPE_CHECKING:
    from msd_export.opened_model import OpenedModel, Prediction


def predict(
    model: ModelArgument,
    limit: Annotated[Given, OptionsOf(DataConfig, only=("max_pixels",))],
    image: Annotated[Path | None, typer.Option(help="An image file.", show_default="none")] = None,
    text: Annotated[str | None, typer.Option(help="A text.", show_default="none")] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of classes to print.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Classify an image with its text, an image alone, or a text alone.

    Prints the most probable classes and what is decided at the model's operating
    point; with --json, the text's identifiers, and the logits and probabilities of
    all classes.

    Examples:
        msd predict runs/demo --image cat.jpg --text "look at him go"
        msd predict runs/demo/exports/coreml-int8 --text "look at him go" --json
    """
    text = text and utf8_text(text, "--text")
    check_model_exists(model)
    from msd_export.opened_model import open_model

    opened = open_model(model)
    most = with_options(DataConfig(), limit).max_pixels
    opened = replace(opened, preprocessor=opened.preprocessor.with_max_pixels(most))
    with usage_errors():
        prediction = opened.predict(image=image, text=text)
    if prediction.is_text_cut:
        print_note(f"The text was truncated to {opened.preprocessor.max_length} tokens.")
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    if as_json:
        print_json(
            {
                "model": str(model),
                "runtime": opened.predictor.runtime,
                "view": prediction.view.value,
                "input_ids": prediction.input_ids.tolist(),
                "is_text_cut": prediction.is_text_cut,
                "logits": dict(zip(opened.labels, map(float, prediction.logits), strict=True)),
                "probabilities": prediction.probabilities,
                "decided": list(prediction.decided),
            }
        )
        return
    table = new_table(f"{model} in {opened.predictor.runtime}", "class", "probability")
    for label, probability in ranked[:top]:
        table.add_row(label, f"{probability:.1%}")
    result_console().print(table)
    result_console().print(_decision_text(opened, prediction), markup=False)


def _decision_text(opened: "OpenedModel", prediction: "Prediction") -> str:
    """Return what is decided, by which rule, and why it is nothing."""
    from msd_deploy.pages.formatting import VIEW_NAMES, percent
    from msd_deploy.problem import decides_one_class

    named, point = ", ".join(prediction.decided), opened.operating_point
    if point is None:
        return f"decided: {named or 'none of the classes'}"
    rule = f"{point.rule}, {VIEW_NAMES[prediction.view]}"
    if named or not decides_one_class(opened.problem):
        return f"decided ({rule}): {named or 'none of the classes'}"
    threshold, highest = (
        point.thresholds[prediction.view][0],
        max(prediction.probabilities.values()),
    )
    if threshold == 1:
        return f"abstains ({rule}): no threshold met the rule for this view"
    return f"abstains ({rule}): {percent(highest)} is below {percent(threshold)}"
