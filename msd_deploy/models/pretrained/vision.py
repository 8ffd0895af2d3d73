"""Pretrained vision encoders: ImageNet weights of installed packages, and transformers checkpoints.

Code in a checkpoint is never run: weights are safetensors, and the .pth of an installed package is
loaded with weights_only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from msd_deploy.artifacts.manifest import sha256_of_file
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.classifier import check_finite
from msd_deploy.models.pretrained.files import (
    Channels,
    check_safetensors,
    digest_of_checkpoints,
    image_size_of,
    load_vision_model,
    normalisation,
    plain_config,
    read_processor,
)
from msd_deploy.models.pretrained.location import INSTALL, VISION, checkpoint_folder, installed_path
from msd_deploy.models.vision import EfficientNetLite, build_vision_encoder

# Image sizes of the published ImageNet models (Liu et al. 2020).
_NATIVE_SIZES = {"lite0": 224, "lite1": 240, "lite2": 260, "lite3": 280, "lite4": 300}
EFFICIENTNET_MEAN: Channels = (127.0, 127.0, 127.0)
EFFICIENTNET_STD: Channels = (128.0, 128.0, 128.0)


@dataclass(frozen=True, slots=True)
class PretrainedVision:
    """A pretrained vision encoder.

    Attributes:
        config: Its configuration for `build_vision_encoder`.
        weights: Its state dict.
        image_mean: Per RGB channel, in units of 0..255.
        image_std: Per RGB channel, in units of 0..255.
        image_size: Height and width that it was trained with.
        is_cut: Whether images are center-cropped instead of padded.
        digest: SHA-256 of the checkpoint.
    """

    config: Mapping[str, object]
    weights: Mapping[str, Tensor]
    image_mean: Channels
    image_std: Channels
    image_size: tuple[int, int]
    is_cut: bool
    digest: str

    def load_into(self, encoder: nn.Module) -> None:
        """Load the weights into an encoder built from `config`."""
        encoder.load_state_dict(dict(self.weights))


def open_vision(name: str) -> PretrainedVision:
    """Load a pretrained vision encoder.

    Args:
        name: effnet-lite0 to -lite4 (of an installed package), a transformers folder, or a name on
            the hub.

    Raises:
        ConfigError: The package is not installed.
        ArtifactError: It cannot be loaded, or is not a vision model.
    """
    if name in VISION:
        return _open_efficientnet(name)
    folder = checkpoint_folder(name)
    check_safetensors(folder, name)
    model, processor = load_vision_model(folder), read_processor(folder)
    mean, std = normalisation(processor)
    return PretrainedVision(
        {"kind": "transformers", "config": plain_config(model)},
        {f"backbone.{key}": tensor for key, tensor in model.state_dict().items()},
        mean,
        std,
        image_size_of(model.config, processor, folder),
        bool(processor.get("do_center_crop")),
        digest_of_checkpoints(folder),
    )


def _open_efficientnet(name: str) -> PretrainedVision:
    path = installed_path(VISION[name])
    if path is None:
        raise ConfigError("the package is not installed", where=name, fix=f"Run `{INSTALL}`")
    variant = name.removeprefix("effnet-")
    config: dict[str, object] = {"kind": "efficientnet_lite", "variant": variant}
    encoder = cast(EfficientNetLite, build_vision_encoder(config))
    side = _NATIVE_SIZES[variant]
    tensors = _read_tensors(path)
    check_finite(tensors, path)
    start = PretrainedVision(
        config,
        rename_efficientnet(tensors, list(encoder.state_dict()), path),
        EFFICIENTNET_MEAN,
        EFFICIENTNET_STD,
        (side, side),
        False,
        sha256_of_file(path),
    )
    try:
        start.load_into(encoder)
    except RuntimeError as error:
        raise ArtifactError(
            "has weights of other shapes", where=path, fix="Reinstall its package"
        ) from error
    return start


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a .pth of plain tensors; code in it is not run but rejected."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile or torch, depending on the damage
        raise ArtifactError(
            "is not a file of plain tensors", where=path, fix="Reinstall its package"
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise ArtifactError(
            "is not a file of plain tensors", where=path, fix="Reinstall its package"
        )
    return tensors


def rename_efficientnet(
    published: dict[str, Tensor], ours: list[str], path: Path
) -> dict[str, Tensor]:
    """Rename the published EfficientNet-Lite weights to our names, without the classifier.

    Both list the same layers in the same order (stem, blocks, head) and so match by position.

    Raises:
        ArtifactError: The numbers of tensors differ; names the file.
    """
    features = [tensor for name, tensor in published.items() if not name.startswith("_fc.")]
    if len(features) != len(ours):
        raise ArtifactError(
            f"holds {len(features)} tensors, not {len(ours)}",
            where=path,
            fix="Reinstall its package",
        )
    return dict(zip(ours, features, strict=True))
