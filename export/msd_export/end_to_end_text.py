"""The text's half of an end-to-end graph: a string to token ids and their mask, by BertTokenizer.

Where a word holds a character that the vocabulary lacks, BertTokenizer keeps the pieces before it,
and our tokenizer makes the whole word one [UNK]; it also cuts fewer kinds of punctuation.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from msd_deploy.data.preprocess import CLS, INSIDE_WORD, PAD, SEP, UNKNOWN, Preprocessor
from msd_deploy.errors import ExportError
from msd_export.graph_builder import CONTRIB_DOMAIN, GraphBuilder

TEXT_INPUT = "text"


def add_text(graph: GraphBuilder, preprocessor: Preprocessor) -> None:
    """Add the nodes from TEXT_INPUT to input_ids and attention_mask.

    A text without a single piece is absent: the empty one, and one of white space.

    Raises:
        ExportError: The tokenizer is of another kind.
    """
    attributes = tokenizer_attributes(preprocessor)
    length = preprocessor.max_length
    # Its other outputs, which are not used, must exist: it writes to them unasked, and crashes.
    tokens = graph.node("BertTokenizer", TEXT_INPUT, domain=CONTRIB_DOMAIN, outputs=3, **attributes)
    flat = graph.node("Reshape", tokens, graph.constant([-1]))
    inner = graph.node("Slice", flat, graph.constant([1]), graph.constant([-1]))
    pieces = graph.node("Slice", inner, graph.constant([0]), graph.constant([length - 2]))
    count = graph.node("Shape", pieces)
    used = graph.node("Add", count, graph.constant([2]))
    used = graph.node(
        "Where", graph.node("Equal", count, graph.constant([0])), graph.constant([1]), used
    )
    sep_id = preprocessor.tokenizer.token_to_id(SEP)
    padding = graph.constant([preprocessor.pad_id] * length)
    start, end = graph.constant([preprocessor.cls_id]), graph.constant([sep_id])
    padded = graph.node("Concat", start, pieces, end, padding, axis=0)
    cut = graph.node("Slice", padded, graph.constant([0]), graph.constant([length]))
    mask = graph.node("Less", graph.constant(np.arange(length)), used)
    shape = graph.constant([1, length])
    for value, name in ((cut, "input_ids"), (mask, "attention_mask")):
        shaped = graph.node("Reshape", value, shape)
        graph.named(graph.node("Cast", shaped, to=TensorProto.INT32), name)


def tokenizer_attributes(preprocessor: Preprocessor) -> dict[str, Any]:
    """Return the attributes of the BertTokenizer that does what a tokenizer does.

    Raises:
        ExportError: It is no word-piece tokenizer of BERT's type.
    """
    stated: Mapping[str, Any] = json.loads(preprocessor.tokenizer.to_str())
    model, normalizer = stated["model"], stated["normalizer"] or {}
    kinds = (model["type"], normalizer.get("type"), (stated["pre_tokenizer"] or {}).get("type"))
    # A piece by its identifier; one that is missing leaves a hole.
    pieces = {index: piece for piece, index in model["vocab"].items()} if kinds[0] else {}
    if (
        kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer")
        or model["continuing_subword_prefix"] != INSIDE_WORD
        or (preprocessor.pad_token, preprocessor.absent_token) != (PAD, CLS)
        or sorted(pieces) != list(range(len(pieces)))
    ):
        raise ExportError(
            "an end-to-end file needs a word-piece tokenizer of BERT's type",
            fix="Leave out --end-to-end",
        )
    lowercase, accents = normalizer["lowercase"], normalizer["strip_accents"]
    return {
        "vocab_file": "\n".join(pieces[index] for index in range(len(pieces))),
        "do_lower_case": int(lowercase),
        "do_basic_tokenize": 1,
        "tokenize_chinese_chars": int(normalizer["handle_chinese_chars"]),
        "strip_accents": int(lowercase if accents is None else accents),
        "suffix_indicator": INSIDE_WORD,
        "unk_token": UNKNOWN,
        "sep_token": SEP,
        "pad_token": PAD,
        "cls_token": CLS,
    }
