"""The signature as Optimum states one: configuration, names of axes, dummy inputs."""

from typing import Any

import numpy as np
import torch
from optimum.exporters.base import ExporterConfig
from optimum.utils.input_generators import DummyInputGenerator, DummyTextInputGenerator
from optimum.utils.normalized_config import NormalizedConfig
from transformers import PreTrainedConfig

from msd_export.signature import INPUT_NAMES, OUTPUT_NAMES
from msd_export.tolerance import PARITY_TOLERANCE

_BATCH, _COLOURS = {0: "batch"}, 256


class ExportedConfig(PreTrainedConfig):
    """The labels and problem of an export folder as a configuration of transformers.

    Args:
        image_size: Height and width in pixels.
        max_text_length: Tokens of a text.
        vocab_size: Of the tokenizer.
        target: The export's format.
        precision: Its precision.
        kwargs: What every configuration has, for example `id2label`.
    """

    model_type = "msd_export"

    def __init__(
        self,
        image_size: tuple[int, int] = (48, 48),
        max_text_length: int = 32,
        vocab_size: int = 1000,
        target: str = "onnx",
        precision: str = "fp32",
        **kwargs: Any,
    ) -> None:
        self.image_size = list(image_size)
        self.max_text_length = max_text_length
        self.vocab_size = vocab_size
        self.target = target
        self.precision = precision
        super().__init__(**kwargs)


class DummyImageGenerator(DummyInputGenerator):  # type: ignore[misc]  # optimum has no types
    """Makes image, uint8 [batch, height, width, 3], and image_present, [batch].

    Args:
        task: Unused.
        normalized_config: Has the image's size.
        batch_size: Rows.
        kwargs: Of other generators.
    """

    SUPPORTED_INPUT_NAMES = ("image", "image_present")

    def __init__(
        self, task: str, normalized_config: Any, batch_size: int = 2, **kwargs: Any
    ) -> None:
        self.batch_size, self.image_size = batch_size, tuple(normalized_config.image_size)

    def generate(
        self,
        input_name: str,
        framework: str = "pt",
        int_dtype: str = "int32",
        float_dtype: str = "fp32",
    ) -> Any:
        """Return one input; see Optimum's DummyInputGenerator."""
        if input_name == "image_present":
            return self.random_int_tensor([self.batch_size], 2, framework=framework, dtype="int32")
        shape = [self.batch_size, *self.image_size, 3]
        pixels = self.random_int_tensor(shape, _COLOURS, framework=framework)
        return pixels.to(torch.uint8) if framework == "pt" else pixels.astype(np.uint8)


class DummyTokensGenerator(DummyTextInputGenerator):  # type: ignore[misc]  # optimum has no types
    """Makes input_ids and attention_mask of the only length that there is.

    Args:
        task: As there.
        normalized_config: Has the length and the vocabulary's size.
        kwargs: As there, but for sequence_length.
    """

    def __init__(self, task: str, normalized_config: Any, **kwargs: Any) -> None:
        length = {"sequence_length": normalized_config.max_text_length}
        super().__init__(task, normalized_config, **kwargs | length)


class ClassifierExporterConfig(ExporterConfig):  # type: ignore[misc]  # optimum has no types
    """The signature of every exported variant, of a student's FusionConfig or an ExportedConfig.

    Args:
        config: Has image_size, max_text_length and vocab_size.
        task: Optimum's name of the nearest task: an image and a text in, logits out.
    """

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyImageGenerator, DummyTokensGenerator)
    ATOL_FOR_VALIDATION = PARITY_TOLERANCE["fp32"].max_abs_error

    def __init__(self, config: PreTrainedConfig, task: str = "visual-question-answering") -> None:
        super().__init__(config, task, int_dtype="int32")

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Names of the inputs and of their free axes."""
        return {name: dict(_BATCH) for name in INPUT_NAMES}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Names of the outputs and of their free axes."""
        return {name: dict(_BATCH) for name in OUTPUT_NAMES}
