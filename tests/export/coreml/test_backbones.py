"""Students with other vision encoders as Core ML: the evaluator knows all that they are made of."""

from pathlib import Path

import numpy as np
import pytest
import torch

from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.fusion import FusionForClassification
from msd_export.coreml.export import export_coreml
from msd_export.coreml.mil.evaluator import MilEvaluator
from msd_export.graph import ExportGraph, fold_batch_norms
from msd_export.signature import INPUT_NAMES, ModelSignature

SIGNATURE = ModelSignature((32, 32), 6, ("a", "b", "c"), "single_label")
_TRANSFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
BACKBONES: dict[str, dict[str, object]] = {
    "vit": _TRANSFORMER,
    "siglip_vision_model": _TRANSFORMER,
    "clip_vision_model": _TRANSFORMER,
    "convnext": _STAGES,
    "convnextv2": _STAGES,
    "resnet": {**_STAGES, "embedding_size": 8},
    "regnet": {**_STAGES, "embedding_size": 8, "groups_width": 8},
    "poolformer": _STAGES,
    "swin": {
        **{"image_size": 32, "patch_size": 2, "embed_dim": 8},
        **{"depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    },
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 32},
    "mobilevit": {
        **{"image_size": 32, "hidden_sizes": [16, 20, 24]},
        "neck_hidden_sizes": [8, 8, 8, 12, 16, 20, 24],
    },
}


def build(vision: dict[str, object]) -> ExportGraph:
    torch.manual_seed(0)
    config = FusionConfig(
        vision=vision,
        image_size=SIGNATURE.image_size,
        vocab_size=50,
        max_text_length=6,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
    )
    model = FusionForClassification(config).eval()
    fold_batch_norms(model)
    return ExportGraph(model, problem="single_label", image_layout="nchw")


def largest_error(graph: ExportGraph, package: Path) -> float:
    evaluator, rng = MilEvaluator.load(package), np.random.default_rng(0)
    errors = []
    for _ in range(3):
        row = {
            "image": rng.integers(0, 256, (1, 32, 32, 3), np.uint8),
            "image_present": np.ones(1, np.int32),
            "input_ids": rng.integers(0, 50, (1, 6)).astype(np.int32),
            "attention_mask": np.ones((1, 6), np.int32),
        }
        image, *others = (torch.from_numpy(row[name]) for name in INPUT_NAMES)
        with torch.inference_mode():
            logits, _ = graph(image.permute(0, 3, 1, 2).float(), *others)
        errors.append(np.abs(evaluator.run(row)["logits"] - logits.numpy()).max())
    return float(max(errors))


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_transformers_backbone_is_exported_and_evaluated(name: str, tmp_path: Path) -> None:
    config = {"model_type": name, **BACKBONES[name]}
    graph = build({"kind": "transformers", "config": config})
    package = tmp_path / "model.mlpackage"
    export_coreml(graph, SIGNATURE, {}, package)
    assert largest_error(graph, package) < 0.01  # float16; measured .0019 to .0037


@pytest.mark.slow
def test_efficientnet_lite_is_exported_and_evaluated(tmp_path: Path) -> None:
    graph = build({"kind": "efficientnet_lite", "variant": "lite0"})
    package = tmp_path / "model.mlpackage"
    export_coreml(graph, SIGNATURE, {}, package)
    assert largest_error(graph, package) < 0.01
