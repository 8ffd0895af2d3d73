"""`msd bundle`: a folder for an app's project, with model, code and test vectors.

Beside the code, which is the same for every model, a folder `model/` has all that is read when the
app runs, with a manifest of kind `bundle`; `vectors/` is for tests, and no part of the app.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    CARD_NAME,
    Json,
    digests_of_folder,
    is_folder_of,
    json_text,
    read_json,
    read_manifest,
    sha256_of_json,
    write_manifest,
    write_text,
)
from msd_deploy.artifacts.output import check_output, folder_beside
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.preprocess import PREPROCESS_NAME
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.hooks import StageHooks
from msd_deploy.models.folders import LABELS_NAME
from msd_deploy.run.record import read_finished_run
from msd_export.bundle.text_rules import TEXT_NAME
from msd_export.bundle.vectors_folder import (
    VECTORS_NAME,
    fill_vectors,
    read_examples,
)
from msd_export.folder import KIND as EXPORT_KIND
from msd_export.folder import ExportFolder, open_export, refuse_another_source
from msd_export.formats import FORMATS, PRECISIONS, Precision, Target, variant_name
from msd_export.opened_model import check_has_data, open_model

Platform = Literal["web", "android", "ios"]
KIND = "bundle"
_VECTORS = "vectors"
_TEMPLATES = Path(__file__).parent / "templates"
_RUNTIMES = "runtimes"
_WRITTEN = ".msd-bundle.json"
_SELF_TEST_EXAMPLES = 10
# Probabilities of the same file in another build of its runtime. Float32 is added up in another
# order: 3e-6 was measured in Chromium. Integers are rounded otherwise on other processors: .016.
# Float16 has three decimals, and units that keep sums in it lose more.
_TOLERANCE: Mapping[Precision, float] = {"fp32": 0.001, "fp16": 0.02}
_TOLERANCE_OF_INTEGERS = 0.05


@dataclass(frozen=True, slots=True)
class PlatformForm:
    """What a platform's code runs.

    Attributes:
        targets: Of exports that it reads.
        usual: The variant that is taken unless another is named.
        folder: Of a bundle, with what is read when the app runs.
    """

    targets: tuple[Target, ...]
    usual: tuple[Target, Precision]
    folder: str


PLATFORMS: dict[Platform, PlatformForm] = {
    # int8 saves a twentieth of what an app downloads with the runtime, and is slower there.
    "web": PlatformForm(("onnx",), ("onnx", "fp32"), "model"),
    "ios": PlatformForm(
        ("coreml", "coreai"), ("coreml", "fp16"), "Sources/MsdDeploy/Resources/model"
    ),
    "android": PlatformForm(("onnx", "litert"), ("onnx", "fp32"), "android/src/main/assets/model"),
}


def write_bundle(
    model: Path,
    platform: Platform,
    out: Path,
    *,
    form: str | None = None,
    spec: str | None = None,
    options: SourceOptions | None = None,
    overwrite: bool = False,
    hooks: StageHooks | None = None,
) -> Json:
    """Write a bundle of an export.

    Args:
        model: A run, of whose exports one is taken, or an export folder.
        platform: Where the app runs.
        out: The folder.
        form: Name of the run's export, for example onnx-int8; None: the platform's usual one.
        spec: Data set of the examples that are replayed; None: the run's own.
        options: How it is read.
        overwrite: Replace a bundle.
        hooks: Progress.

    Returns:
        folder, platform, form, and the counts of vectors.

    Raises:
        ArtifactError: The export does not exist, is damaged, or was made from another student; or
            `out` exists.
        ConfigError: The platform does not run the form, or an export folder has no data set.
        DataError: The data cannot be read.
    """
    options, hooks = options or SourceOptions(), hooks or StageHooks()
    check_output(
        out,
        "bundle",
        is_kind=any(is_folder_of(KIND, out / each.folder) for each in PLATFORMS.values()),
        overwrite=overwrite,
        fix="Name another --out, or replace it with --overwrite",
        inputs=[model],
    )
    if out.exists():
        _refuse_own_files(out)
    export = find_export(model, platform, form)
    opened = open_model(export.folder)
    if spec is None:
        check_has_data(model, options)
    examples, spec = read_examples(model, opened, spec, options=options, split="test", hooks=hooks)
    with new_folder(out) as building:
        _copy_code(platform, export.target, building)
        vectors, folder = building / _VECTORS, building / PLATFORMS[platform].folder
        vectors.mkdir()
        facts = {"data": spec, "split": "test"}
        counts = fill_vectors(vectors, opened, examples, facts, hooks, export)
        folder.mkdir(parents=True)
        _fill_model(folder, export, vectors)
        stated: Json = {
            "platform": platform,
            "form": export.name,
            "model": FORMATS[export.target].model_file,
            "export_digest": sha256_of_json(export.manifest),
        }
        if export.target == "coreai":
            stated |= _add_fallback(folder, export, hooks)
        write_manifest(folder, KIND, stated)
        card = export.folder / CARD_NAME
        if card.is_file():
            shutil.copyfile(card, building / CARD_NAME)
        write_text(building / _WRITTEN, json_text(digests_of_folder(building)))
    return {"folder": str(out), "platform": platform, "form": export.name, "vectors": counts}


def _refuse_own_files(bundle: Path) -> None:
    """Check that all files in a folder are as `msd bundle` wrote them, since it is replaced.

    Raises:
        ArtifactError: One was added or altered, or it is unknown which were written.
    """
    listed = bundle / _WRITTEN
    written = read_json(listed) if listed.is_file() else {}
    found = digests_of_folder(bundle)
    found.pop(_WRITTEN, None)
    for name, digest in found.items():
        if written.get(name) != digest:
            raise ArtifactError(
                "was added or changed after msd bundle wrote the folder",
                where=bundle / name,
                fix="Move it away, or name another --out",
            )


def bundle_folder_beside(model: Path, platform: Platform) -> Path:
    """Return the default folder: NAME-PLATFORM beside a run or export."""
    return folder_beside(model, platform)


def find_export(model: Path, platform: Platform, form: str | None) -> ExportFolder:
    """Open the export that a bundle takes, verified against its manifest and its run's student.

    Args:
        model: A run or an export folder.
        platform: Where the app runs.
        form: Name of the run's export; None: the platform's usual one.

    Raises:
        ArtifactError: As `write_bundle`.
        ConfigError: The platform does not run the form, or an export folder was given a form.
    """
    run = RunDirectory(model)
    if not run.run_json.is_file():
        if form is not None:
            raise ConfigError(
                "is for a run, of whose exports it names one", where="--form", fix="Leave it out"
            )
        export = open_export(model)
        _refuse_form(export.name, platform)
        return export
    read_finished_run(run)
    name = form or variant_name(PLATFORMS[platform].usual)
    _refuse_form(name, platform)
    folder = run.exports / name
    if not folder.is_dir():
        target, _, precision = name.partition("-")
        raise ArtifactError(
            "no such export",
            where=folder,
            fix=f"Run msd export {model} --target {target} --precision {precision}",
        )
    export = open_export(folder)
    fix = f"Run msd export {model} --overwrite"
    refuse_another_source(export, "student", read_manifest(run.student, "model"), fix=fix)
    return export


def _refuse_form(name: str, platform: Platform) -> None:
    """Check that a platform runs a form.

    Raises:
        ConfigError: It does not, or there is none of this name.
    """
    forms = [
        variant_name((target, precision))
        for target in PLATFORMS[platform].targets
        for precision in PRECISIONS
        if precision in FORMATS[target].precisions
    ]
    if name not in forms:
        raise ConfigError(
            f"{name!r} does not run on {platform}",
            where="--form",
            fix=f"Use one of {', '.join(forms)}",
        )


def _copy_code(platform: Platform, target: Target, building: Path) -> None:
    """Copy a platform's code; of that for different runtimes, what runs the target."""
    template = _TEMPLATES / platform
    runtimes = template / _RUNTIMES
    ignore = shutil.ignore_patterns(_RUNTIMES)
    shutil.copytree(template, building, dirs_exist_ok=True, ignore=ignore)
    if runtimes.is_dir():
        shutil.copytree(runtimes / target, building / platform, dirs_exist_ok=True)


def _add_fallback(folder: Path, export: ExportFolder, hooks: StageHooks) -> Json:
    """Copy the Core ML package that answers where a system has no Core AI; return its entry."""
    name = variant_name(("coreml", export.precision))
    beside = export.folder.parent / name
    if not is_folder_of(EXPORT_KIND, beside):
        hooks.on_note(
            f"Without {name} beside it, {export.name} answers from iOS 27 on alone: export that"
            " too, and write the bundle again, for older systems."
        )
        return {}
    fallback = open_export(beside)
    if fallback.manifest["source_digest"] != export.manifest["source_digest"]:
        raise ArtifactError(
            "was made from another model than the Core AI asset",
            where=beside,
            fix="Run msd export again with --overwrite for both",
        )
    package = FORMATS["coreml"].model_file
    shutil.copytree(beside / package, folder / package)
    stated: Json = {
        "model": package,
        "form": fallback.name,
        "export_digest": sha256_of_json(fallback.manifest),
    }
    return {"fallback": stated}


def _fill_model(folder: Path, export: ExportFolder, vectors: Path) -> None:
    """Write what an app reads: the model, its labels, its preprocessing, and a short self-test."""
    name = FORMATS[export.target].model_file
    source = export.folder / name
    if source.is_dir():
        shutil.copytree(source, folder / name)
    else:
        shutil.copyfile(source, folder / name)
    shutil.copyfile(export.folder / LABELS_NAME, folder / LABELS_NAME)
    shutil.copyfile(export.folder / PREPROCESS_NAME, folder / PREPROCESS_NAME)
    shutil.copyfile(vectors / TEXT_NAME, folder / TEXT_NAME)
    stated: Any = read_json(vectors / VECTORS_NAME)
    some = stated["examples"][:: -(-len(stated["examples"]) // _SELF_TEST_EXAMPLES)]
    for image in filter(None, (example["image"] for example in some)):
        (folder / image).parent.mkdir(exist_ok=True)
        shutil.copyfile(vectors / image, folder / image)
    short = {
        **{key: stated[key] for key in ("schema_version", "runtime", "texts", "noise")},
        "tolerance": _TOLERANCE.get(export.precision, _TOLERANCE_OF_INTEGERS),
        "examples": some,
    }
    write_text(folder / VECTORS_NAME, json_text(short))
