"""An export folder is all that is needed: moved, and opened by a process that knows no run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts.manifest import digests_of_folder
from msd_export.folder import ExportFolder
from msd_export.predictors import open_predictor
from msd_export.signature import ModelInputs

ROOT = Path(__file__).parents[2]
ASK = """
import json, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
import numpy as np
from msd_deploy.artifacts.manifest import digests_of_folder
from msd_export.opened_model import open_model
folder, inputs = Path(sys.argv[1]), dict(np.load(sys.argv[2]))
opened = open_model(folder)
logits = opened.predictor.predict(inputs)
np.save(folder.parent / "logits.npy", logits)
print(json.dumps({"digests": digests_of_folder(folder), "labels": opened.labels}))
"""


def inputs_of_all_views() -> ModelInputs:
    rng = np.random.default_rng(5)
    tokens = np.array([9, 1, 16, 4, 1, 12])
    return {
        "image": rng.integers(0, 256, (6, 48, 48, 3), np.uint8),
        "image_present": np.array([1, 1, 0, 1, 1, 0], np.int32),
        "input_ids": rng.integers(0, 100, (6, 16)).astype(np.int32),
        "attention_mask": (np.arange(16) < tokens[:, None]).astype(np.int32),
    }


@pytest.mark.slow
def test_a_moved_export_alone_gives_the_same_digests_and_bit_equal_logits(
    decided_export: ExportFolder, tmp_path: Path
) -> None:
    inputs = inputs_of_all_views()
    expected = open_predictor(decided_export.target, decided_export.model_path).predict(inputs)
    elsewhere = tmp_path / "elsewhere" / "export"
    shutil.copytree(decided_export.folder, elsewhere)
    np.savez(tmp_path / "inputs.npz", **inputs)
    paths = [str(ROOT), str(ROOT / "export")]
    command = [sys.executable, "-c", ASK, str(elsewhere), str(tmp_path / "inputs.npz"), *paths]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    answer = json.loads(result.stdout)
    assert answer["digests"] == digests_of_folder(decided_export.folder)
    assert answer["labels"] == ["benign", "hateful"]
    np.testing.assert_array_equal(
        np.load(elsewhere.parent / "logits.npy", allow_pickle=False), expected
    )
