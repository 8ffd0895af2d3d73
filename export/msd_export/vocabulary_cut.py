"""A vocabulary that training left whole, cut to the task's for an export.

Tokenizer and embedding are cut together, by the function that training uses: see
`msd_deploy.data.vocabulary`, which says how a word beyond them is spelled.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from msd_deploy.artifacts import Json
from msd_deploy.data.preprocess import build_preprocessor
from msd_deploy.data.vocabulary import CutVocabulary, cut_vocabulary
from msd_deploy.errors import ConfigError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel

_EMBEDDINGS = "word_embeddings"


def with_cut_vocabulary(
    loaded: LoadedModel[ViewClassifier], texts: Sequence[str], *, most: int
) -> tuple[LoadedModel[ViewClassifier], CutVocabulary]:
    """Return a copy of a model whose tokenizer and word embeddings are the task's alone.

    It answers as the whole model to every text whose pieces are kept. Folder and digest stay those
    of the whole model, which is what its exports are made from.

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
            f"the vocabulary has {whole:,} tokens, so nothing would be cut",
            where="--cut-vocab",
            fix="Use fewer, or leave it out",
        )
    try:
        cut = cut_vocabulary(preprocessor.tokenizer, texts, most=most)
    except ConfigError as error:
        raise ConfigError(error.what, where="--cut-vocab", fix=error.fix) from error
    model = copy.deepcopy(loaded.model)
    found = [name for name, _ in model.named_modules() if name.split(".")[-1] == _EMBEDDINGS]
    if len(found) != 1:
        raise ConfigError(f"the model has {len(found)} word embeddings, not one to cut")
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
