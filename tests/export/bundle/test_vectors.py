"""The test vectors, computed again by docs/preprocessing.md in plain Python."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from msd_deploy.artifacts.manifest import read_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.images import decode_image
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor
from msd_deploy.errors import ArtifactError, ConfigError
from msd_export.bundle.odd_images import noise_images
from msd_export.bundle.text_rules import text_rules
from msd_export.bundle.vectors import noise_vectors
from msd_export.bundle.vectors_folder import write_vectors
from msd_export.opened_model import open_model
from tests.export.bundle.plain import PlainTokenizer, digest, model_pixels

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of a finished run; read them, never write into them."""
    out = tmp_path_factory.mktemp("bundle") / "vectors"
    counts = write_vectors(finished_run.root, out)
    assert counts == {"texts": 10_000, "noise": 36, "images": 59, "examples": 100, "cases": 0}
    return out


@pytest.fixture(scope="module")
def vectors(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "vectors.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def plain(folder: Path) -> PlainTokenizer:
    return PlainTokenizer(json.loads((folder / "text.json").read_text(encoding="utf-8")))


def test_every_text_has_the_same_identifiers(plain: PlainTokenizer, folder: Path) -> None:
    stated = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    rules, texts = plain.rules, stated["texts"]
    rows = np.full((len(texts), rules["max_length"]), rules["pad_id"], "<i4")
    for row, text in zip(rows, texts, strict=True):
        ids = plain.encode(text)
        row[: len(ids)] = ids
    count = stated["texts_a_digest"]
    parts = range(0, len(texts), count)
    assert [digest(rows[at : at + count].tobytes()) for at in parts] == stated["ids"]
    lines = [" ".join(plain.words(text)) + "\n" for text in texts]
    found = [digest("".join(lines[at : at + count]).encode()) for at in parts]
    assert found == stated["words_of_texts"]


def test_every_character_of_unicode_has_the_same_words(plain: PlainTokenizer, folder: Path) -> None:
    stated = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    count, found, seen = stated["characters_a_digest"], [], 0
    for start in range(0, sys.maxunicode + 1, count):
        numbers = [n for n in range(start, start + count) if not 0xD800 <= n < 0xE000]
        lines = [" ".join(plain.words(f"a{chr(number)}b")) + "\n" for number in numbers]
        found.append(digest("".join(lines).encode()))
        seen += len(numbers)
    assert seen == 1_112_064
    assert found == stated["words"]


def test_texts_in_full_have_the_same_identifiers(
    plain: PlainTokenizer, vectors: dict[str, Any]
) -> None:
    assert len(vectors["texts"]) == 300
    for vector in vectors["texts"]:
        assert plain.words(vector["text"]) == vector["words"], vector["text"]
        assert plain.encode(vector["text"]) == vector["ids"], vector["text"]


def test_marks_move_as_the_tokenizer_moves_them(
    plain: PlainTokenizer, finished_run: RunDirectory
) -> None:
    """Sequences of marks alone, many more than a text of people has."""
    tokenizer = Preprocessor.load(finished_run.student).tokenizer
    chance = np.random.default_rng(0)
    marks = [*plain.places, *plain.rules["barriers"][::7], 0x300, 0x20, 0xFFFD, 0x61, 0x1D15E]
    for _ in range(3000):
        text = "".join(map(chr, chance.choice(marks, 6)))
        expected = tokenizer.normalizer.normalize_str(text)
        assert "".join(map(chr, plain.normalise(text))) == expected, ascii(text)


@pytest.mark.parametrize("mode", ["fit", "crop"])
@pytest.mark.parametrize("size", [(48, 48), (24, 32)])
def test_noise_becomes_the_same_pixels(
    finished_run: RunDirectory, size: tuple[int, int], mode: Any
) -> None:
    whole = Preprocessor.load(finished_run.student)
    preprocessor = replace(whole, image=replace(whole.image, size=size, mode=mode))
    vectors = noise_vectors(preprocessor)
    assert len({str(vector) for vector in vectors}) == len(noise_images(size))
    for vector in vectors:
        expected: Any = vector["model_pixels"]
        assert model_pixels(vector, {"size": size, "mode": mode}) == expected, vector


def test_image_files_are_read_to_the_stated_pixels(folder: Path, vectors: dict[str, Any]) -> None:
    for vector in vectors["images"]:
        with Image.open(folder / vector["file"]) as opened:
            opened.load()
        whole = np.asarray(decode_image(folder / vector["file"]))
        assert whole.shape == (vector["height"], vector["width"], 3)
        assert digest(whole.tobytes()) == vector["pixels"]
    # A lossless picture in RGB is the same in every one of its forms.
    by_name = {Path(vector["file"]).name: vector for vector in vectors["images"]}
    same = ("rgb.png", "orientation-1.png", "gamma.png", "rgb.bmp")
    assert len({by_name[name]["pixels"] for name in same}) == 1
    assert len({by_name[f"orientation-{k}.png"]["pixels"] for k in range(1, 9)}) == 8


def test_examples_are_answered_as_predicted(
    finished_run: RunDirectory, folder: Path, vectors: dict[str, Any]
) -> None:
    opened = open_model(finished_run.root)
    assert len(vectors["examples"]) == 100
    views = {view for example in vectors["examples"] for view in example["views"]}
    assert views == {"multimodal", "image", "text"}
    for example in vectors["examples"][:5]:
        given = {
            "multimodal": (folder / example["image"], example["text"]),
            "image": (folder / example["image"], None),
            "text": (None, example["text"]),
        }
        for view, (image, text) in given.items():
            found, stated = opened.predict(image=image, text=text), example["views"][view]
            np.testing.assert_allclose(found.logits, stated["logits"], atol=1e-5)
            expected = list(found.probabilities.values())
            np.testing.assert_allclose(expected, stated["probabilities"], atol=1e-6)
            assert list(found.decided) == stated["decided"]


def test_the_folder_is_whole_and_not_replaced_unasked(
    folder: Path, finished_run: RunDirectory, tmp_path: Path
) -> None:
    assert read_manifest(folder, "vectors")["preprocess_digest"]
    with pytest.raises(ArtifactError, match="already exists"):
        write_vectors(finished_run.root, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(ArtifactError, match="is not a folder of vectors"):
        write_vectors(finished_run.root, tmp_path / "mine", overwrite=True)


def cased(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )


def without_cleaning(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=False)


@pytest.mark.parametrize("change", [cased, without_cleaning])
def test_another_normalisation_of_bert_is_written_down_as_well(
    finished_run: RunDirectory, change: Callable[[Tokenizer], None]
) -> None:
    preprocessor = Preprocessor.load(finished_run.student)
    tokenizer = preprocessor.tokenizer
    change(tokenizer)
    plain: Any = PlainTokenizer(dict(text_rules(preprocessor)))
    for number in [*range(0x3000), *range(0x3000, 0x30000, 7)]:
        if not 0xD800 <= number < 0xE000:
            text = f"a{chr(number)}b\u302e\u0301"
            split = tokenizer.pre_tokenizer.pre_tokenize_str(
                tokenizer.normalizer.normalize_str(text)
            )
            assert plain.words(text) == [word for word, _ in split], ascii(text)


def test_a_tokenizer_of_another_kind_is_refused(finished_run: RunDirectory) -> None:
    whole = Preprocessor.load(finished_run.student)
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[CLS]": 1, "a": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    other = build_preprocessor(tokenizer, whole.image, max_length=8)
    with pytest.raises(ConfigError, match="has a normalizer of type None, not BertNormalizer"):
        text_rules(other)


def test_added_tokens_and_gaps_are_refused(finished_run: RunDirectory) -> None:
    whole = Preprocessor.load(finished_run.student)
    added = Tokenizer.from_str(whole.tokenizer.to_str())
    added.add_tokens(["brandname"])
    content = json.loads(whole.tokenizer.to_str())
    content["model"]["vocab"]["last"] = 2000
    for tokenizer, what in (
        (added, "has the added token 'brandname'"),
        (Tokenizer.from_str(json.dumps(content)), "numbers its pieces with gaps"),
    ):
        other = build_preprocessor(tokenizer, whole.image, max_length=16)
        with pytest.raises(ConfigError, match=what):
            text_rules(other)


def test_noise_is_saved_as_it_is() -> None:
    for image in noise_images((48, 48))[:30]:
        with Image.open(io.BytesIO(image.encoded())) as opened:
            stored = np.asarray(opened).reshape(image.height, image.width, image.channels)
        assert np.array_equal(stored, image.pixels())
