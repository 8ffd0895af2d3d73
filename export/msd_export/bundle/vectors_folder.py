"""`msd vectors`: a folder of test vectors of a model, with its text.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    Json,
    is_folder_of,
    json_text,
    write_manifest,
    write_text,
)
from msd_deploy.artifacts.output import check_output, folder_beside
from msd_deploy.data.source import EvaluationSplit, SourceOptions
from msd_deploy.hooks import StageHooks
from msd_export.bundle.odd_texts import odd_texts
from msd_export.bundle.runtime_vectors import write_runtime_vectors
from msd_export.bundle.text_rules import TEXT_NAME, text_rules
from msd_export.bundle.vectors import (
    EXAMPLES,
    Example,
    answers,
    image_vectors,
    noise_vectors,
    text_digests,
    text_vectors,
)
from msd_export.folder import KIND as EXPORT_KIND
from msd_export.folder import ExportFolder, open_export
from msd_export.opened_model import (
    OpenedModel,
    check_has_data,
    open_model,
    read_for_evaluation,
    split_name,
)

VECTORS_NAME, TEXTS_NAME, RUNTIME_NAME = "vectors.json", "texts.json", "runtime"
KIND = "vectors"
SCHEMA_VERSION = 1


def write_vectors(
    model: Path,
    out: Path,
    spec: str | None = None,
    *,
    options: SourceOptions | None = None,
    split: EvaluationSplit = "test",
    overwrite: bool = False,
    hooks: StageHooks | None = None,
) -> Json:
    """Write a model's test vectors into a folder.

    Args:
        model: A run, model folder or export folder; the answers are those of its own runtime.
        out: The folder.
        spec: Data set of the examples; None: the run's own.
        options: How it is read.
        split: Which split of it.
        overwrite: Replace a folder of vectors.
        hooks: Progress.

    Returns:
        How many there are, by kind: texts, noise, images, examples, and cases for the tools of an
            export's runtime.

    Raises:
        ArtifactError: The model is incomplete or altered, or `out` exists.
        ConfigError: The model's tokenizer is not of BERT's type, or it needs a data set.
        DataError: The data cannot be read.
    """
    options, hooks = options or SourceOptions(), hooks or StageHooks()
    check_output(
        out,
        "folder of vectors",
        is_kind=is_folder_of(KIND, out),
        overwrite=overwrite,
        fix="Name another --out, or replace it with --overwrite",
        inputs=[model],
    )
    opened = open_model(model)
    if spec is None:
        check_has_data(model, options)
    examples, spec = read_examples(model, opened, spec, options=options, split=split, hooks=hooks)
    with new_folder(out) as building:
        facts = {"data": spec, "split": split}
        export = open_export(model) if is_folder_of(EXPORT_KIND, model) else None
        return fill_vectors(building, opened, examples, facts, hooks, export)


def read_examples(
    model: Path,
    opened: OpenedModel,
    spec: str | None,
    *,
    options: SourceOptions,
    split: EvaluationSplit,
    hooks: StageHooks,
) -> tuple[list[Example], str]:
    """Read examples of a data set, spread over a split; return also the name of the data.

    Args:
        model: The run, or the model.
        opened: Whose preprocessing counts.
        spec: The data set; None: that of the run.
        options: How it is read.
        split: Which split of it.
        hooks: Progress.

    Raises:
        DataError: The data cannot be read.
    """
    data, spec, source = read_for_evaluation(
        model, opened, spec, options=options, split=split, hooks=hooks
    )
    name = split_name(split)
    rows, texts = data.splits[name], source.dataset[name]["text"]
    places = np.unique(np.linspace(0, len(rows) - 1, EXAMPLES).astype(int)).tolist()
    examples = [
        Example(
            rows.pixels[rows.image_index[place]] if rows.image_index[place] >= 0 else None,
            str(texts[int(rows.source_rows[place])] or ""),
        )
        for place in places
    ]
    return examples, spec


def fill_vectors(
    folder: Path,
    opened: OpenedModel,
    examples: Sequence[Example],
    facts: Mapping[str, object],
    hooks: StageHooks,
    export: ExportFolder | None = None,
) -> Json:
    """Write text.json, all vectors and their manifest into an empty folder; return the counts.

    Args:
        folder: The folder.
        opened: Whose answers count.
        examples: Examples of a data set.
        facts: Of the data, for vectors.json.
        hooks: Progress.
        export: What was opened, if it is an export: examples are also written for the tools of its
            runtime.

    Raises:
        ConfigError: The tokenizer is not of BERT's type.
    """
    hooks.on_stage("Asking the tokenizer about every character")
    rules = text_rules(opened.preprocessor)
    odd = odd_texts(rules["vocabulary"])
    hooks.on_stage("Computing the test vectors")
    write_text(folder / TEXT_NAME, json_text(rules))
    digests = {"schema_version": SCHEMA_VERSION, **text_digests(opened.preprocessor, odd)}
    write_text(folder / TEXTS_NAME, json_text(digests))
    parts: dict[str, Sequence[object]] = {
        "texts": text_vectors(opened.preprocessor, odd),
        "noise": noise_vectors(opened.preprocessor),
        "images": image_vectors(opened.preprocessor, folder),
        "examples": answers(opened, examples, folder),
    }
    vectors = {"schema_version": SCHEMA_VERSION, "runtime": opened.predictor.runtime, **facts}
    write_text(folder / VECTORS_NAME, json_text({**vectors, **parts}))
    cases = 0
    if export is not None:
        cases = write_runtime_vectors(folder / RUNTIME_NAME, export, opened, examples)
    write_manifest(folder, KIND, {"preprocess_digest": opened.preprocessor.digest()})
    return {
        **{name: len(values) for name, values in parts.items()},
        "texts": len(odd),
        "cases": cases,
    }


def vectors_folder_beside(model: Path) -> Path:
    """Return the default folder: NAME-vectors beside a model."""
    return folder_beside(model, "vectors")
