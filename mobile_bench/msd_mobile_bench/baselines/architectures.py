"""Published vision-and-language architectures, and the inputs that they are timed on. Torch-free.

Each is stated as its authors published it, down to the sizes that decide speed, memory and file
size. Nothing is downloaded, and there are no trained weights: `exports` builds the architecture
with random ones, so that its accuracy means nothing and is never computed. Speed and size depend
on shapes alone, for weights that are neither zero nor subnormal.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from msd_deploy.artifacts.manifest import Json
from msd_deploy.errors import ConfigError
from msd_deploy.views import View
from msd_export.signature import ModelInputs

NOTE = "random weights: for latency, memory and size only"
"""Stands beside every figure of a baseline."""

TIMED_EXAMPLES = 64
_SEED = 0
Channels = tuple[float, float, float]
_HALF: Channels = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class FastVitSizes:
    """The sizes of a FastViT image tower; the defaults are those of MCi0, MobileCLIP2-S0's.

    Attributes:
        widths: Channels of each stage, which halves height and width after the first.
        depths: Blocks of each stage; those of the last have attention.
        excited: Whether each stage begins with squeeze-and-excitation.
        expansion: Width of the hidden layer of a block, in widths of the stage.
        head_width: Channels of an attention head.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 6, 10, 2)
    excited: tuple[bool, ...] = (False, False, True, True)
    expansion: int = 3
    head_width: int = 32

    @property
    def features(self) -> int:
        """Width of the result."""
        return 2 * self.widths[-1]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A published architecture as a classifier of image and text.

    Attributes:
        name: As `--baselines` takes it.
        title: For people.
        family: A key of `msd_deploy.models.configs.FAMILIES`.
        backbone: Configuration of the family's own model, in the words of transformers.
        image_size: Height and width in pixels.
        max_length: Tokens of text; all of them count in what is timed.
        image_mean: Per RGB channel, 0 to 1.
        image_std: Per RGB channel, 0 to 1.
        parameters: As published; of the backbone, without a classifier.
        leaves_out: Modules of the backbone that the published number leaves out.
        sources: Where the configuration and the number of parameters were published.
        vision: Configuration of a separate vision backbone; None: the family has its own.
        fastvit: Sizes of the image tower that replaces CLIP's, see `fastvit`; None: it does not.
        remark: What differs from the publication, as a sentence; empty: nothing but the classifier.
    """

    name: str
    title: str
    family: str
    backbone: Mapping[str, object]
    image_size: int
    max_length: int
    image_mean: Channels
    image_std: Channels
    parameters: int
    sources: tuple[str, ...]
    leaves_out: tuple[str, ...] = ()
    vision: Mapping[str, object] | None = None
    fastvit: FastVitSizes | None = None
    remark: str = ""

    @property
    def label(self) -> str:
        """The title with what its figures are good for."""
        return f"{self.title} ({NOTE})"

    @property
    def has_two_towers(self) -> bool:
        """Whether image and text have encoders of their own, each of which can be left out."""
        return self.family in ("clip", "siglip")

    @property
    def vocabulary_size(self) -> int:
        """Number of word pieces."""
        text = self.backbone.get("text_config", self.backbone)
        assert isinstance(text, Mapping)
        return int(str(text["vocab_size"]))

    def as_json(self) -> Json:
        """Return all that decides what is built, as JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "family": self.family,
            "backbone": dict(self.backbone),
            "vision": None if self.vision is None else dict(self.vision),
            "fastvit": None if self.fastvit is None else asdict(self.fastvit),
            "image_size": self.image_size,
            "max_length": self.max_length,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "published_parameters": self.parameters,
            "sources": list(self.sources),
            "remark": self.remark,
            "note": NOTE,
        }


_CLIP_TEXT: Mapping[str, object] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "projection_dim": 512,
}
# Radford et al. 2021, table 20; the rest is that of the model on the hub.
_CLIP_B32: Mapping[str, object] = {
    "model_type": "clip",
    "projection_dim": 512,
    "text_config": {**_CLIP_TEXT, "hidden_act": "quick_gelu"},
    "vision_config": {
        "image_size": 224,
        "patch_size": 32,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "quick_gelu",
        "projection_dim": 512,
    },
}
# CLIP's own image tower is replaced; its width is that of FastViT's features, which are projected.
_MOBILECLIP2_S0: Mapping[str, object] = {
    "model_type": "clip",
    "projection_dim": 512,
    "text_config": {**_CLIP_TEXT, "hidden_act": "gelu"},
    "vision_config": {
        "image_size": 256,
        "patch_size": 256,
        "hidden_size": 1024,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 1,
        "projection_dim": 512,
    },
}
_BASE: Mapping[str, object] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
_SIGLIP_BASE: Mapping[str, object] = {
    "model_type": "siglip",
    "text_config": {
        **_BASE,
        "vocab_size": 32000,
        "max_position_embeddings": 64,
        "hidden_act": "gelu_pytorch_tanh",
        "projection_size": 768,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 1,
    },
    "vision_config": {
        **_BASE,
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
    },
}
_VILT_B32: Mapping[str, object] = {
    **_BASE,
    "model_type": "vilt",
    "vocab_size": 30522,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "modality_type_vocab_size": 2,
    "image_size": 384,
    "patch_size": 32,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_VISUALBERT_BASE: Mapping[str, object] = {
    **_BASE,
    "model_type": "visual_bert",
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "visual_embedding_dim": 2048,
    "hidden_act": "gelu",
}
# He et al. 2016, table 1, the column of 50 layers.
_RESNET_50: Mapping[str, object] = {
    "model_type": "resnet",
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
}

BASELINES: Mapping[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            name="clip-vit-b32",
            title="CLIP ViT-B/32",
            family="clip",
            backbone=_CLIP_B32,
            image_size=224,
            max_length=77,
            image_mean=(0.48145466, 0.4578275, 0.40821073),
            image_std=(0.26862954, 0.26130258, 0.27577711),
            parameters=151_277_313,
            sources=(
                "Radford et al. 2021, arXiv:2103.00020, table 20",
                "https://huggingface.co/openai/clip-vit-base-patch32",
            ),
        ),
        Baseline(
            name="siglip-base",
            title="SigLIP base, patch 16",
            family="siglip",
            backbone=_SIGLIP_BASE,
            image_size=224,
            max_length=64,
            image_mean=_HALF,
            image_std=_HALF,
            parameters=203_160_000,
            sources=(
                "Zhai et al. 2023, arXiv:2303.15343",
                "https://huggingface.co/google/siglip-base-patch16-224",
                "open_clip, docs/model_profile.csv, ViT-B-16-SigLIP (parameters)",
            ),
        ),
        Baseline(
            name="visualbert-base",
            title="VisualBERT base on the grid of ResNet-50",
            family="visual_bert",
            backbone=_VISUALBERT_BASE,
            vision=_RESNET_50,
            image_size=224,
            max_length=40,
            image_mean=(0.485, 0.456, 0.406),
            image_std=(0.229, 0.224, 0.225),
            # Its float32 checkpoint, visualbert-vqa-coco-pre, has 448 MB.
            parameters=112_000_000,
            sources=(
                "Li et al. 2019, arXiv:1908.03557",
                "https://huggingface.co/uclanlp/visualbert-vqa-coco-pre",
                "uclanlp/visualbert, configs/vqa/fine-tune.json",
            ),
            remark="Regions of a detector, which costs several times as much, are replaced by the"
            " 49 positions of ResNet-50's last feature map; the number of parameters is without it."
            " Texts have 40 tokens, as ViLT's; its fine-tuning cuts them at 128.",
        ),
        Baseline(
            name="vilt-b32",
            title="ViLT-B/32",
            family="vilt",
            backbone=_VILT_B32,
            image_size=384,
            max_length=40,
            image_mean=_HALF,
            image_std=_HALF,
            parameters=87_400_000,
            leaves_out=("embeddings.text_embeddings.word_embeddings",),
            sources=(
                "Kim et al. 2021, arXiv:2102.03334, table 6",
                "https://huggingface.co/dandelin/vilt-b32-mlm",
            ),
            remark="Images are squares of 384 pixels; published ones have a shorter side of 384 and"
            " a longer one of up to 640. The number of parameters is without word embeddings.",
        ),
        Baseline(
            name="mobileclip2-s0",
            title="MobileCLIP2-S0",
            family="clip",
            backbone=_MOBILECLIP2_S0,
            image_size=256,
            max_length=77,
            image_mean=(0.0, 0.0, 0.0),
            image_std=(1.0, 1.0, 1.0),
            parameters=74_800_000,
            sources=(
                "Faghri et al. 2025, MobileCLIP2 (11.4 and 63.4 million parameters)",
                "https://huggingface.co/apple/MobileCLIP2-S0",
                "open_clip, src/open_clip/model_configs/MobileCLIP2-S0.json",
            ),
            fastvit=FastVitSizes(),
            remark="FastViT MCi0 is built here, with its branches folded as in an app: transformers"
            " has it only through timm. The text encoder's attention is causal where MobileCLIP2's"
            " is not, which takes as long.",
        ),
    )
}


def baseline_named(name: str) -> Baseline:
    """Return a published architecture.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in BASELINES:
        raise ConfigError(
            f"unknown architecture {name!r}",
            where="baselines",
            fix=f"Use one of {', '.join(BASELINES)}",
        )
    return BASELINES[name]


def timed_inputs(baseline: Baseline, view: View, *, examples: int = TIMED_EXAMPLES) -> ModelInputs:
    """Return the inputs that a baseline is timed on: noise, the same ones each time.

    Pixels and token ids are uniformly random, but for the first token, which is the same in all
    texts, and a text fills all positions: a model takes as long for noise as for anything else of
    its shapes. A view withholds a modality as in every export: the image is black and not present,
    or the attention mask has the first token alone.

    Args:
        baseline: The architecture.
        view: The modalities.
        examples: Number of rows.

    Returns:
        See `ModelInputs`; [examples, ...].
    """
    noise = np.random.default_rng(_SEED)
    side, length = baseline.image_size, baseline.max_length
    image = noise.integers(0, 256, (examples, side, side, 3), np.uint8)
    input_ids = noise.integers(0, baseline.vocabulary_size, (examples, length), np.int32)
    input_ids[:, 0] = input_ids[0, 0]  # the token that texts start with, and an absent one is
    attention_mask = np.ones((examples, length), np.int32)
    if not view.has_text:
        attention_mask[:, 1:] = 0
    return {
        "image": image if view.has_image else np.zeros_like(image),
        "image_present": np.full(examples, int(view.has_image), np.int32),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
    }
