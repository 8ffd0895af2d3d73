"""ExportSource: the model to export, with its graph, signature, metadata and calibration data.

Also the cut of a pretrained vocabulary to the task's for an export: tokenizer and embedding are cut
together by the function that training uses; see `msd_deploy.data.vocabulary` for how a word outside
it is tokenized.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import nn

from msd_deploy import __version__
from msd_deploy.artifacts.manifest import Json
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import build_preprocessor
from msd_deploy.data.source import SourceData
from msd_deploy.data.vocabulary import CutVocabulary, cut_vocabulary
from msd_deploy.errors import ConfigError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.views import View
from msd_export.formats import FORMATS, CalibrationMethod, Target
from msd_export.graph import ExportableGraph, ImageLayout, graph_of, signature_of
from msd_export.signature import ModelInputs, ModelSignature

# Of each view; a multiple of this changed no scale visibly on any model tried.
_CALIBRATION_ROWS = 64


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A model that is to be exported.

    Attributes:
        loaded: The model and its preprocessing.
        data: What it was trained on, for calibration; its test split verifies the exports.
        name: What the model is called in the metadata of its exports.
        scratch: A folder for what several variants share; removed in the end.
        calibration_method: How an activation's range follows from the calibration examples.
        raw: The data set as it was read: the images' bytes and the texts.
        uncut: Where the vocabulary was cut: the same with the whole one.
        vocabulary: What parity.json states of a cut one.
        stated: Further metadata of every file: author and license, where they are given.
        skips_image_encoder: Whether an ONNX file skips its image encoder where there is no image.
    """

    loaded: LoadedModel[ViewClassifier]
    data: PreparedData
    name: str
    scratch: Path
    calibration_method: CalibrationMethod = "minmax"
    raw: SourceData | None = None
    uncut: "ExportSource | None" = None
    vocabulary: Json | None = None
    stated: Mapping[str, str] = field(default_factory=dict)
    skips_image_encoder: bool = True

    @property
    def signature(self) -> ModelSignature:
        """Names, shapes and dtypes of inputs and outputs."""
        return signature_of(self.loaded)

    def graph(self, image_layout: ImageLayout) -> ExportableGraph:
        """Return the module that is converted, a copy in eval mode, BatchNorm folded."""
        return graph_of(self.loaded, image_layout=image_layout)

    def has_text_entry(self, target: Target) -> bool:
        """Return whether a target's file gets an entry point for a text alone."""
        is_ours = isinstance(self.loaded.model, FusionForClassification)
        return FORMATS[target].has_text_entry and is_ours

    def calibration(self, rows: int = _CALIBRATION_ROWS) -> ModelInputs:
        """Return training examples, each under all three views, spread over the training split."""
        views = [self._calibration_of(view, rows) for view in View]
        return {name: np.concatenate([inputs[name] for inputs in views]) for name in views[0]}

    def text_calibration(self) -> ModelInputs:
        """Return the same examples under the text view alone."""
        return self._calibration_of(View.TEXT, _CALIBRATION_ROWS)

    def _calibration_of(self, view: View, rows: int) -> ModelInputs:
        split = self.data.splits["train"]
        chosen = np.linspace(0, len(split) - 1, min(rows, len(split))).astype(np.int64)
        return split.inputs(chosen, view)

    def metadata(self) -> dict[str, str]:
        """Return what every file states of itself, where its format has a place for it."""
        return {
            "description": f"{self.name}: {len(self.loaded.labels)} classes from image and text",
            "labels": json.dumps(list(self.loaded.labels), ensure_ascii=False),
            "problem": self.loaded.problem,
            "msd_deploy": __version__,
            "source_digest": self.loaded.digest,
            "preprocess_digest": self.loaded.preprocessor.digest(),
            "temperatures": self.loaded.temperatures.as_text(),
            **self.stated,
        }


_EMBEDDINGS = "word_embeddings"


def with_cut_vocabulary(
    loaded: LoadedModel[ViewClassifier], texts: Sequence[str], *, most: int
) -> tuple[LoadedModel[ViewClassifier], CutVocabulary]:
    """Return a copy of a model whose tokenizer and word embeddings are the task's alone.

    Its logits are those of the whole model for every text whose pieces are kept. Folder and digest
    stay those of the whole model, which its exports are made from.

    Args:
        loaded: The model.
        texts: The training texts.
        most: How many tokens are kept; see `cut_vocabulary`.

    Raises:
        ConfigError: The tokenizer is not WordPiece, or the model has no embedding of its tokens.
    """
    preprocessor = loaded.preprocessor
    whole = preprocessor.tokenizer.get_vocab_size()
    if most >= whole:
        raise ConfigError(
            f"the vocabulary has only {whole:,} tokens: there is nothing to cut",
            where="--cut-vocab",
            fix="Use a smaller number, or export without --cut-vocab",
        )
    try:
        cut = cut_vocabulary(preprocessor.tokenizer, texts, most=most)
    except ConfigError as error:
        raise ConfigError(error.what, where="--cut-vocab", fix=error.fix) from error
    model = copy.deepcopy(loaded.model)
    found = [name for name, _ in model.named_modules() if name.split(".")[-1] == _EMBEDDINGS]
    if len(found) != 1:
        raise ConfigError(
            f"the model has {len(found)} word embedding layers, and exactly one can be cut",
            where="--cut-vocab",
        )
    words = model.get_submodule(found[0])
    assert isinstance(words, nn.Embedding)
    kept = words.weight.detach()[list(cut.kept)].clone()
    model.set_submodule(found[0], nn.Embedding.from_pretrained(kept, freeze=False))
    cut_preprocessor = build_preprocessor(
        cut.tokenizer,
        preprocessor.image,
        max_length=preprocessor.max_length,
        pad_token=preprocessor.pad_token,
        absent_token=preprocessor.absent_token,
    )
    return replace(loaded, model=model, preprocessor=cut_preprocessor), cut


def cut_as_json(cut: CutVocabulary, whole: int) -> Json:
    """Return what parity.json states of a cut vocabulary under "conversion"."""
    return {"tokens": len(cut.kept), "of": whole, "coverage": round(cut.coverage, 6)}
