"""The exports of a run as a repository of the Hugging Face hub, written to a folder or uploaded."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from msd_deploy import __version__
from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    CARD_NAME,
    HUB_CARD_NAME,
    HUB_OWN_FILES,
    Json,
    is_folder_of,
    read_json,
    read_manifest,
    sha256_of_json,
    write_manifest,
    write_text,
)
from msd_deploy.artifacts.output import check_output, folder_beside
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.folders import LABELS_NAME
from msd_deploy.run.record import read_finished_run
from msd_export.folder import PARITY_NAME, ExportFolder, exports_below, refuse_another_source
from msd_export.formats import FORMATS
from msd_export.onnx.end_to_end import END_TO_END_NAME
from msd_export.provenance.model_card import (
    PROBLEMS,
    TO_FILL_IN,
    confidence_row,
    label_list,
    license_of_card,
    metric_of,
    owners_words,
    percent,
    plain,
)

KIND = "hub"
_TEMPLATE = Path(__file__).parent / "templates" / "hub_card.md.j2"
_TRAINED = {
    "msd": "Distilled from a larger teacher by Modality-specific Distillation (Jin et al. 2021,"
    " arXiv 2101.01881)",
    "kd": "Distilled from a larger teacher by plain knowledge distillation",
    "none": "Trained on labels",
}
_SHARED = (LABELS_NAME, "tokenizer.json", "preprocess.json", "calibration.json")


def hub_path(export: ExportFolder) -> str:
    """Return where an export's model lies in a repository, for example onnx/model_int8.onnx."""
    folder = "onnx" if export.target == "ort" else export.target
    ending = Path(FORMATS[export.target].model_file).suffix
    name = "model" if export.precision == "fp32" else f"model_{export.precision}"
    return f"{folder}/{name}{ending}"


def check_repository(name: str) -> None:
    """Check the name of a repository, OWNER/NAME.

    Raises:
        ConfigError: It is none.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it has it

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"is not a repository's name ({reason})", where=repr(name), fix="Name it as OWNER/NAME"
        ) from error
    if "/" not in name:
        raise ConfigError("has no owner", where=name, fix="Name it as OWNER/NAME")


def write_hub_folder(
    run: RunDirectory,
    repository: str,
    out: Path,
    *,
    base_model: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
    on_note: Callable[[str], None] = lambda sentence: None,
) -> Path:
    """Write a run's exports in the layout of the hub.

    Args:
        run: The run; every file of its exports is verified.
        repository: OWNER/NAME, for the card.
        out: The folder.
        base_model: The teacher's name on the hub, for the card.
        license: For the card.
        overwrite: Replace a folder that this function wrote; its owner's words in README.md, and
            LICENSE and NOTICE, stay.
        on_note: Called with what is passed over among the exports.

    Returns:
        The folder.

    Raises:
        ArtifactError: There are no exports, one is damaged or of another student, or the folder
            exists.
        ConfigError: The repository or the folder cannot be named so.
    """
    check_repository(repository)
    method = read_finished_run(run).config.distill.method
    check_output(
        out,
        "folder for the hub",
        is_kind=is_folder_of(KIND, out),
        overwrite=overwrite,
        fix="Name another --out, or replace it with --overwrite",
        inputs=[run.root],
    )
    student = read_manifest(run.student, "model")
    exports = exports_below(run.exports, on_note=on_note)
    if not exports:
        raise ArtifactError("has no exports", where=run.root, fix=f"Run msd export {run.root}")
    digest = sha256_of_json(student["files"])
    for export in exports:
        fix = f"Export again with `msd export {run.root} --overwrite`, or remove it"
        refuse_another_source(export, "student", student, fix=fix)
    own_words = owners_words(out / HUB_CARD_NAME)
    with new_folder(out) as building:
        for export in exports:
            _copy(export, building)
        for name in HUB_OWN_FILES:
            if (out / name).is_file():
                shutil.copyfile(out / name, building / name)
        words = _words(exports, on_note) if own_words in (None, TO_FILL_IN) else own_words
        facts = {
            "words": words,
            "trained": _TRAINED[method],
            "parameters": student.get("parameters"),
        }
        data = {
            "base_model": base_model,
            "base_model_relation": "finetune" if base_model else None,
            **license_of_card(license),
        }
        card = _card(exports, repository, facts, data)
        write_text(building / HUB_CARD_NAME, card)
        stated = {"repository": repository, "source_digest": digest, "exports": _versions(exports)}
        write_manifest(building, KIND, stated)
    return out


def _versions(exports: Sequence[ExportFolder]) -> Json:
    """Return by path of a model what wrote it, and the digest of its export."""
    return {
        hub_path(export): {
            "digest": sha256_of_json(cast(Json, export.manifest["files"])),
            "made_with": export.manifest.get("made_with"),
        }
        for export in exports
    }


def is_written(run: RunDirectory, repository: str, folder: Path) -> bool:
    """Return whether a folder holds a run's present exports for a repository, looked at or signed.

    Raises:
        ArtifactError: It is a folder for the hub, damaged, or an export is.
    """
    if not is_folder_of(KIND, folder):
        return False
    manifest = read_manifest(folder, KIND)
    stated = (manifest.get("repository"), manifest.get("exports"))
    return stated == (repository, _versions(exports_below(run.exports)))


def hub_folder_beside(run: Path) -> Path:
    """Return the default folder: NAME-hub beside a run."""
    return folder_beside(run, "hub")


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder that `write_hub_folder` wrote; return the address of the commit.

    What the repository has of earlier forms in the same layout is removed by the commit.

    The token is the one of `hf auth login`, or in HF_TOKEN.

    Raises:
        ArtifactError: The hub refused it or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    read_manifest(folder, KIND)
    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"msd-deploy {__version__}",
            delete_patterns=[*(f"{target}/*" for target in FORMATS), "parity/*", *_SHARED],
        )
    except Exception as error:  # of the hub, and of the library below it for the network
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"cannot be uploaded to {repository} ({reason})",
            where=folder,
            fix="Check the network, log in with `hf auth login` or set HF_TOKEN, and push again",
        ) from error
    return str(commit.commit_url)


def _copy(export: ExportFolder, building: Path) -> None:
    """Copy a model and how it was verified; what all exports share is one file."""
    for path in (export.folder, *export.folder.rglob("*")):
        if path.is_symlink():
            raise ArtifactError("is a link", where=path, fix="Put what it points to in its place")
    model, files = FORMATS[export.target].model_file, export.manifest["files"]
    assert isinstance(files, dict)  # it was verified
    for name in files:
        if name == model or name.startswith(f"{model}/"):
            copy = building / (hub_path(export) + name.removeprefix(model))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(export.folder / name, copy)
    if (export.folder / END_TO_END_NAME).is_file():
        name = Path(hub_path(export)).stem.replace("model", "end_to_end")
        shutil.copyfile(export.folder / END_TO_END_NAME, building / "onnx" / f"{name}.onnx")
    (building / "parity").mkdir(exist_ok=True)
    shutil.copyfile(export.folder / PARITY_NAME, building / "parity" / f"{export.name}.json")
    for name in _SHARED:
        path, shared = export.folder / name, building / name
        if not path.is_file():
            continue
        if shared.is_file() and shared.read_bytes() != path.read_bytes():
            raise ArtifactError(
                "differs from that of another export", where=path, fix="Export both again"
            )
        shutil.copyfile(path, shared)


def _words(exports: Sequence[ExportFolder], on_note: Callable[[str], None]) -> str:
    """Return intended use and limits of the exports' cards: the first that are filled in."""
    words = {
        export.name: owners_words(export.folder / CARD_NAME) or TO_FILL_IN for export in exports
    }
    filled = {name: text for name, text in words.items() if text != TO_FILL_IN}
    if len(set(filled.values())) > 1:
        first, *others = filled
        on_note(
            f"the model cards of {', '.join(others)} say something else than that of {first}, which"
            " is used"
        )
    return next(iter(filled.values()), TO_FILL_IN)


def _card(
    exports: Sequence[ExportFolder],
    repository: str,
    facts: Mapping[str, Any],
    data: Mapping[str, Any],
) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    stated = read_json(exports[0].folder / LABELS_NAME)
    labels: list[str] = stated["labels"]  # type: ignore[assignment]  # it was verified
    reports: dict[str, Any] = {
        export.name: read_json(export.folder / PARITY_NAME) for export in exports
    }
    first = reports[exports[0].name]
    name = plain(repository.rpartition("/")[2])
    targets = dict.fromkeys(export.target for export in exports)
    card = ModelCard.from_template(
        ModelCardData(
            model_name=name,
            metrics=[str(first["metric"])],
            tags=["image-text-classification", "msd-deploy", *targets],
            **data,
        ),
        template_path=str(_TEMPLATE),
        model_name=name,
        classes=len(labels),
        problem=PROBLEMS[stated["problem"]],  # type: ignore[index]  # it was verified
        labels=label_list(labels),
        version=__version__,
        metric=metric_of(first),
        dataset_digest=exports[0].manifest["dataset_digest"],
        source_digest=exports[0].manifest["source_digest"],
        files=[_row(export, reports[export.name]) for export in exports],
        notes=[
            *_betas(exports),
            *dict.fromkeys(note for report in reports.values() for note in report["notes"]),
        ],
        confidence=[_errors(export, reports[export.name]) for export in exports],
        rule=_rule(stated),
        **facts,
    )
    return str(card.content).rstrip() + "\n"


def _betas(exports: Sequence[ExportFolder]) -> list[str]:
    """Return a sentence for each model that other versions of its runtime may not load."""
    return [
        f"`{hub_path(export)}`: {FORMATS[export.target].title} is in beta. It was written by"
        f" {plain(str(export.manifest.get('made_with')))}; other versions may not load it."
        for export in exports
        if FORMATS[export.target].is_beta
    ]


def _rule(labels: Json) -> str:
    point = labels.get("operating_point")
    return str(point["rule"]) if isinstance(point, dict) else ""


def _errors(export: ExportFolder, report: Any) -> tuple[str, ...]:
    """Return the path and the expected calibration error of each view."""
    views = report["views"]
    errors = [
        confidence_row(view, views[view]["confidence"])[-1] if view in views else ""
        for view in ("multimodal", "image", "text")
    ]
    return (f"`{hub_path(export)}`", *errors)


def _row(export: ExportFolder, report: Any) -> tuple[str, ...]:
    views = report["views"]
    scores = [
        percent(views[view]["export"]) if view in views else ""
        for view in ("multimodal", "image", "text")
    ]
    equal = f"{views['multimodal']['agreement']:.2%}"
    examples = f"{views['multimodal']['export']['examples']:,}"
    return (f"`{hub_path(export)}`", *scores, equal, examples, f"{export.size_bytes():,}")
