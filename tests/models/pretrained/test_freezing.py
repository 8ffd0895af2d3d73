"""Teachers with frozen encoders, or with all pretrained weights frozen."""

import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from msd_deploy.artifacts.manifest import read_json, sha256_of_file
from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.fine_tuning import FineTuneConfig, Freeze, TeachingConfig
from msd_deploy.config.run import DataConfig, RunConfig
from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distillation.encoded_cache import encode_data
from msd_deploy.distillation.history import History
from msd_deploy.distillation.objectives import LabelObjective
from msd_deploy.distillation.plan import TrainingPlan
from msd_deploy.distillation.trainer import TrainingJob, train
from msd_deploy.errors import ArtifactError, ConfigError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StageHooks
from msd_deploy.models.classifier import ViewClassifier, is_frozen
from msd_deploy.models.folders import load_classifier
from msd_deploy.models.predict import predict_views
from msd_deploy.models.pretrained.teacher import freeze
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.run.fine_tuning_inputs import open_start
from msd_deploy.run.record import read_source
from msd_deploy.views import View
from tests.checkpoints import words, write_checkpoint

KINDS: list[tuple[str, Freeze]] = [
    ("fusion", "vision"),
    ("fusion", "all"),
    ("clip", "vision"),
    ("clip", "all"),
    ("siglip", "vision"),
    ("siglip", "all"),
    ("visual_bert", "vision"),
    ("visual_bert", "all"),
    ("vilt", "all"),
]
every_kind = pytest.mark.parametrize(("family", "what"), KINDS)


def bare_rows(index: int, line: dict[str, str]) -> None:
    """Rows without an image, rows without a text, and images that several rows share."""
    if index % 9 == 4:
        del line["image"]
    elif index % 9 == 7:
        del line["text"]
    elif index % 9 == 8 and index >= 9:
        line["image"] = f"{index - 2}.png"


@pytest.fixture(scope="module")
def memes_file(
    tmp_path_factory: pytest.TempPathFactory, write_memes: Callable[..., Path]
) -> DataConfig:
    return DataConfig(spec=str(write_memes(tmp_path_factory.mktemp("data"), 100, bare_rows)))


@pytest.fixture(scope="module")
def settings_of(
    published: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., FineTuneConfig]:
    """Settings of a few steps; what is frozen has BatchNorm or dropout, which must stay off."""
    parent = tmp_path_factory.mktemp("starts")
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], image_size=32)
    stated = {"size": {"height": 32, "width": 32}}
    resnet = write_checkpoint(parent / "resnet", ResNetModel(config), words(), "[PAD]", **stated)
    dropping = {}
    for name in ("vision", "vilt"):
        dropping[name] = Path(shutil.copytree(published[name], parent / name))
        path = dropping[name] / "config.json"
        told = path.read_text().replace('"hidden_dropout_prob": 0.0', '"hidden_dropout_prob": 0.3')
        assert told != path.read_text()
        path.write_text(told)
    starts: dict[str, dict[str, str | None]] = {
        "fusion": {"model": None, "text": str(published["text"]), "vision": str(resnet)},
        "vilt": {"model": str(dropping["vilt"])},
        "visual_bert": {"model": str(published["visual_bert"]), "vision": str(dropping["vision"])},
    }

    def make(family: str, **changes: Any) -> FineTuneConfig:
        settings = FineTuneConfig(
            epochs=2,
            batch_size=16,
            learning_rate=1e-3,
            checkpoint_seconds=0.0,
            log_every=1,
            modality_dropout=0.5,
        )
        start = starts.get(family, {"model": str(published.get(family, ""))})
        return replace(settings, **start, **changes)

    return make


@dataclass(frozen=True)
class Built:
    model: ViewClassifier
    preprocessor: Preprocessor
    data: PreparedData
    settings: FineTuneConfig

    @property
    def used(self) -> Any:
        return self.data.splits["train"].has_label()


@pytest.fixture(scope="module")
def build(
    memes_file: DataConfig, settings_of: Callable[..., FineTuneConfig]
) -> Callable[..., Built]:
    """A model with what is frozen, and the data as it reads it."""
    prepared: dict[str, tuple[Preprocessor, PreparedData]] = {}

    def make(family: str, what: Freeze, **changes: Any) -> Built:
        settings = settings_of(family, freeze=what, **changes)
        start = open_start(settings)
        if family not in prepared:
            source = read_source(RunConfig(data=memes_file))
            preprocessor = start.preprocessor([t for t in source.dataset["train"]["text"] if t])
            prepared[family] = preprocessor, prepare(source, preprocessor)
        preprocessor, data = prepared[family]
        torch.manual_seed(0)
        model = start.build(
            preprocessor,
            labels=data.info.labels,
            problem=data.info.problem,
            dropout=settings.dropout,
        )
        freeze(model, what)
        return Built(model, preprocessor, data, settings)

    return make


def encoded(
    built: Built, folder: Path, hooks: StageHooks | None = None, **key: str
) -> PreparedData:
    return encode_data(
        built.model, built.data, folder, used=built.used, key=key, hooks=hooks or StageHooks()
    )


def losses(built: Built, data: PreparedData, folder: Path) -> list[float]:
    """Train, and return the loss of every step."""
    values: list[float] = []
    folder.mkdir(exist_ok=True)
    settings = built.settings
    plan = TrainingPlan(
        phase="teacher",
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate * settings.fresh_rate,
        pretrained_rate=1 / settings.fresh_rate,
        weight_decay=settings.weight_decay,
        warmup_share=settings.warmup_share,
        seed=0,
        log_every=1,
        checkpoint_seconds=1e9,
        parts=settings.accumulate,
        precision=settings.precision,
        key="",
    )
    torch.manual_seed(1)
    train(
        TrainingJob(
            built.model,
            LabelObjective(settings.modality_dropout),
            data,
            plan,
            checkpoints=folder / "checkpoints",
            history=History(folder / "history.jsonl"),
            hooks=Hooks(on_step=lambda report: values.append(sum(report.terms.values()))),
            used=built.used,
        )
    )
    assert len(values) >= 8
    return values


@every_kind
def test_losses_with_the_cache_equal_those_of_encoding_in_every_step(
    build: Callable[..., Built], tmp_path: Path, family: str, what: Freeze
) -> None:
    built = build(family, what)
    with_cache = losses(built, encoded(built, tmp_path / "encoded"), tmp_path / "kept")
    again = build(family, what)
    without = losses(again, again.data, tmp_path / "each")
    # Pictures and texts in other batches: float32 sums in another order, which AdamW carries on.
    assert with_cache == pytest.approx(without, abs=2e-5)
    for (name, one), other in zip(
        built.model.state_dict().items(), again.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0, msg=name)
    # What a gradient, dropout or a batch's own statistics would change is larger than that.
    free = losses(build(family, "none"), again.data, tmp_path / "free")
    assert free != pytest.approx(without, abs=5e-5)


def kept_in(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@every_kind
def test_frozen_weights_stay_to_the_bit_and_all_others_learn(
    build: Callable[..., Built], tmp_path: Path, family: str, what: Freeze
) -> None:
    built = build(family, what)
    before = state_of(built.model)
    learning = {name for name, p in built.model.named_parameters() if p.requires_grad}
    losses(built, encoded(built, tmp_path / "encoded"), tmp_path)
    after = built.model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed <= learning
    assert changed >= {name for name in learning if name not in built.model.pretrained}
    if what == "all":
        assert learning.isdisjoint(built.model.pretrained)
    else:
        assert not any(name.startswith("vision.") for name in changed)
        assert changed & built.model.pretrained
    vision = {name for module in built.model.vision_modules for name in module.state_dict()}
    assert is_frozen(*built.model.vision_modules) == bool(vision)


@contextmanager
def counting(*modules: nn.Module) -> Iterator[list[nn.Module]]:
    calls: list[nn.Module] = []
    handles = [m.register_forward_hook(lambda m, i, o: calls.append(m)) for m in modules]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", ["clip", "siglip", "vilt"])
def test_epochs_of_a_wholly_frozen_model_run_only_its_head(
    build: Callable[..., Built], tmp_path: Path, family: str
) -> None:
    built = build(family, "all")
    backbone = list(built.model.backbone.modules())  # type: ignore[union-attr]
    with counting(*backbone) as calls:
        data = encoded(built, tmp_path / "encoded")
        assert calls
        calls.clear()
        losses(built, data, tmp_path)
        assert calls == []
        predict_views(built.model, built.data.splits["test"])
        assert calls


@pytest.mark.parametrize("family", ["fusion", "visual_bert", "clip", "siglip"])
def test_each_image_is_encoded_once_and_only_if_training_uses_it(
    build: Callable[..., Built], tmp_path: Path, family: str
) -> None:
    built = build(family, "vision")
    seen: list[int] = []
    see = built.model.encode_images
    counts: list[tuple[str, int, int]] = []
    built.model.encode_images = lambda pixels: (seen.append(len(pixels)), see(pixels))[1]  # type: ignore[method-assign]
    hooks = StageHooks(on_count=lambda *count: counts.append(count))
    data = encoded(built, tmp_path / "encoded", hooks)
    splits = [built.data.splits[name] for name in ("train", "validation")]
    shown = np.unique(np.concatenate([split.image_index for split in splits]))
    pictures = int((shown >= 0).sum())
    assert counts[-1] == ("images encoded", pictures, pictures)
    assert kept_in(tmp_path / "encoded" / "images.npy").shape[0] == pictures
    assert pictures < sum(len(split) for split in splits)
    seen.clear()
    losses(built, data, tmp_path)
    assert seen == []
    assert data.splits["test"].encoded is None


def test_rows_that_training_leaves_out_are_not_encoded(
    build: Callable[..., Built], tmp_path: Path
) -> None:
    built = build("clip", "all")
    split = built.data.splits["train"]
    used = np.arange(len(split)) < 5
    encode_data(
        built.model, built.data, tmp_path / "encoded", used=used, key={}, hooks=StageHooks()
    )
    rows = kept_in(tmp_path / "encoded" / "rows-train.npy")
    assert np.array_equal(rows.any(axis=1), used)
    shown = (split.image_index[used], built.data.splits["validation"].image_index)
    pictures = np.unique(np.concatenate(shown))
    images = kept_in(tmp_path / "encoded" / "images.npy")
    assert len(images) == (pictures >= 0).sum() < len(np.unique(split.image_index))


@every_kind
@pytest.mark.parametrize("changes", [{"accumulate": 3}, {"precision": "bf16"}], ids=str)
def test_parts_and_bfloat16_reach_about_the_same_losses(
    build: Callable[..., Built], tmp_path: Path, family: str, what: Freeze, changes: dict[str, Any]
) -> None:
    whole = build(family, what, dropout=0.0)
    expected = losses(whole, encoded(whole, tmp_path / "encoded"), tmp_path / "whole")
    other = build(family, what, dropout=0.0, **changes)
    found = losses(other, encoded(other, tmp_path / "encoded"), tmp_path / "other")
    # Sums of float32 in another order; 8 bits of mantissa: as in test_fine_tuning.py.
    assert found == pytest.approx(expected, abs=1e-4 if "accumulate" in changes else 2e-2)
    assert found != expected


@pytest.fixture(scope="module")
def config_of(
    memes_file: DataConfig, settings_of: Callable[..., FineTuneConfig]
) -> Callable[..., TeachingConfig]:
    return lambda family, **changes: TeachingConfig(
        data=memes_file, finetune=settings_of(family, **changes)
    )


def stop_at(step: int) -> RunHooks:
    left = iter(range(step - 1, -1, -1))
    return RunHooks(training=Hooks(should_stop=lambda: next(left) == 0))


@pytest.mark.parametrize(("family", "what"), [("fusion", "vision"), ("clip", "all")])
def test_a_stopped_training_resumes_bit_equal_from_the_cache(
    config_of: Callable[..., TeachingConfig], tmp_path: Path, family: str, what: Freeze
) -> None:
    config, folder = config_of(family, freeze=what), tmp_path / "stopped"
    with pytest.raises(StoppedError, match="a checkpoint is saved"):
        fine_tune_teacher(config, folder, hooks=stop_at(3))
    kept = folder / "encoded" / "images.npy"
    made = kept.stat().st_ino
    with pytest.raises(StoppedError):
        fine_tune_teacher(config, folder, resume=True, hooks=stop_at(2))
    assert kept.stat().st_ino == made
    resumed = fine_tune_teacher(config, folder, resume=True)
    assert not kept.exists()
    whole = tmp_path / "whole"
    assert fine_tune_teacher(config, whole) == resumed
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )
    name = "model.safetensors"
    assert sha256_of_file(folder / name) == sha256_of_file(whole / name)


def test_a_damaged_or_outdated_cache_is_computed_again(
    build: Callable[..., Built], tmp_path: Path
) -> None:
    built, folder = build("clip", "vision"), tmp_path / "encoded"
    notes: list[str] = []
    hooks = StageHooks(on_note=notes.append)
    encoded(built, folder, hooks, data="one")
    expected = kept_in(folder / "images.npy")
    encoded(built, folder, hooks, data="one")
    assert len(notes) == 1
    assert "MB for" in notes[0]
    with (folder / "images.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"damage")
    encoded(built, folder, hooks, data="one")
    assert len(notes) == 2
    assert np.array_equal(kept_in(folder / "images.npy"), expected)
    encoded(built, folder, hooks, data="other")
    assert len(notes) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["encoded"]


def test_a_stop_during_encoding_leaves_no_partial_cache(
    config_of: Callable[..., TeachingConfig], tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "images encoded":
            raise StoppedError("stopped")

    folder = tmp_path / "teacher"
    config = config_of("clip", freeze="all")
    with pytest.raises(StoppedError):
        fine_tune_teacher(config, folder, hooks=RunHooks(StageHooks(on_count=stop)))
    assert [path.name for path in folder.iterdir()] == ["training.json"]
    fine_tune_teacher(config, folder, resume=True)


def test_a_full_disk_is_reported_before_encoding(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = namedtuple("room", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room(0, 0, 0))
    with pytest.raises(ArtifactError, match=r"need 0 MB for \d+ images, but only 0 MB are free"):
        encoded(build("clip", "vision"), tmp_path / "encoded")
    assert list(tmp_path.iterdir()) == []


def test_vilt_has_no_vision_encoder_to_freeze(
    config_of: Callable[..., TeachingConfig], tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"ViLT has no separate vision encoder.*--freeze all, or --freeze none"
    ) as caught:
        fine_tune_teacher(config_of("vilt", freeze="vision"), tmp_path / "teacher")
    assert caught.value.where == "finetune.freeze"
    assert list(tmp_path.iterdir()) == []


def test_the_metrics_are_those_of_the_written_folder_from_pixels(
    config_of: Callable[..., TeachingConfig], build: Callable[..., Built], tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    result = fine_tune_teacher(config_of("clip", freeze="all"), folder)
    loaded = load_classifier(folder)
    assert is_frozen(loaded.model) is False
    split = build("clip", "none").data.splits["test"]
    logits = predict_views(loaded.model, split)[View.MULTIMODAL]
    stated = result["test"]["multimodal"]["value"]  # type: ignore[index]
    assert stated == round(float((logits.argmax(axis=1) == split.labels).mean()), 6)
    assert read_json(folder / "manifest.json")["teaching"]["finetune"]["freeze"] == "all"  # type: ignore[index]


def test_a_pooler_that_the_checkpoint_lacks_learns_even_where_all_is_frozen(
    published: dict[str, Path], build: Callable[..., Built], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(published["vilt"], tmp_path / "vilt"))
    weights = load_file(other / "model.safetensors")
    bare = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    assert len(bare) == len(weights) - 2
    save_file(bare, other / "model.safetensors", metadata={"format": "pt"})
    start = open_start(FineTuneConfig(model=str(other), freeze="all"))
    built = build("vilt", "all")
    model = start.build(
        built.preprocessor,
        labels=built.data.info.labels,
        problem=built.data.info.problem,
        dropout=0.0,
    )
    freeze(model, "all")
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    pooler = {f"encoder.parts.model.pooler.dense.{part}" for part in ("weight", "bias")}
    assert learning == pooler | {"classifier.weight", "classifier.bias"}
    whole = replace(built, model=model)
    assert encoded(whole, tmp_path / "encoded") is built.data
    assert not (tmp_path / "encoded").exists()


@pytest.mark.parametrize("change", [{"preset": "light"}, {"mixup": 0.5}, {"word_dropout": 0.1}])
def test_what_is_frozen_cannot_be_augmented(change: dict[str, Any]) -> None:
    frozen = FineTuneConfig(model="clip", freeze="vision")
    with pytest.raises(ConfigError, match="examples cannot be augmented"):
        TeachingConfig(finetune=frozen, augment=AugmentConfig(**change))
    TeachingConfig(finetune=frozen)
