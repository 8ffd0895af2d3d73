"""A student in all precisions of Core ML: what is stored, how large, and how it answers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd_deploy.artifacts.manifest import Json, digests_of_folder
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ExportError
from msd_deploy.models.folders import load_model
from msd_deploy.run.record import data_of_run, read_run
from msd_export.coreml import converter as converter_module
from msd_export.coreml.calibration import measure_ranges
from msd_export.coreml.converter import CoreMLConverter
from msd_export.coreml.mil.evaluator import MilEvaluator
from msd_export.coreml.package import WEIGHTS_PATH, read_spec
from msd_export.coreml.predictor import MilPredictor
from msd_export.coreml.spec import count_integer_operations, operations_of, read_names
from msd_export.formats import FORMATS, Precision
from msd_export.parity import compare_logits, predict_every_view
from msd_export.predictors import TorchPredictor
from msd_export.signature import single_example
from msd_export.source import ExportSource
from tests.export.conftest import DECIDED_ROWS
from tests.export.written_forms import write_form, write_forms

pytestmark = pytest.mark.slow

PRECISIONS = FORMATS["coreml"].precisions
# Of how much the logits vary, twice what was measured here: .0000, .0027, .025, .096, .25, .108.
MOST_DRIFT: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 0.006,
    "int8": 0.05,
    "pal6": 0.2,
    "pal4": 0.5,
    "w8a8": 0.22,
}


@pytest.fixture(scope="module")
def source(decided_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    loaded = load_model(decided_run.student)
    data = data_of_run(read_run(decided_run), loaded.preprocessor)
    return ExportSource(loaded, data, "memes", tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def written(
    source: ExportSource, tmp_path_factory: pytest.TempPathFactory
) -> dict[Precision, tuple[Path, Json]]:
    """Each precision's package and facts."""
    folder = tmp_path_factory.mktemp("written")
    paths = {precision: folder / f"written-{precision}.mlpackage" for precision in PRECISIONS}
    return write_forms(CoreMLConverter(replace(source, scratch=folder)), paths)


Written = dict[Precision, tuple[Path, Json]]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_package_gives_the_logits_of_its_source(
    written: Written, source: ExportSource, precision: Precision
) -> None:
    rows = source.data.splits["test"].head(DECIDED_ROWS)
    expected = predict_every_view(TorchPredictor(source.loaded.folder), rows)
    found = predict_every_view(MilPredictor(written[precision][0]), rows)
    parity = compare_logits(found, expected, rows, "single_label")
    assert max(view.drift for view in parity.values()) < MOST_DRIFT[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("image_present", "tokens"),
    [(0, 0), (1, 0), (0, 1), (1, 1), (0, 16)],
    ids=["nothing", "picture, no token", "no text", "picture alone", "text alone"],
)
def test_rows_without_a_modality_stay_finite(
    written: Written, precision: Precision, image_present: int, tokens: int
) -> None:
    row = {
        "image": np.full((1, 48, 48, 3), 255 * image_present, np.uint8),
        "image_present": np.array([image_present], np.int32),
        "input_ids": np.ones((1, 16), np.int32),
        "attention_mask": (np.arange(16) < tokens)[None].astype(np.int32),
    }
    outputs = MilEvaluator.load(written[precision][0]).run(row)
    assert all(np.isfinite(values).all() for values in outputs.values())


def test_facts_state_how_weights_are_stored(written: Written) -> None:
    kinds: dict[Precision, Any] = {name: facts["weights"] for name, (_, facts) in written.items()}
    assert kinds["fp32"].keys() == {"fp32"}
    assert kinds["fp16"].keys() == {"fp16"}
    assert kinds["int8"].keys() == kinds["w8a8"].keys() == {"int8", "fp16"}
    for palette in ("pal6", "pal4"):
        assert kinds[palette].keys() == {palette, "int8", "fp16"}
        assert kinds[palette][palette] > 0.9 * kinds["int8"]["int8"]
    totals = {sum(kind.values()) for kind in kinds.values()}
    assert len(totals) == 1


def test_fewer_bits_make_smaller_weight_files(written: Written) -> None:
    sizes = [
        (written[precision][0] / WEIGHTS_PATH / "weight.bin").stat().st_size
        for precision in ("fp32", "fp16", "int8", "pal6", "pal4")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.25 * sizes[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_phones_that_a_package_needs(written: Written, precision: Precision) -> None:
    """Specification 7 is that of iOS 16, 8 that of iOS 17, which has 8-bit activations."""
    version = read_spec(written[precision][0]).specificationVersion
    assert version == (8 if precision == "w8a8" else 7)


@pytest.mark.parametrize("precision", ["pal4", "w8a8"])
def test_conversion_writes_the_same_bytes_again(
    written: Written, own_source: ExportSource, precision: Precision, tmp_path: Path
) -> None:
    again = tmp_path / "again.mlpackage"
    CoreMLConverter(own_source).convert(precision, again)
    assert digests_of_folder(again) == digests_of_folder(written[precision][0])


@pytest.mark.parametrize("precision", ["pal4", "pal6"])
def test_kept_groups_are_stored_as_int8(
    own_source: ExportSource, precision: Precision, tmp_path: Path
) -> None:
    converter = CoreMLConverter(own_source)
    groups = converter.groups(precision)
    assert {"word_embeddings", "layers.0.attention"} < set(groups)
    path = tmp_path / "model.mlpackage"
    plain, mixed = (
        write_form(converter, precision, path, kept=kept)["weights"]
        for kept in ((), ("word_embeddings",))
    )
    moved = own_source.loaded.model.word_embeddings.weight.numel()
    assert mixed == plain | {  # type: ignore[operator]
        precision: plain[precision] - moved,  # type: ignore[index,call-overload,operator]
        "int8": plain["int8"] + moved,  # type: ignore[index,call-overload,operator]
    }
    with pytest.raises(ExportError, match="left every weight"):
        write_form(converter, precision, path, kept=groups)


def test_kept_groups_compute_on_float_activations(
    written: Written, own_source: ExportSource, tmp_path: Path
) -> None:
    converter = CoreMLConverter(own_source)
    assert {"vision.layers.0", "classifier"} < set(converter.groups("w8a8"))
    path = tmp_path / "mixed.mlpackage"
    facts = write_form(converter, "w8a8", path, kept=["vision.layers.0", "classifier"])
    plain = written["w8a8"][1]
    assert facts["weights"] == plain["weights"]
    fewer: Any = facts["operators"]["int8_activations"]  # type: ignore[index,call-overload]
    more: Any = plain["operators"]["int8_activations"]  # type: ignore[index,call-overload]
    assert (fewer["conv"], fewer["linear"]) == (more["conv"] - 1, more["linear"] - 1)


def test_layers_read_integers_and_additions_of_the_mask_do_not(written: Written) -> None:
    path = written["w8a8"][0]
    counts = count_integer_operations(path)
    operations = list(operations_of(read_spec(path)))
    makers = {operation.outputs[0].name: operation for operation in operations}
    for kind in ("conv", "linear"):
        assert counts[kind] == sum(operation.type == kind for operation in operations) > 0
    attention = [operation for operation in operations if operation.type == "softmax"][:-1]
    assert len(attention) == 2
    for operation in attention:
        masked = makers[operation.inputs["x"].arguments[0].name]
        assert masked.type == "add"
        assert {makers[name].type for name in read_names(masked)} == {"matmul", "expand_dims"}


@pytest.mark.parametrize("precision", ["int8", "pal4", "w8a8"])
def test_what_is_still_float_is_an_error(
    own_source: ExportSource,
    precision: Precision,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quantizer of a coming coremltools that finds nothing to do, as it were."""

    def copy(origin: Path, destination: Path, *others: object, **options: object) -> None:
        shutil.copytree(origin, destination)

    for name in ("quantize_weights_int8", "palettize_weights", "quantize_activations"):
        monkeypatch.setattr(converter_module, name, copy)
    with pytest.raises(ExportError, match=f"{precision} quantization left every weight in float"):
        write_form(CoreMLConverter(own_source), precision, tmp_path / "model.mlpackage")


def test_ranges_are_those_of_all_rows(written: Written, source: ExportSource) -> None:
    """coremltools 9.0 keeps those of the last."""
    package, rows = written["fp16"][0], source.calibration(2)
    both = measure_ranges(package, rows)
    alone = [measure_ranges(package, single_example(rows, row)) for row in range(6)]
    for name, found in both.items():
        assert found["rmin"] == min(one[name]["rmin"] for one in alone)
        assert found["rmax"] == max(one[name]["rmax"] for one in alone)
    assert len({one["logits"]["rmax"] for one in alone}) > 1
