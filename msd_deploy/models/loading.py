"""Load the model of a transformers folder; what its config.json states is checked first.

A configuration can name code, such as attention kernels of the hub, and sizes. Nothing that it
names is run, and no more memory is taken than the weights' files justify, whatever number it holds.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_modules
from transformers import PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.errors import ArtifactError, MsdError
from msd_deploy.quiet import quiet_transformers

CONFIG_NAME = "config.json"
# The largest vocabulary of a published model of BERT's type, XLM-V's, has 901,629 tokens.
_MOST = 2**20
# Keys by which transformers imports further packages, kernels of the hub or other files.
_CODE = (
    *("quantization_config", "fusion_config", "transformers_weights", "per_layer_config"),
    *("experts_implementation", "_experts_implementation"),
)
_ATTENTION = ("attn_implementation", "_attn_implementation")
_OF_TRANSFORMERS = (None, "eager", "sdpa")
# Of random weights; published models have 1 or less.
_MOST_SPREAD = 100
# The field of a configuration that is wrong is on the first line, and why on the second.
_LONGEST_REASON = 200
# Parameters that a checkpoint may lack.
_OPTIONAL_PARAMETERS = 1_000_000


def load_weights(
    kind: type[PreTrainedModel] | type[_BaseAutoModelClass], folder: Path
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Load a folder's model in float32, from safetensors only.

    Args:
        kind: The model's class, or one of transformers' auto classes.
        folder: The folder.

    Returns:
        The model, in eval mode, and `missing_keys` and `unexpected_keys` of the weights.

    Raises:
        ArtifactError: It cannot be loaded, or its configuration and weights do not match.
    """
    path = folder / CONFIG_NAME
    check_config(path)
    loader: Any = kind  # with output_loading_info it returns two things, unlike its annotation
    fix = "Restore the folder, or download it again"
    try:
        with quiet_transformers(), _no_larger_than_weights(folder):
            model, report = loader.from_pretrained(
                folder,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
    except MsdError as error:
        what = error.what if error.where is None else f"{error.where}: {error.what}"
        raise ArtifactError(what, where=path, fix=error.fix or fix) from error
    except Exception as error:  # whatever a class of transformers raises for an odd value
        raise ArtifactError(
            f"model cannot be loaded ({reason_of(error)})", where=folder, fix=fix
        ) from error
    assert isinstance(model, PreTrainedModel)
    for name, stored, described in sorted(report["mismatched_keys"]):
        raise ArtifactError(
            f"describes {name} as {list(described)}, and the weights have {list(stored)}",
            where=path,
            fix=fix,
        )
    return model, report


def reason_of(error: Exception) -> str:
    """Return the beginning of a library's message in one line, or the name of the exception."""
    return (" ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__).rstrip(".")


def check_config(path: Path) -> None:
    """Check what transformers would act on in a config.json before it checks that itself.

    Raises:
        ArtifactError: It cannot be read, names code, or has a number that no model has.
    """
    _check_values(read_json(path), "", path)


def _check_values(value: object, key: str, path: Path) -> None:
    name = key.rpartition(".")[2]
    if name in _CODE and value is not None:
        _refuse(key, value, "no code or file that a configuration names is loaded", path)
    if name in _ATTENTION and value not in _OF_TRANSFORMERS:
        _refuse(key, value, "only eager and sdpa are supported", path)
    if isinstance(value, dict):
        for part, item in value.items():
            _check_values(item, f"{key}.{part}" if key else part, path)
    elif isinstance(value, list):
        for item in value:
            _check_values(item, key, path)
    elif value is not None:
        _check_number(value, key, path)


def _check_number(value: object, key: str, path: Path) -> None:
    name, number = key.rpartition(".")[2], value if isinstance(value, (int, float)) else None
    if isinstance(value, int) and abs(value) > _MOST:
        _refuse(key, value, f"no number above {_MOST:,} is supported", path)
    if isinstance(value, bool) and (name.startswith("num_") or name.endswith(("_size", "_eps"))):
        _refuse(key, value, "it must be a number", path)
    if name.startswith("initializer_") and not (number is not None and 0 < number <= _MOST_SPREAD):
        _refuse(key, value, f"it must be a number above 0, {_MOST_SPREAD} at most", path)
    if name.endswith(("_eps", "_heads")) and not (number is not None and number > 0):
        _refuse(key, value, "it must be a positive number", path)


def _refuse(key: str, value: object, reason: str, path: Path) -> None:
    raise ArtifactError(
        f"has {key} {value!r}: {reason}",
        where=path,
        fix="Restore it, or use another checkpoint",
    )


@contextmanager
def _no_larger_than_weights(folder: Path) -> Iterator[None]:
    """Refuse a model of many more numbers than its files have bytes, while it has no memory yet.

    transformers builds a model without memory (on the meta device) before it reads weights.
    """
    room = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    room += _OPTIONAL_PARAMETERS

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal room
        if tensor is not None and tensor.is_meta:
            room -= max(1, tensor.numel())
        if room < 0:
            raise ArtifactError("describes a larger model than the weights")

    added = [
        hooks_of_modules.register_module_parameter_registration_hook(count),
        hooks_of_modules.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in added:
            hook.remove()
