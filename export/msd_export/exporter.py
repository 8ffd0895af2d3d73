"""Exporter: convert a model to each variant, verify it, and write the export folder.

A variant beyond its tolerance is converted again with layers in higher precision where its target
can; see `mixed_precision`. What is written when, and errors of several variants: `pipeline`.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import CARD_NAME, Json, write_json, write_manifest
from msd_deploy.artifacts.write_errors import check_room
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.errors import ArtifactError, ExportError, ParityError
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import LogitArray, LogitsByView
from msd_deploy.models.folders import LABELS_NAME
from msd_deploy.temperatures import CALIBRATION_NAME
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.converters import Converter, converter_for
from msd_export.folder import KIND, PARITY_NAME, ExportFolder
from msd_export.formats import (
    FORMATS,
    PRECISIONS,
    Precision,
    Target,
    Variant,
    made_with,
    needing,
    variant_name,
    versions_of,
)
from msd_export.mixed_precision import Sensitivity, measure_sensitivity, mixes
from msd_export.onnx.end_to_end import END_TO_END_NAME, check_end_to_end, write_end_to_end
from msd_export.parity import (
    ViewParity,
    compare_logits,
    notes_on_source,
    predict_every_view,
    predict_split,
)
from msd_export.predictors import TorchPredictor, open_predictor, second_predictor
from msd_export.provenance.model_card import owners_words, write_model_card
from msd_export.signature import TEXT_ENTRY, ModelInputs, Predictor, single_examples
from msd_export.source import ExportSource
from msd_export.tolerance import (
    Gate,
    check_cut,
    check_parity,
    parity_as_json,
    second_runtime_as_json,
    uncertain_losses,
)

# Conversions keep an intermediate file beside what they write.
_FILES_OF_WEIGHTS = 2


class Exporter:
    """Exports one model; conversions and the source's logits are made once for all variants.

    Args:
        source: The model.
        config: Which variants, and how strictly they are verified.
        hooks: Progress.
    """

    def __init__(self, source: ExportSource, config: ExportConfig, hooks: StageHooks) -> None:
        self.source, self.config, self.hooks = source, config, hooks
        self.loaded = source.loaded
        self._converters: dict[Target, Converter] = {}
        self._source_logits: dict[str, LogitsByView] = {}
        self._cut_parity: dict[View, ViewParity] | None = None
        self._mixes: dict[tuple[Precision, tuple[str, ...]], tuple[Sensitivity, int]] = {}

    def export(self, variant: Variant, parent: Path) -> ExportFolder:
        """Convert, verify and keep one variant.

        Raises:
            ArtifactError: The model card of the export that is replaced cannot be kept.
            RuntimeUnavailableError: What the target needs is not installed.
            ExportError: The converter failed.
            ParityError: The variant is beyond its tolerance, and is not written.
        """
        final = parent / variant_name(variant)
        words = owners_words(final / CARD_NAME)
        with needing(variant[0]), new_folder(final) as building, self._naming_full_disks(building):
            report, logits = self._make(variant, building)
            if self.config.end_to_end and variant[0] == "onnx":
                report = {**report, "end_to_end": self._end_to_end(building, logits)}
            manifest = self._complete(building, variant, report, words=words)
        if FORMATS[variant[0]].is_beta:
            self.hooks.on_note(
                f"{variant_name(variant)}: {FORMATS[variant[0]].title} is a beta, and may not load"
                f" in other versions what {made_with(variant[0])} wrote"
            )
        return ExportFolder(final, *variant, manifest)

    @contextmanager
    def _naming_full_disks(self, building: Path) -> Iterator[None]:
        """Raise the system's own error where a conversion fails and its files cannot be written.

        ONNX Runtime reports neither a full disk nor a limit of file sizes: it writes a part.
        """
        try:
            yield
        except ParityError:
            raise
        except (ExportError, ArtifactError) as error:
            size_bytes = _FILES_OF_WEIGHTS * sum(
                tensor.nbytes for tensor in self.loaded.model.state_dict().values()
            )
            try:
                check_room(building, size_bytes)
                check_room(self.source.scratch, size_bytes)
            except OSError:  # perhaps not the only reason
                self.hooks.on_note(f"the conversion ended with: {error.what}")
                raise
            raise

    def _make(self, variant: Variant, building: Path) -> tuple[Json, LogitsByView]:
        """Write the model's file; return parity.json, and its logits on the test split."""
        target, precision = variant
        self.hooks.on_stage(f"Converting to {variant_name(variant)}")
        converter = self._converter(target)
        path = building / FORMATS[target].model_file
        converter.convert(precision, path)
        facts = self._described(converter, precision, path)
        try:
            return self._verify(variant, building, facts)
        except ParityError as error:
            if not converter.groups(precision):
                raise
            retry = f"retrying with layers kept in {PRECISIONS[precision].kept_as}"
            self.hooks.on_note(f"{variant_name(variant)}: {error.what}; {retry}")
            return self._mix(variant, building, converter, error)

    def _described(self, converter: Converter, precision: Precision, path: Path) -> Json:
        """Return what a written file holds, for parity.json under "conversion"."""
        facts = converter.describe(precision, path)
        return {**facts, "vocabulary": self._vocabulary()} if self.source.uncut else facts

    def _vocabulary(self) -> Json:
        """Return what cutting the vocabulary changes on the test split, within --max-drop."""
        uncut = self.source.uncut
        assert uncut is not None
        if self._cut_parity is None:
            rows = self._head_of(uncut.data, "test")
            whole = self._predict(TorchPredictor(uncut.loaded, threads=1), "whole vocabulary", rows)
            self._cut_parity = self._compared(self._source("test"), whole, rows)
        check_cut(self._cut_parity, self.config.max_drop_points / 100)
        views = {view.value: result.as_json() for view, result in self._cut_parity.items()}
        return {**(self.source.vocabulary or {}), "views": views}

    def _mix(
        self, variant: Variant, building: Path, converter: Converter, error: ParityError
    ) -> tuple[Json, LogitsByView]:
        """Keep ever more layers in higher precision until the gate holds; return as `_make`."""
        target, precision = variant
        path = building / FORMATS[target].model_file
        groups = converter.groups(precision)
        if (precision, groups) not in self._mixes:
            self._mixes[precision, groups] = (self._sensitivity(variant, converter), 0)
        sensitivity, enough = self._mixes[precision, groups]
        tried_on_test = 0
        for kept in mixes(sensitivity):
            if len(kept) < enough:
                continue
            converter.convert(precision, path, kept=kept)
            facts = self._described(converter, precision, path)
            mixed: Json = {
                "kept": list(kept),
                "kept_as": PRECISIONS[precision].kept_as,
                "sensitivity": sensitivity.as_json(),
            }
            try:
                self._compare_in_every_runtime(variant, building, "validation")
                tried_on_test += 1
                mixed["judged_on_test"] = tried_on_test
                verified = self._verify(variant, building, facts | {"mixed": mixed})
            except ParityError as another:
                error = another
                continue
            self._mixes[precision, groups] = (sensitivity, len(kept))
            self.hooks.on_note(
                f"{variant_name(variant)}: {len(kept)} of {len(groups)} layer groups are kept in"
                f" {PRECISIONS[precision].kept_as}: {', '.join(kept)}"
            )
            return verified
        raise ParityError(
            f"{error.what}, even with all but one of {len(groups)} layer groups in"
            f" {PRECISIONS[precision].kept_as}; most sensitive when quantized alone:"
            f" {sensitivity.summary()}",
            where=error.where,
            fix=error.fix,
        )

    def _sensitivity(self, variant: Variant, converter: Converter) -> Sensitivity:
        precision = variant[1]
        examples = self.source.calibration()
        self.hooks.on_stage(f"Measuring the sensitivity of each layer group to {precision}")
        folder = self.source.scratch / f"sensitivity-{variant_name(variant)}"
        folder.mkdir(exist_ok=True)
        return measure_sensitivity(
            converter,
            precision,
            scratch=folder / FORMATS[variant[0]].model_file,
            predict=lambda path: _predict_one_by_one(
                open_predictor(variant[0], path, threads=1), examples
            ),
            problem=self.loaded.problem,
            on_count=lambda done, total: self.hooks.on_count("layer groups", done, total),
        )

    def _verify(self, variant: Variant, building: Path, facts: Json) -> tuple[Json, LogitsByView]:
        """Verify a written variant on the test split; return as `_make`."""
        split = self._split("test")
        self.hooks.on_stage(f"Verifying {variant_name(variant)} on {len(split)} test examples")
        report, logits = self._compare_in_every_runtime(variant, building, "test")
        return {**report, "conversion": facts}, logits

    def _compare_in_every_runtime(
        self, variant: Variant, building: Path, split_name: str
    ) -> tuple[Json, LogitsByView]:
        """Compare a written variant with the source on a split, in every runtime available here."""
        path, split = building / FORMATS[variant[0]].model_file, self._split(split_name)
        predictor = open_predictor(variant[0], path, threads=1)
        gate = Gate(variant, self.config.max_drop_points / 100, self.config.examples)
        exported, parity = self._compare(predictor, gate, split_name)
        report = parity_as_json(
            parity,
            gate,
            runtime=predictor.runtime,
            problem=self.loaded.problem,
            notes=(
                *notes_on_source(self._source(split_name), split, self.loaded.problem),
                *uncertain_losses(parity, gate),
            ),
        )
        if self.source.has_text_entry(variant[0]):
            entry = predictor.text_entry
            if entry is None:
                raise ParityError(f"has no entry point {TEXT_ENTRY}", where=path)
            result = self._compare_text_entry(entry, gate, exported, split_name)
            report = {**report, "entry_points": {TEXT_ENTRY: result.as_json()}}
        second = second_predictor(variant[0], path)
        if second is None:
            return report, exported
        logits, parity = self._compare(second, gate, split_name)
        other = second_runtime_as_json(parity, logits, exported, runtime=second.runtime)
        return {**report, "second_runtime": other}, exported

    def _compare(
        self, predictor: Predictor, gate: Gate, split_name: str
    ) -> tuple[LogitsByView, dict[View, ViewParity]]:
        """Return a predictor's logits and their comparison with the source, within the gate."""
        split = self._split(split_name)
        exported = self._predict(predictor, variant_name(gate.variant), split)
        parity = self._compared(exported, self._source(split_name), split)
        check_parity(parity, gate)
        return exported, parity

    def _compare_text_entry(
        self, entry: Predictor, gate: Gate, exported: LogitsByView, split_name: str
    ) -> ViewParity:
        """Return the comparison of the entry point for a text alone, within the gate."""
        split = self._split(split_name)
        of_text = {**exported, View.TEXT: predict_split(entry, split, View.TEXT)}
        result = self._compared(of_text, self._source(split_name), split)[View.TEXT]
        try:
            check_parity({View.TEXT: result}, gate)
        except ParityError as error:
            what = f"through the entry point {TEXT_ENTRY}, {error.what}"
            raise ParityError(what, where=error.where, fix=error.fix) from error
        return result

    def _compared(
        self, exported: LogitsByView, source: LogitsByView, split: PreparedSplit
    ) -> dict[View, ViewParity]:
        """Compare logits at the model's temperatures and operating point."""
        loaded = self.loaded
        return compare_logits(
            exported,
            source,
            split,
            loaded.problem,
            temperatures=loaded.temperatures,
            point=loaded.operating_point,
        )

    def _end_to_end(self, building: Path, plain: LogitsByView) -> Json:
        """Write the file with preprocessing inside, and compare it with the plain one."""
        assert self.source.raw is not None  # only an export for benchmarks lacks it
        path, split = building / END_TO_END_NAME, self._split("test")
        self.hooks.on_stage(f"Verifying {END_TO_END_NAME} on {len(split)} test examples")
        model = building / FORMATS["onnx"].model_file
        write_end_to_end(model, self.loaded.preprocessor, self.source.signature, path)
        return check_end_to_end(path, plain, split, self.source.raw, self.loaded)

    def _converter(self, target: Target) -> Converter:
        if target not in self._converters:
            self._converters[target] = converter_for(target, self.source)
        return self._converters[target]

    def _split(self, name: str) -> PreparedSplit:
        return self._head_of(self.source.data, name)

    def _head_of(self, data: PreparedData, name: str) -> PreparedSplit:
        split = data.splits[name]
        return split.head(self.config.examples or len(split))

    def _source(self, split: str) -> LogitsByView:
        """Return the source's logits; at the first call, note what weakens a comparison."""
        if split not in self._source_logits:
            source, rows = TorchPredictor(self.loaded, threads=1), self._split(split)
            self._source_logits[split] = logits = self._predict(source, "source", rows)
            if split == "test":
                for note in notes_on_source(logits, rows, self.loaded.problem):
                    self.hooks.on_note(note)
        return self._source_logits[split]

    def _predict(self, predictor: Predictor, name: str, split: PreparedSplit) -> LogitsByView:
        what = f"examples through {predictor.runtime} ({name})"
        return predict_every_view(
            predictor,
            split,
            on_count=lambda done, total: self.hooks.on_count(what, done, total),
        )

    def _complete(
        self, building: Path, variant: Variant, report: Json, *, words: str | None
    ) -> Json:
        """Add what an app needs beside the model, and the manifest last; return the manifest."""
        self.loaded.preprocessor.save(building)
        shutil.copyfile(self.loaded.folder / LABELS_NAME, building / LABELS_NAME)
        if self.loaded.temperatures.is_fitted:
            write_json(building / CALIBRATION_NAME, self.loaded.temperatures.as_json())
        write_json(building / PARITY_NAME, report)
        write_model_card(building, self.source, variant, report, words=words)
        facts: Json = {
            "target": variant[0],
            "precision": variant[1],
            "signature": self.source.signature.as_json(
                variant[0], has_text_entry=self.source.has_text_entry(variant[0])
            ),
            "source_digest": self.loaded.digest,
            "dataset_digest": self.source.data.digest,
            "made_with": versions_of(variant[0]),
        }
        return write_manifest(building, KIND, facts)


def _predict_one_by_one(predictor: Predictor, inputs: ModelInputs) -> LogitArray:
    """Return the logits of a batch of inputs, predicted one example at a time."""
    return np.concatenate([predictor.predict(example) for example in single_examples(inputs)])
