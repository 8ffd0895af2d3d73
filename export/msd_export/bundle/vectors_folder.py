"""`msd vectors`: a folder of test vectors of a model, with its text.json."""

from pathlib import Path

import numpy as np

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    MANIFEST_NAME,
    Json,
    json_text,
    read_versioned_json,
    write_manifest,
    write_text,
)
from msd_deploy.artifacts.output import check_output, folder_beside
from msd_deploy.data.source import EvaluationSplit, SourceOptions
from msd_deploy.hooks import StageHooks
from msd_export.bundle.odd_texts import odd_texts
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
from msd_export.opened_model import (
    check_has_data,
    open_model,
    read_for_evaluation,
    split_name,
)

VECTORS_NAME, TEXTS_NAME = "vectors.json", "texts.json"
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
        How many there are, by kind: texts, noise, images, examples.

    Raises:
        ArtifactError: The model is incomplete or altered, or `out` exists.
        ConfigError: The model's tokenizer is not of BERT's type, or it needs a data set.
        DataError: The data cannot be read.
    """
    options, hooks = options or SourceOptions(), hooks or StageHooks()
    check_output(
        out,
        "folder of vectors",
        is_kind=_is_ours(out),
        overwrite=overwrite,
        fix="Name another --out, or replace it with --overwrite",
        inputs=[model],
    )
    opened = open_model(model)
    if spec is None:
        check_has_data(model, options)
    hooks.on_stage("Asking the tokenizer about every character")
    rules = text_rules(opened.preprocessor)
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
    odd = odd_texts(rules["vocabulary"])
    hooks.on_stage("Computing the vectors")
    with new_folder(out) as building:
        write_text(building / TEXT_NAME, json_text(rules))
        digests = {"schema_version": SCHEMA_VERSION, **text_digests(opened.preprocessor, odd)}
        write_text(building / TEXTS_NAME, json_text(digests))
        parts = {
            "texts": text_vectors(opened.preprocessor, odd),
            "noise": noise_vectors(opened.preprocessor),
            "images": image_vectors(opened.preprocessor, building),
            "examples": answers(opened, examples, building),
        }
        facts = {"runtime": opened.predictor.runtime, "data": spec, "split": split}
        vectors = {"schema_version": SCHEMA_VERSION, **facts, **parts}
        write_text(building / VECTORS_NAME, json_text(vectors))
        write_manifest(building, KIND, {"preprocess_digest": opened.preprocessor.digest()})
    return {
        "texts": len(odd),
        **{name: len(values) for name, values in parts.items() if name != "texts"},
    }


def vectors_folder_beside(model: Path) -> Path:
    """Return the default folder: NAME-vectors beside a model."""
    return folder_beside(model, "vectors")


def _is_ours(folder: Path) -> bool:
    path = folder / MANIFEST_NAME
    return path.is_file() and read_versioned_json(path).get("kind") == KIND
