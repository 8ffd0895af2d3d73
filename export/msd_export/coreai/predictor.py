"""Run an .aimodel asset in Core AI: the system's on macOS 27, elsewhere the one that pip installs.

The latter gives the numbers of the former, and not its speed.
"""

import asyncio
import platform
import sys
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from msd_deploy.errors import ArtifactError
from msd_deploy.quiet import quiet
from msd_export.coreai.asset import MAIN_FUNCTION, metadata_of, open_asset, try_asset
from msd_export.signature import (
    INPUT_NAMES,
    OUTPUT_NAMES,
    TEXT_ENTRY,
    TEXT_INPUT_NAMES,
    Logits,
    ModelInputs,
    refuse_other_probabilities,
    single_examples,
    without_image,
)

if TYPE_CHECKING:
    from coreai.runtime import AIModel, InferenceFunction

_T = TypeVar("_T")

SYSTEM_RUNTIME, PIP_RUNTIME = "Core AI", "Core AI (pip)"
_FIRST_MACOS = 27


def core_ai_runtime() -> str:
    """Return which Core AI runs assets on this machine."""
    release = platform.mac_ver()[0].partition(".")[0] if sys.platform == "darwin" else ""
    return SYSTEM_RUNTIME if release and int(release) >= _FIRST_MACOS else PIP_RUNTIME


class CoreAIEntry:
    """A function of an asset, which takes one example at a time; see `signature.Predictor`.

    Args:
        function: The function.
        names: Its inputs.
        metadata: Of the asset.
        path: The asset.
    """

    runtime = core_ai_runtime()

    def __init__(
        self,
        function: "InferenceFunction",
        names: Sequence[str],
        metadata: dict[str, str],
        path: Path,
    ) -> None:
        self._function, self._names, self._path = function, names, path
        self.metadata = metadata

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits; see `signature.Predictor`.

        Raises:
            ParityError: The asset's probabilities are not its logits'.
        """
        outputs = list(map(self._run, single_examples(inputs, self._names)))
        logits, given = map(np.concatenate, zip(*outputs, strict=True))
        if "image_present" not in self._names:
            inputs = without_image(inputs)
        refuse_other_probabilities((logits, given), inputs, self.metadata, self._path)
        return logits

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Hand inputs over; see `signature.TimedPredictor`. Not for where a loop runs already."""
        rows = [self._given(example) for example in single_examples(inputs, self._names)]
        loop = asyncio.new_event_loop()
        return lambda: [loop.run_until_complete(self._function(row)) for row in rows]

    def _given(self, example: ModelInputs) -> dict[str, Any]:
        from coreai.runtime import NDArray

        return {name: NDArray(example[name]) for name in self._names}

    def _run(self, example: ModelInputs) -> list[Logits]:
        outputs = _result(self._function(self._given(example)))
        return [np.asarray(outputs[name].numpy(), np.float32) for name in OUTPUT_NAMES]


class CoreAIPredictor(CoreAIEntry):
    """An .aimodel asset, run by Core AI.

    Args:
        path: The asset's folder.

    Raises:
        ArtifactError: Core AI cannot load it.
    """

    def __init__(self, path: Path) -> None:
        try:
            with quiet():
                if self.runtime == PIP_RUNTIME:
                    try_asset(path)
                model = _result(_load(open_asset(path)))
                function = model.load_function(MAIN_FUNCTION)
                super().__init__(function, INPUT_NAMES, metadata_of(path), path)
                self.text_entry = _text_entry(model, self)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise ArtifactError(f"Core AI cannot load it ({reason})", where=path) from error
        self._model = model

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Hand inputs over, a text alone to the function for it; see `signature.TimedPredictor`."""
        if self.text_entry is not None and not inputs["image_present"].any():
            return self.text_entry.prepare(inputs)
        return super().prepare(inputs)


def _text_entry(model: "AIModel", whole: CoreAIPredictor) -> CoreAIEntry | None:
    if TEXT_ENTRY not in model.function_names:
        return None
    function = model.load_function(TEXT_ENTRY)
    return CoreAIEntry(function, TEXT_INPUT_NAMES, whole.metadata, whole._path)


async def _load(asset: Any) -> "AIModel":
    async with asset.executable() as model:
        return model


def _result(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine returns; a thread of its own, since a notebook's has a loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
