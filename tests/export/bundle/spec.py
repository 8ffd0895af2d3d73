"""What the tests in Kotlin and Swift read of a bundle: vectors, labels and preprocessing."""

import json
import shutil
from pathlib import Path

KNOWN = {
    "text": "the visitors again send them back",
    "views": {
        view: {"logits": logits, "probabilities": probabilities, "decided": ["hateful"]}
        for view, logits, probabilities in (
            ("multimodal", [-3.2581394, 0.14462374], [0.0531984, 0.9468016]),
            ("image", [-1.3775779, -0.39134577], [0.2771165, 0.7228835]),
            ("text", [-1.5658203, -1.1762625], [0.4274445, 0.5725555]),
        )
    },
}
"""What the tests in Kotlin know of the first example: their runtime replays what is stated."""


def write_spec(folder: Path, bundle: Path, model: str) -> None:
    """Write labels.json, preprocess.json and vectors/ of a bundle into a new folder."""
    shutil.copytree(bundle / "vectors", folder / "vectors")
    for name in ("labels.json", "preprocess.json"):
        shutil.copyfile(bundle / model / name, folder / name)
    path = folder / "vectors" / "vectors.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    stated["examples"][0] |= KNOWN
    path.write_text(json.dumps(stated), encoding="utf-8")
