"""Folders of checkpoints, by their path or by their name on the Hugging Face hub.

Only configuration, tokenizer and safetensors files are ever fetched: no pickle, no code. Without a
network, what an earlier download left in the libraries' cache is used.
"""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from msd_deploy.errors import ArtifactError

_FILES = ("*.json", "*.jsonl", "*.safetensors", "*.txt")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_hub_name(stated: str) -> bool:
    """Return whether a word can name a checkpoint on the hub: NAME or OWNER/NAME, and no folder."""
    return _HUB_NAME.fullmatch(stated) is not None and not Path(stated).exists()


def checkpoint_folder(stated: str) -> Path:
    """Return the folder of a checkpoint; one that the hub has is downloaded or found in the cache.

    Raises:
        ArtifactError: There is no such folder, nor such a checkpoint; says how to bring it.
    """
    if Path(stated).is_dir():
        return Path(stated)
    if not is_hub_name(stated):
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
