import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.distill import DistillConfig, Method
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.parsing import config_as_json, with_options
from msd_deploy.config.run import (
    DataConfig,
    RunConfig,
    StudentConfig,
    TeacherConfig,
    config_from_json,
    read_config,
)
from msd_deploy.config.setting import Declaration, declarations
from msd_deploy.errors import ConfigError
from msd_deploy.study.config import StudyConfig
from msd_export.config import ExportConfig
from msd_mobile_bench.config import BenchConfig


def test_json_and_back_is_the_same() -> None:
    config = with_options(RunConfig(), {"data.labels": ("a", "b"), "teacher.path": Path("t")})
    assert config_from_json(config_as_json(config)) == config


def test_options_override_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('seed = 3\n[student]\nsize = "small"\n[distill]\nalpha = 0\n')
    config = with_options(read_config(file), {"distill.alpha": 0.5, "seed": None})
    assert (config.seed, config.student.size, config.distill.alpha) == (3, "small", 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[distill]\nalpha = 2", r"distill\.alpha: must lie between 0 and 1, not 2"),
        ("[distill]\nalpha = true", r"distill\.alpha: must be a number, not true"),
        ("[distill]\nmethod = 'magic'", r"distill\.method: must be one of none, kd, msd"),
        ("[data]\nlabels = 'a,b'", r"data\.labels: must be a list of strings"),
        ("[datta]\n", r"datta: unknown key\. Did you mean data\? Known keys: "),
        ("[distill]\ntemprature = 4", r"Did you mean distill\.temperature\? Known keys: alpha"),
        ("zzz = 1", r"zzz: unknown key\. Known keys: "),
        ("data = 1", "data: must be a table"),
        ("[data", "cannot be read as TOML"),
        ("[distill]\nalpha = nan", r"distill\.alpha: must lie between"),
        ("[distill]\ncheckpoint_seconds = -1", r"distill\.checkpoint_seconds: must lie between 0"),
        ("[data]\nseed = -1", r"data\.seed: must lie between 0 and"),
        ("seed = -1", r"seed: must lie between 0 and"),
        ("[teacher]\npath = ''", r"teacher\.path: must be a path, not ''"),
    ],
)
def test_a_mistake_names_its_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(file)


def test_a_missing_file_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file\. Check --config"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("method", ["kd", "msd"])
def test_alpha_of_1_is_refused_where_there_is_a_teacher(method: Method) -> None:
    with pytest.raises(ConfigError, match=r"distill\.alpha: 1 leaves no weight"):
        DistillConfig(method=method, alpha=1.0)
    assert DistillConfig(method="none", alpha=1.0).alpha == 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "msd", "multimodal_weight": 0.0, "image_weight": 0.0, "text_weight": 0.0},
        {"method": "kd", "multimodal_weight": 0.0},
    ],
)
def test_a_distillation_without_any_weight_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"distill\.method: .* needs a view weight above 0"):
        DistillConfig(**settings)
    DistillConfig(**settings | {"method": "none"})


CONFIGS = {
    DataConfig: "data",
    TeacherConfig: "teacher",
    StudentConfig: "student",
    DistillConfig: "distill",
    AugmentConfig: "augment",
    FineTuneConfig: "finetune",
    **dict.fromkeys((RunConfig, TeachingConfig, StudyConfig, BenchConfig, ExportConfig), ""),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_a_section_or_declares_a_help_text(config: Any) -> None:
    helps = {item.key: item.setting.help for item in declarations(config)}
    for item in fields(config):
        is_section = isinstance(item.type, type) and is_dataclass(item.type)
        assert is_section or helps[item.name].endswith("."), item.name


def numbers() -> Iterator[tuple[Any, Declaration]]:
    """Yield every configuration with each of its own numbers."""
    for config, section in CONFIGS.items():
        for item in declarations(config, section):
            is_own = item.key.count(".") == (1 if section else 0)
            if is_own and {item.type, *get_args(item.type)} & {int, float}:
                yield config, item


@pytest.mark.parametrize(("config", "item"), list(numbers()), ids=str)
def test_every_number_has_a_range_that_is_checked(config: Any, item: Declaration) -> None:
    is_float = float in {item.type, *get_args(item.type)}
    impossible = (-1.0, math.nan, math.inf, -math.inf) if is_float else (-1, 2**70)
    required = {"variants": ()} if config is ExportConfig else {}
    for value in impossible:
        with pytest.raises(ConfigError, match=f"^{item.key}: must lie between"):
            config(**required, **{item.key.rpartition(".")[2]: value})


def test_a_preset_fills_in_what_the_augment_table_leaves_open(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[augment]\npreset = "light"\nflip = 0.5\ncrop_area = 0.8\n')
    config = read_config(file)
    light = AugmentConfig(preset="light").strengths()
    assert light.changes_images
    assert config.augment.strengths() == replace(light, flip=0.5, crop_area=0.8)
    stronger = with_options(config, {"augment.preset": "strong"}).augment.strengths()
    strong = AugmentConfig(preset="strong").strengths()
    assert stronger == replace(strong, flip=0.5, crop_area=0.8)
    assert config_from_json(config_as_json(config)) == config


def test_by_default_nothing_is_augmented() -> None:
    strengths = RunConfig().augment.strengths()
    assert not strengths.changes_images
    assert strengths.word_dropout == 0


def test_an_unknown_preset_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[augment]\npreset = "extreme"\n')
    with pytest.raises(ConfigError, match=r"augment\.preset: must be one of none, light, strong"):
        read_config(file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "none"}, "no setting changes images"),
        ({"preset": "none", "word_dropout": 0.5}, "no setting changes images"),
    ],
)
def test_augmented_images_need_an_augmentation(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"augment\.views_per_picture: .*{message}"):
        AugmentConfig(views_per_picture=2, **settings)


@pytest.mark.parametrize("settings", [{"method": "none"}, {"hint_weight": 1.0}])
def test_augmented_images_are_refused_where_the_teacher_has_no_predictions_for_them(
    settings: dict[str, Any],
) -> None:
    augment = AugmentConfig(preset="light", views_per_picture=2)
    RunConfig(augment=augment)
    with pytest.raises(ConfigError, match=r"augment\.views_per_picture: (requires|excludes)"):
        RunConfig(augment=augment, distill=DistillConfig(**settings))
    with pytest.raises(ConfigError, match=r"augment\.views_per_picture: applies to"):
        TeachingConfig(augment=augment)
