import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.images import load_pixels
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer
from msd_deploy.data.resize import ImageSpec
from msd_deploy.errors import ExportError, ParityError, RuntimeUnavailableError
from msd_deploy.models.folders import load_classifier
from msd_deploy.problem import Problem
from msd_deploy.run.record import data_of_run, read_run, source_of_run
from msd_deploy.temperatures import Temperatures
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.onnx import end_to_end
from msd_export.onnx.end_to_end import (
    END_TO_END_NAME,
    EndToEndPredictor,
    check_end_to_end,
    require_end_to_end,
    write_end_to_end,
)
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.onnx.preprocessing import (
    CONTRIB_DOMAIN,
    EXTENSIONS_DOMAIN,
    NOT_DECODED,
    NOT_RGB,
    GraphBuilder,
    add_image,
    add_text,
)
from msd_export.parity import predict_every_view
from msd_export.pipeline import export_student
from msd_export.signature import ModelSignature
from tests.checkpoints import byte_pairs

onnxruntime = pytest.importorskip("onnxruntime")
extensions = pytest.importorskip("onnxruntime_extensions")

TEXTS = ["look the guests came", "a red circle on the left", "two blue squares at night"]
Run = Callable[..., dict[str, Any]]


def session_of(graph: GraphBuilder, inputs: list[Any], outputs: dict[str, int]) -> Run:
    """Return a function that runs a graph."""
    values = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    whole = helper.make_graph(graph.nodes, "g", inputs, values, graph.initializers)
    opsets = [("", 20), (CONTRIB_DOMAIN, 1), (EXTENSIONS_DOMAIN, 1)]
    model = helper.make_model(
        whole, opset_imports=[helper.make_opsetid(*opset) for opset in opsets], ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(extensions.get_library_path())
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def run(**feed: Any) -> dict[str, Any]:
        return dict(zip(outputs, session.run(list(outputs), feed), strict=True))

    return run


def image_graph(spec: ImageSpec) -> Callable[[bytes], tuple[Any, int]]:
    graph = GraphBuilder("pre")
    add_image(graph, spec)
    inputs = [helper.make_tensor_value_info("image_bytes", TensorProto.UINT8, ["n"])]
    outputs = {"image": TensorProto.UINT8, "image_present": TensorProto.INT32}
    run = session_of(graph, inputs, outputs)

    def pixels(encoded: bytes) -> tuple[Any, int]:
        found = run(image_bytes=np.frombuffer(encoded, np.uint8))
        return found["image"], int(found["image_present"][0])

    return pixels


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def gradient(height: int, width: int) -> Image.Image:
    down, across = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([across * 5, down * 5, across + down], -1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["fit", "crop"])
def test_pixels_are_ours_to_one_step(mode: Any) -> None:
    spec = ImageSpec((48, 40), mode)
    pixels = image_graph(spec)
    for height, width in [(100, 50), (50, 100), (200, 300), (48, 40), (20, 30), (97, 51), (3, 90)]:
        png = encoded(noise(height, width))
        found, present = pixels(png)
        ours = load_pixels(png, spec)
        difference = np.abs(found[0].astype(int) - ours)
        assert difference.max() <= 1
        # Up to 2.4 % were measured, where a small picture is enlarged.
        assert (difference > 0).mean() < 0.05
        assert present == 1


def test_no_bytes_are_no_image() -> None:
    found, present = image_graph(ImageSpec((8, 8)))(b"")
    assert present == 0
    assert found.shape == (1, 8, 8, 3)
    assert not found.any()


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "I;16"])
def test_other_kinds_of_png_are_ours(mode: str) -> None:
    spec = ImageSpec((20, 30))
    image = gradient(20, 30)
    if mode == "I;16":
        png = encoded(Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257))
    else:
        png = encoded(image.quantize(16) if mode == "P" else image.convert(mode))
    np.testing.assert_array_equal(image_graph(spec)(png)[0][0], load_pixels(png, spec))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_differ_by_their_decoder_alone(mode: str) -> None:
    spec = ImageSpec((40, 40))
    jpeg = encoded(gradient(40, 40).convert(mode), "JPEG", quality=90)
    difference = np.abs(image_graph(spec)(jpeg)[0][0].astype(int) - load_pixels(jpeg, spec))
    assert difference.max() <= 12
    assert difference.mean() < 2


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (encoded(gradient(20, 20), "WEBP"), NOT_DECODED),
        (b"GIF89a and so on", NOT_DECODED),
        (encoded(gradient(20, 20).convert("CMYK"), "JPEG"), NOT_RGB),
        (encoded(gradient(20, 20))[:60], "DecodeImage"),
    ],
)
def test_what_is_not_decoded_is_an_error_and_no_crash(picture: bytes, message: str) -> None:
    """DecodeImage itself would end the process over a WEBP."""
    with pytest.raises(Exception, match=message):
        image_graph(ImageSpec((8, 8)))(picture)


def test_a_jpeg_that_is_cut_short_is_decoded_as_far_as_it_goes() -> None:
    """DecodeImage itself waits forever for its end; what is missing becomes grey."""
    jpeg = encoded(noise(64, 64), "JPEG")
    found, present = image_graph(ImageSpec((8, 8)))(jpeg[: len(jpeg) // 2])
    assert present == 1
    assert found.std() > 0


def test_orientation_and_transparency_are_ignored() -> None:
    """The known differences: a phone's upright photo lies on its side, what is clear is seen."""
    spec = ImageSpec((20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(gradient(20, 20), exif=exif)
    upright = encoded(gradient(20, 20))
    pixels = image_graph(spec)
    np.testing.assert_array_equal(pixels(turned)[0], pixels(upright)[0])
    assert not np.array_equal(load_pixels(turned, spec), load_pixels(upright, spec))
    clear = gradient(20, 20).convert("RGBA")
    clear.putalpha(0)
    np.testing.assert_array_equal(pixels(encoded(clear))[0], pixels(upright)[0])
    assert (load_pixels(encoded(clear), spec) == 255).all()


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    return build_preprocessor(
        train_tokenizer([*TEXTS, "the quick brown fox jumps over lazy dogs"], vocabulary_size=200),
        ImageSpec((48, 48)),
        max_length=12,
    )


@pytest.fixture(scope="module")
def tokens(preprocessor: Preprocessor) -> Callable[[str], tuple[Any, Any]]:
    graph = GraphBuilder("pre")
    add_text(graph, preprocessor)
    inputs = [helper.make_tensor_value_info("text", TensorProto.STRING, [1])]
    outputs = dict.fromkeys(("input_ids", "attention_mask"), TensorProto.INT32)
    run = session_of(graph, inputs, outputs)

    def of(text: str) -> tuple[Any, Any]:
        found = run(text=np.array([text], object))
        return found["input_ids"], found["attention_mask"]

    return of


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS,
        "",
        " \t ",
        "Héllo, WORLD!",
        "don't stop-it (now)",
        "a [SEP] b [CLS] [PAD]",
        "look\tthe\nguests\u00a0came",
        "la" * 60,
        "e\u0301a",
        "the quick brown fox jumps over lazy dogs " * 3,
    ],
)
def test_tokens_are_ours(
    preprocessor: Preprocessor, tokens: Callable[[str], tuple[Any, Any]], text: str
) -> None:
    ids, mask = tokens(text)
    our_ids, our_mask = preprocessor.tokens([text])
    np.testing.assert_array_equal(mask, our_mask)
    np.testing.assert_array_equal(ids * mask, our_ids * our_mask)


def test_a_word_with_an_unknown_letter_keeps_its_first_pieces(
    preprocessor: Preprocessor, tokens: Callable[[str], tuple[Any, Any]]
) -> None:
    """The known difference: our tokenizer makes the whole word one [UNK]."""
    unknown = preprocessor.tokenizer.token_to_id("[UNK]")
    ours, theirs = preprocessor.tokens(["quickж"])[0][0], tokens("quickж")[0][0]
    assert ours[1] == unknown
    assert theirs[1] != unknown
    assert unknown in theirs


def test_another_kind_of_tokenizer_is_refused() -> None:
    other = build_preprocessor(
        byte_pairs(),
        ImageSpec((32, 32)),
        max_length=8,
        pad_token="<|endoftext|>",
        absent_token="<|startoftext|>",
    )
    with pytest.raises(ExportError, match="requires a BERT WordPiece tokenizer"):
        require_end_to_end(other)


@pytest.fixture(scope="module")
def exported(finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX export with its end-to-end file; read it only."""
    root = tmp_path_factory.mktemp("end") / "run"
    run = RunDirectory(Path(shutil.copytree(finished_run.root, root)))
    config = ExportConfig((("onnx", "fp32"),), max_drop_points=100, examples=40, end_to_end=True)
    return export_student(run, config)[0].folder


def test_the_file_equals_the_plain_model_on_the_test_split(exported: Path) -> None:
    stated: Any = read_json(exported / "parity.json")["end_to_end"]
    assert stated["examples"] == 40
    assert stated["left_out"] == stated["turned_by_exif"] == stated["transparent"] == 0
    assert stated["views"].keys() == {view.value for view in View}
    # Generated pictures are PNGs of the model's own size and texts are of known letters.
    assert max(view["max_abs_error"] for view in stated["views"].values()) < 1e-4
    files: Any = read_json(exported / "manifest.json")["files"]
    assert END_TO_END_NAME in files


@pytest.mark.parametrize(("has_image", "has_text"), [(True, True), (True, False), (False, True)])
def test_one_example_gives_the_plain_models_logits(
    exported: Path, has_image: bool, has_text: bool
) -> None:
    preprocessor = Preprocessor.load(exported)
    image = encoded(gradient(60, 90)) if has_image else b""
    text = TEXTS[0] if has_text else ""
    labels, logits, _ = EndToEndPredictor(exported / END_TO_END_NAME).predict(image, text)
    input_ids, attention_mask = preprocessor.tokens([text])
    pixels = preprocessor.pixels(image) if has_image else np.zeros((48, 48, 3), np.uint8)
    inputs = {
        "image": pixels[None],
        "image_present": np.array([has_image], np.int32),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
    }
    expected = OnnxPredictor(exported / "model.onnx").predict(inputs)[0]
    np.testing.assert_allclose(logits, expected, atol=0.05)  # a step of 255 in some pixels
    names: Any = read_json(exported / "labels.json")["labels"]
    assert labels == [names[int(logits.argmax())]]


@pytest.mark.parametrize(
    ("problem", "decided"), [("multi_label", ["a", "c"]), ("soft_label", ["c"])]
)
def test_labels_are_decided_as_the_problem_requires(
    preprocessor: Preprocessor, tmp_path: Path, problem: Problem, decided: list[str]
) -> None:
    """A model that answers always the same."""
    logits = np.array([[1.0, -1.0, 2.0]], np.float32)
    graph = GraphBuilder("model")
    graph.named(graph.constant(logits, np.float32), "logits")
    graph.named(graph.constant(1 / (1 + np.exp(-logits)), np.float32), "probabilities")
    constant = helper.make_graph(graph.nodes, "g", [], [], graph.initializers)
    model = helper.make_model(constant, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    signature = ModelSignature((48, 48), 12, ("a", "b", "c"), problem)
    write_end_to_end(tmp_path / "model.onnx", preprocessor, signature, tmp_path / "end.onnx")
    assert EndToEndPredictor(tmp_path / "end.onnx").predict(b"", "x")[0] == decided


def test_the_file_runs_in_a_fresh_process_with_two_libraries(exported: Path) -> None:
    code = (
        "import sys, json, numpy as np, onnxruntime as ort\n"
        "from onnxruntime_extensions import get_library_path\n"
        "options = ort.SessionOptions()\n"
        "options.register_custom_ops_library(get_library_path())\n"
        "session = ort.InferenceSession(sys.argv[1], options)\n"
        "feed = {'image_bytes': np.zeros(0, np.uint8), 'text': np.array(['look'], object)}\n"
        "print(json.dumps(session.run(['labels'], feed)[0].tolist()))\n"
    )
    command = [sys.executable, "-c", code, str(exported / END_TO_END_NAME)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)[0] in ("benign", "hateful")


def test_a_file_that_decides_otherwise_is_refused(
    exported: Path, finished_run: RunDirectory
) -> None:
    """Against a plain model of the opposite opinion."""
    rows = data_of_run(read_run(finished_run), Preprocessor.load(exported)).splits["test"].head(8)
    answers = predict_every_view(OnnxPredictor(exported / "model.onnx"), rows)
    opposite = {view: -logits for view, logits in answers.items()}
    source = source_of_run(read_run(finished_run))
    student = load_classifier(finished_run.student)
    with pytest.raises(ParityError, match=r"end_to_end\.onnx \(test images: 0 rotated by EXIF"):
        check_end_to_end(exported / END_TO_END_NAME, opposite, rows, source, student)
    assert student.temperatures.is_fitted
    other = Temperatures(dict.fromkeys(View, 0.3), dict.fromkeys(View, 100))
    with pytest.raises(ParityError, match="its probabilities differ by up to"):
        check_end_to_end(
            exported / END_TO_END_NAME, answers, rows, source, replace(student, temperatures=other)
        )


def test_a_missing_library_is_named_before_any_work(
    preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end_to_end.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match=r'pip install "msd-deploy\[extensions\]"'):
        require_end_to_end(preprocessor)


def test_it_needs_an_onnx_variant(tmp_path: Path) -> None:
    line = ["export", str(tmp_path), "--target", "coreml", "--end-to-end"]
    answer = CliRunner(env={"COLUMNS": "100"}).invoke(app, line)
    assert answer.exit_code == 2
    assert "--end-to-end: requires the target onnx" in answer.stderr
