"""What tests that damage exports share: the verification of `msd export`, and damage to files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from msd_deploy.artifacts.manifest import MANIFEST_NAME, write_manifest
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.errors import ArtifactError, ExportError, ParityError
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.folders import LABELS_NAME, labels_as_json
from msd_export.folder import KIND, open_export
from msd_export.formats import Variant
from msd_export.opened_model import open_model
from msd_export.parity import compare_logits, predict_every_view
from msd_export.signature import Predictor
from msd_export.tolerance import Gate, check_parity

Mutate = Callable[[Path], None]
REFUSALS = (ParityError, ExportError, ArtifactError)


def verify(predictor: Predictor, form: Variant, source: LogitsByView, rows: PreparedSplit) -> None:
    """Hold a form against its source as `msd export` does, but for the metric: it may be lost."""
    exported = predict_every_view(predictor, rows)
    check_parity(compare_logits(exported, source, rows, "single_label"), Gate(form, max_drop=1.0))


def restate(folder: Path, mutate: Mutate) -> None:
    """Change an export, and state the digests of what it is then."""
    manifest = open_export(folder).manifest
    facts = {name: manifest[name] for name in ("target", "precision", "source_digest")}
    mutate(folder)
    (folder / MANIFEST_NAME).unlink()
    write_manifest(folder, KIND, facts)


def check_digest_of_changed(folder: Path, mutate: Mutate) -> None:
    """Change a file of an export: it does not have its digest any more."""
    mutate(folder)
    for accept in (open_export, open_model):
        with pytest.raises(ArtifactError, match="SHA-256 does not match"):
            accept(folder)


def check_contradiction_of_changed(folder: Path, mutate: Mutate) -> None:
    """Change a file and its digest: it is not what the model's own file states."""
    restate(folder, mutate)
    open_export(folder)
    with pytest.raises(ArtifactError, match="here and in the model file do not match"):
        open_model(folder)


def exchange_labels(folder: Path) -> None:
    stated = json.loads((folder / LABELS_NAME).read_text())
    (folder / LABELS_NAME).write_text(json.dumps({**stated, "labels": stated["labels"][::-1]}))


def change_the_problem(folder: Path) -> None:
    stated = json.loads((folder / LABELS_NAME).read_text())
    other = labels_as_json(stated["labels"], "multi_label")
    (folder / LABELS_NAME).write_text(json.dumps({**stated, **other}))


def exchange_words(folder: Path) -> None:
    stated = json.loads((folder / "tokenizer.json").read_text())
    words = stated["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    (folder / "tokenizer.json").write_text(json.dumps(stated))


def shorten_texts(folder: Path) -> None:
    stated = json.loads((folder / "preprocess.json").read_text())
    stated["text"]["max_length"] = 4
    (folder / "preprocess.json").write_text(json.dumps(stated))


FILE_MUTANTS: list[Mutate] = [exchange_labels, change_the_problem, exchange_words, shorten_texts]
