"""Data for a model that does not state its own, as a run does."""

from msd_deploy.data.classes import check_classes, in_classes_of
from msd_deploy.data.hub_dataset import PREFIX
from msd_deploy.data.prepared import PreparedData, notes_of, prepare
from msd_deploy.data.source_types import SourceData, SourceOptions
from msd_deploy.data.sources import kind_of_spec, load_source, load_source_to_judge
from msd_deploy.hooks import StageHooks
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel
from msd_export.opening import OpenedModel


def data_of_model(
    loaded: LoadedModel[ViewClassifier],
    spec: str,
    *,
    options: SourceOptions,
    hooks: StageHooks,
) -> PreparedData:
    """Read and prepare all splits of a data set for a model, in the order of its classes.

    Args:
        loaded: The model and its preprocessing.
        spec: See `load_source`.
        options: How it is read.
        hooks: What watches.

    Raises:
        DataError: It cannot be used, or its classes are not the model's.
    """
    hooks.on_stage(f"Reading {spec}")
    source = source_of_model(loaded, spec, options)
    return prepare_for_model(loaded, source, spec, strict=options.strict, hooks=hooks)


def prepare_for_model(
    model: LoadedModel[ViewClassifier] | OpenedModel,
    source: SourceData,
    spec: str,
    *,
    strict: bool,
    hooks: StageHooks,
) -> PreparedData:
    """Prepare data for a model that was not made from it, in the order of the model's classes.

    Args:
        model: Its preprocessing, classes and problem count.
        source: The data.
        spec: What it is called.
        strict: Unusable rows are an error.
        hooks: What watches.

    Raises:
        DataError: It cannot be used, or its classes are not the model's.
    """
    check_classes(source, model.labels, model.problem, spec)
    data = prepare(
        source,
        model.preprocessor,
        strict=strict,
        on_image=lambda done, total: hooks.on_count("pictures", done, total),
    )
    for note in notes_of(data):
        hooks.on_note(note)
    return in_classes_of(data, model.labels)


def source_of_model(
    loaded: LoadedModel[ViewClassifier], spec: str, options: SourceOptions
) -> SourceData:
    """Read all splits of a data set for a model; see `data_of_model`."""
    if not kind_of_spec(spec) or spec.startswith(PREFIX):
        return load_source(spec, options=options)
    # All splits are read, as there; of VQA v2 the answers that the model knows are the classes.
    return load_source_to_judge(spec, options=options, split="test", labels=loaded.labels)
