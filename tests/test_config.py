from pathlib import Path

import pytest

from msd_deploy.config import (
    RunConfig,
    config_as_json,
    config_from_json,
    read_config,
    with_options,
)
from msd_deploy.errors import ConfigError


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
        ("[distill]\nalpha = true", r"distill\.alpha: must be of type float, not True"),
        ("[distill]\nmethod = 'magic'", r"distill\.method: must be one of none, kd, msd"),
        ("[data]\nlabels = 'a,b'", r"data\.labels: must be a list of strings"),
        ("[datta]\n", "datta: unknown key"),
        ("data = 1", "data: must be a table"),
        ("[data", "cannot be read as TOML"),
        ("[distill]\nalpha = nan", r"distill\.alpha: must lie between"),
    ],
)
def test_a_mistake_names_its_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(file)
