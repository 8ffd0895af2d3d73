"""Configurations of checkpoints: they describe the weights beside them, or are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_deploy.models.pretrained.families import open_checkpoint
from msd_deploy.models.pretrained.fusion import open_fusion
from msd_deploy.models.pretrained.teacher import PretrainedTeacher
from msd_deploy.views import View
from tests.checkpoints import TEXTS, batch_of
from tests.fuzz.folders import is_sound, read_changed, strict_json
from tests.fuzz.json_mutations import changed_keys, mutated_json

# An example loads a model twice.
few = settings(max_examples=25)

Logits = dict[View, np.ndarray[Any, np.dtype[np.float32]]]

FAMILIES = ("clip", "siglip", "vilt", "visual_bert")
KINDS = (*FAMILIES, "text", "vision")
# Keys whose values are not in the weights: another value is another model. What the weights lack,
# as the new head, is random.
OF_THE_MODEL = {
    *("num_attention_heads", "hidden_act", "layer_norm_eps", "eos_token_id", "pad_token_id"),
    *("image_mean", "image_std", "rescale_factor", "do_rescale", "do_normalize"),
    *("do_center_crop", "initializer_range"),
    # Sides of 32 and 33 pixels have as many whole patches.
    "image_size",
}
VALUES = st.sampled_from(
    [
        *("clip", "siglip", "vilt", "visual_bert", "vit", "bert", "roberta", "gpt2", "llama"),
        *("msd_family", "gelu", "relu", "quick_gelu", "float16", "int8", "user/kernel", "eager"),
        *("flash_attention_2", "absolute", "relative_key", [32, 32], [10**6, 10**6], 24, 40, 80),
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"},
        {"hidden_size": 10**9, "num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**5},
        {"0": {"hidden_size": 32}},
    ]
)


@pytest.fixture
def hub(published: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(published["clip"].parent, tmp_path / "hub"))


@pytest.fixture(scope="module")
def expected(published: dict[str, Path]) -> dict[str, Logits]:
    return {kind: logits_of(published["clip"].parent, kind) for kind in KINDS}


def logits_of(hub: Path, kind: str) -> Logits:
    start: PretrainedTeacher
    if kind in FAMILIES:
        vision = str(hub / "vision") if kind == "visual_bert" else None
        start = open_checkpoint(str(hub / kind), vision=vision)
    else:
        start = open_fusion(vision=str(hub / "vision"), text=str(hub / "text"))
    preprocessor = start.preprocessor(TEXTS)
    torch.manual_seed(0)  # of the new head
    model = start.build(preprocessor, labels=("a", "b"), problem="single_label", dropout=0.0)
    with torch.inference_mode():
        by_view = model.eval().logits_by_view(batch_of(preprocessor, TEXTS), tuple(View))
    return {view: values.numpy() for view, values in by_view.items()}


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@few
@given(data=st.data())
def test_a_checkpoint_is_what_its_weights_are_or_refused(
    data: st.DataObject, name: str, hub: Path, expected: dict[str, Logits]
) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    path = hub / kind / name
    content = json.loads(path.read_text())
    raw = data.draw(mutated_json(content, VALUES))
    # Of a checkpoint of another family, another option may be wrong.
    options = ["finetune.vision"] if strict_json(raw) else []
    found = read_changed(path, raw, lambda: logits_of(hub, kind), is_signed=False, named=options)
    said = strict_json(raw)
    assert found or not is_sound(raw, content)
    if found:
        assert all(np.isfinite(values).all() for values in found.values())
        is_equal = all(np.array_equal(found[view], expected[kind][view]) for view in View)
        keys = set(changed_keys(said, content))
        assert is_equal or keys & OF_THE_MODEL, keys
