import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from msd_deploy.artifacts.manifest import CARD_NAME, read_json
from msd_deploy.errors import ArtifactError
from msd_export.folder import ExportFolder, open_export
from msd_export.provenance.model_card import owners_words, write_model_card
from msd_export.source import ExportSource


def test_a_card_states_what_parity_json_and_the_manifest_state(
    decided_export: ExportFolder,
) -> None:
    card = ModelCard.load(decided_export.folder / CARD_NAME)
    views: Any = read_json(decided_export.folder / "parity.json")["views"]
    results = {result.dataset_config: result for result in card.data.eval_results}
    for view, parity in views.items():
        found = results[view]
        assert found.metric_value == parity["export"]["value"]
        assert found.dataset_revision == decided_export.manifest["dataset_digest"]
        (row,) = re.findall(rf"^\| {view} \| (.*%.*\|.*\|.*\|.*) \|$", card.text, re.MULTILINE)
        low, high = parity["export"]["interval"]
        assert row.startswith(f"{parity['export']['value']:.1%} [{low:.1%}, {high:.1%}] | ")
        error = parity["confidence"]["export_ece"]["value"]
        assert re.search(rf"^\| {view} \| .* \| {error:.3f} \[", card.text, re.MULTILINE)
    assert card.data.tags[-1] == decided_export.target
    assert decided_export.manifest["source_digest"] in card.text
    assert card.text.count("To fill in:") == 2
    assert "coremltools " in card.text


def test_what_the_owner_writes_is_kept_when_an_export_is_replaced(
    source: ExportSource, decided_export: ExportFolder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(decided_export.folder, tmp_path / decided_export.name))
    card = folder / CARD_NAME
    text = card.read_text()
    words = (
        "Moderators alone use it.\n\n## Limits\n\n{{ No }} satire.\n\n### Results, ours\n\nGood."
    )
    start, end = text.index("To fill in"), text.index("## Results")
    card.write_text(f"{text[:start]}{words}\n\n{text[end:]}")
    open_export(folder)  # a completed card is no damage
    parity = read_json(folder / "parity.json")
    kept = owners_words(folder / "MODEL_CARD.md")
    write_model_card(tmp_path, source, ("coreml", "fp16"), parity, words=kept)
    again = (tmp_path / CARD_NAME).read_text()
    assert f"## Intended use\n\n{words}\n\n## Results" in again
    assert "To fill in" not in again
    card.write_text("of another tool")
    with pytest.raises(ArtifactError, match="has no headings"):
        owners_words(folder / "MODEL_CARD.md")
    card.unlink()
    assert owners_words(folder / "MODEL_CARD.md") is None


@pytest.mark.parametrize(
    "label", ["a | b", "]\n---\nlicense: mit", "{{ 7 * 7 }}", "<script>", "## Results"]
)
def test_labels_cannot_change_a_card(
    source: ExportSource, decided_export: ExportFolder, tmp_path: Path, label: str
) -> None:
    loaded = replace(source.loaded, labels=(label, "benign"))
    parity = read_json(decided_export.folder / "parity.json")
    hostile = replace(source, loaded=loaded, name=label, stated={"license": "MIT: all"})
    write_model_card(tmp_path, hostile, ("onnx", "fp32"), parity)
    text = (tmp_path / CARD_NAME).read_text()
    head = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert (head["license"], head["license_name"]) == ("other", "MIT: all")
    assert text.count("\n---\n") == 1
    assert "<script>" not in text
    (shown,) = (line for line in text.splitlines() if line.endswith("`benign`."))
    assert "49" not in shown
    assert not re.search(r"[{}]", text.partition("## Intended use")[0].partition("\n---\n")[2])


def test_many_labels_are_cut_short(
    source: ExportSource, decided_export: ExportFolder, tmp_path: Path
) -> None:
    labels = tuple(f"class {number}" for number in range(100))
    many = replace(source, loaded=replace(source.loaded, labels=labels, operating_point=None))
    parity = read_json(decided_export.folder / "parity.json")
    write_model_card(tmp_path, many, ("litert", "int8"), parity)
    text = (tmp_path / CARD_NAME).read_text()
    assert "into 100 classes (one per example)" in text
    assert "`class 29` and 70 more." in text
    assert "thresholds in labels.json" not in text
