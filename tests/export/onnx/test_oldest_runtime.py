"""Files run in the oldest ONNX Runtime that docs/export.md names for their format."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from msd_export.formats import FORMATS, Target
from msd_export.onnx.converter import OnnxConverter, OrtConverter
from msd_export.onnx.export import save_onnx
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.signature import INPUT_NAMES
from msd_export.source import ExportSource

_RUN = """
import sys
import numpy as np
import onnxruntime
version, inputs, *files = sys.argv[1:]
assert onnxruntime.__version__ == version, onnxruntime.__version__
feed = dict(np.load(inputs, allow_pickle=False))
for file in files:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    np.save(file + ".npy", session.run(["logits"], feed)[0], allow_pickle=False)
"""


def pip_install(target: Path, *packages: str) -> None:
    """Install into a folder of its own, or skip where pip reaches no index."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--target", str(target), *packages], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"pip cannot install {packages[0]}: {done.stderr.strip()[-200:]}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "version"), [("onnx", "1.17.0"), ("ort", "1.18.0")], ids=["onnx", "ort"]
)
def test_every_precision_runs_in_the_oldest_runtime(
    own_source: ExportSource, tmp_path: Path, target: Target, version: str
) -> None:
    site = tmp_path / "site"
    pip_install(site, f"onnxruntime=={version}", "numpy<2")
    inputs = own_source.data.splits["test"].inputs(slice(0, 8))
    arrays = {name: inputs[name] for name in INPUT_NAMES}
    np.savez(tmp_path / "inputs.npz", allow_pickle=False, **arrays)
    converter = (OnnxConverter if target == "onnx" else OrtConverter)(own_source)
    files = []
    for precision in FORMATS[target].precisions:
        files.append(tmp_path / f"{precision}.{target}")
        converter.convert(precision, files[-1])
    subprocess.run(
        [sys.executable, "-S", "-c", _RUN, version, str(tmp_path / "inputs.npz"), *map(str, files)],
        env=os.environ | {"PYTHONPATH": str(site)},
        check=True,
    )
    for file in files:
        expected = OnnxPredictor(file).predict(inputs)
        # int4 activations have 8 bits in newer versions and stay in float in 1.17.
        error = np.abs(np.load(f"{file}.npy", allow_pickle=False) - expected).max()
        assert error <= 0.05 * np.ptp(expected), file.name


def test_every_file_declares_the_least_versions_and_only_the_domains_it_uses(
    own_source: ExportSource, tmp_path: Path
) -> None:
    converter = OnnxConverter(own_source)
    for precision in FORMATS["onnx"].precisions:
        path = tmp_path / f"{precision}.onnx"
        converter.convert(precision, path)
        model = onnx.load(path)
        assert (model.ir_version, {e.domain for e in model.opset_import}) == (
            9,
            {node.domain for node in model.graph.node},
        )


def test_a_domain_used_in_a_subgraph_is_kept(tmp_path: Path) -> None:
    inner = helper.make_node("Inverse", ["x"], ["y"], domain="com.microsoft")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
    branch = helper.make_graph([inner], "branch", [], [value])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)],
        "graph",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1]),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 1])],
    )
    domains = {"": 17, "com.microsoft": 1, "ai.onnx.ml": 5}
    opsets = [helper.make_opsetid(*entry) for entry in domains.items()]
    save_onnx(helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert {entry.domain: entry.version for entry in model.opset_import} == {
        "": 17,
        "com.microsoft": 1,
    }
    assert model.ir_version == 8
