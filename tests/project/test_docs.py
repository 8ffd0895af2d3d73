"""The pages say what the program does."""

import ast
import functools
import re
import subprocess
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from msd_deploy.config.fine_tuning import TeachingConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.config.setting import declarations
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer
from msd_deploy.data.resize import ImageSpec
from msd_deploy.study.config import StudyConfig
from msd_export.config import ExportConfig
from msd_mobile_bench.config import BenchConfig

ROOT = Path(__file__).parents[2]
LENGTH = 16
TEXTS = (
    "Crème BRÛLÉE, naïve café!",
    "한국어 텍스트",
    "東京タワー2号",
    "don't—stop… \\ [a_b]",
    "[SEP] and [CLS] typed by a user",
    "a\u00a0b\tc\x0bd\u3000e\u2028f",
    "zero\u200bwidth and soft\u00adhyphen",
    "İstanbul ΣΑΣ Straße",
    "अनुच्छेद",
    "😀👍🏽 €5 + 3 = 8 <b>",
    "e\u0301 é ﬁ ½ \ufffd\0",
    "e" * 100,
    "e" * 101,
    "word " * 50,
    "",
    " \t\n",
    "\u200b",
)
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
ASCII_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def test_the_page_of_the_command_line_is_current() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate_cli.py"), "--check"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    "config", [RunConfig, TeachingConfig, StudyConfig, ExportConfig, BenchConfig]
)
def test_the_page_of_the_command_line_has_the_option_of_every_setting(config: Any) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    options = [item.option.name for item in declarations(config) if item.option is not None]
    assert options
    for name in options:
        assert re.search(rf"^│[ *]+{name} ", text, re.MULTILINE), name


@pytest.mark.parametrize("config", [RunConfig, TeachingConfig])
def test_the_page_of_the_command_line_has_the_key_of_every_setting(config: Any) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for item in declarations(config):
        assert f"\n| `{item.key}` | " in text


def documented_normalisation(text: str) -> str:
    """docs/preprocessing.md, The text, step 1."""
    category, kept = unicodedata.category, "\t\n\r"
    removed = ("Cc", "Cf", "Co")
    text = "".join(c for c in text if c in kept or not (c in "\0\ufffd" or category(c) in removed))
    text = "".join(" " if c in kept or category(c) in ("Zs", "Zl", "Zp") else c for c in text)
    text = "".join(f" {c} " if is_ideograph(c) else c for c in text)
    text = "".join(c for c in unicodedata.normalize("NFD", text) if category(c) != "Mn")
    return "".join(c.lower() for c in text)


def is_ideograph(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in IDEOGRAPHS)


def documented_words(text: str) -> list[str]:
    """docs/preprocessing.md, The text, step 2."""
    words = [""]
    for c in documented_normalisation(text):
        if c == " ":
            words.append("")
        elif c in ASCII_PUNCTUATION or unicodedata.category(c).startswith("P"):
            words += [c, ""]
        else:
            words[-1] += c
    return [word for word in words if word]


def documented_pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """docs/preprocessing.md, The text, step 3."""
    pieces: list[str] = []
    start = 0
    while start < len(word) <= 100:
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in vocabulary), None)
        if end is None:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces or ["[UNK]"]


def documented_ids(text: str, vocabulary: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """docs/preprocessing.md, The text, step 4, and No text."""
    pieces = [p for word in documented_words(text) for p in documented_pieces(word, vocabulary)]
    tokens = ["[CLS]", *pieces[: LENGTH - 2], "[SEP]"] if text.strip() else ["[CLS]"]
    padding = LENGTH - len(tokens)
    ids = [vocabulary[token] for token in tokens] + [vocabulary["[PAD]"]] * padding
    return ids, [1] * len(tokens) + [0] * padding


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    tokenizer = train_tokenizer(TEXTS[:11], vocabulary_size=200)
    return build_preprocessor(tokenizer, ImageSpec((48, 48)), max_length=LENGTH)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_texts_become_the_documented_identifiers(preprocessor: Preprocessor, text: str) -> None:
    """The page's rules in plain Python; only characters that Unicode 8.0 has."""
    input_ids, attention_mask = preprocessor.tokens([text])
    expected = documented_ids(text, preprocessor.tokenizer.get_vocab())
    assert (input_ids[0].tolist(), attention_mask[0].tolist()) == expected


PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "results" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
OWN_FOLDERS = ("benchmarks", "cli", "docs", "export", "mobile_bench", "msd_deploy", "tests")
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(OWN_FOLDERS)})/[\w./-]*\w")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# snake_case, _private, CamelCase or CONSTANT, perhaps behind a module or class, perhaps called.
SYMBOL = re.compile(
    r"(?:\w+\.)*"
    r"(_?[a-z]\w*_\w+|_[a-z]\w*|[A-Z]\w*[a-z][A-Z]\w*|_?[A-Z]+_[A-Z_]+|[A-Z]{5,})"
    r"(?:\([^()]*\))?"
)
# A class in front of an attribute.
OWNER = re.compile(r"\b([A-Z]\w*[a-z]\w*)\.")
# Of libraries and operating systems.
FOREIGN = frozenset({"DataFrame", "TMPDIR", "clean_text"})


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@functools.cache
def source_names() -> frozenset[str]:
    """Return every identifier of our code, and the words of its strings but for docstrings."""
    names: set[str] = set()
    files = {path for folder in OWN_FOLDERS for path in (ROOT / folder).rglob("*.py")}
    for path in files - {Path(__file__)}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Expr(value=ast.Constant()):
                    node.value = ast.Constant(None)  # a docstring
                case ast.Constant(value=str(text)):
                    names.update(re.findall(r"\w+", text))
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name):
                    names.add(name)
                case ast.arg(arg=name) | ast.Attribute(attr=name):
                    names.add(name)
    # The code of bundles, in other languages.
    for path in (ROOT / "export/msd_export/bundle/templates").rglob("*"):
        if path.suffix in (".js", ".kt", ".swift"):
            names.update(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return frozenset(names)


@functools.cache
def class_names() -> frozenset[str]:
    """Return the names of our classes."""
    files = [path for folder in OWN_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return frozenset(node.name for node in nodes if isinstance(node, ast.ClassDef))


def missing_from(text: str, folder: Path) -> list[str]:
    """Return the links, files and symbols that a page names and that do not exist."""
    spans = SPAN.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    modules = [span for span in spans if re.fullmatch(r"[\w/]+\.py", span)]
    files = {path.as_posix() for name in OWN_FOLDERS for path in (ROOT / name).rglob("*.py")}
    symbols = [(span, match[1]) for span in spans if (match := SYMBOL.fullmatch(span))]
    return [
        *(link for link in LINK.findall(text) if not (folder / link).exists()),
        *(path for path in PATH.findall(text) if not (ROOT / path).exists()),
        *(name for name in modules if not any(file.endswith(f"/{name}") for file in files)),
        *(span for span, name in symbols if name not in source_names() | FOREIGN),
        *(span for span, _ in symbols if not set(OWNER.findall(span)) <= class_names()),
    ]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_page_names_only_what_exists(page: Path) -> None:
    assert missing_from(page.read_text(encoding="utf-8"), page.parent) == []


def test_what_does_not_exist_is_found() -> None:
    text = "[a](gone.md) `cli/gone.py` `gone.py` `Gone.of_it` `GoneClass` `_gone(x)` `GONE_TOO`"
    text += " `Gone.is_timed`"  # the attribute is there, of another class
    assert missing_from(text, ROOT) == [
        *("gone.md", "cli/gone.py", "cli/gone.py", "gone.py"),
        *("Gone.of_it", "GoneClass", "_gone(x)", "GONE_TOO"),
        *("Gone.of_it", "Gone.is_timed"),
    ]
    assert missing_from("[a](README.md) `cli/msd_cli` `errors.py` `MsdError` `other`", ROOT) == []
