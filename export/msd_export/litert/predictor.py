"""Run a .tflite file in LiteRT's interpreter; imports no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from msd_deploy.errors import ArtifactError
from msd_deploy.quiet import quiet
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
    from ai_edge_litert.interpreter import Interpreter


MAIN_ENTRY = "serving_default"
"""The signature for image and text; also what the interpreter runs without a signature."""


class LiteRTPredictor:
    """A .tflite file, run by LiteRT on the CPU (XNNPACK), one example at a time.

    Args:
        path: The file.
        threads: Threads within an operator.

    Raises:
        ArtifactError: LiteRT cannot load it, or its inputs are not a student's.
    """

    runtime = "LiteRT"

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._path = path
        self._metadata: dict[str, str] | None = None
        try:
            with quiet():
                from ai_edge_litert.interpreter import Interpreter

                self._interpreter = Interpreter(str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
                self._inputs, self._outputs = _places(self._interpreter)
                self.text_entry = _text_entry(self._interpreter, self)
        except (ValueError, RuntimeError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise ArtifactError(f"LiteRT cannot load it ({reason})", where=path) from error

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the file; see `signature.ExportPredictor`."""
        if self._metadata is None:
            with quiet():
                from msd_export.litert.program import metadata_of

                self._metadata = metadata_of(self._path)
        return self._metadata

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits; see `signature.Predictor`.

        Raises:
            ParityError: The file's probabilities are not its logits'.
        """
        return self.checked(list(map(self._predict_one, single_examples(inputs))), inputs)

    def checked(self, outputs: list[list[Logits]], inputs: ModelInputs) -> Logits:
        """Return the logits, [rows, classes], of rows of logits and probabilities.

        Raises:
            ParityError: The probabilities are not the logits'.
        """
        logits, given = map(np.concatenate, zip(*outputs, strict=True))
        refuse_other_probabilities((logits, given), inputs, self.metadata, self._path)
        return logits

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Return a call that copies the inputs into LiteRT's memory, as an app does, and runs.

        A text alone is given to the entry point for it. See `signature.TimedPredictor`.
        """
        if self.text_entry is not None and not inputs["image_present"].any():
            return self.text_entry.prepare(inputs)
        examples = list(single_examples(inputs))

        def run() -> None:
            for example in examples:
                self._run(example)

        return run

    def _run(self, example: ModelInputs) -> None:
        for name, place in self._inputs.items():
            self._interpreter.set_tensor(place, example[name])
        self._interpreter.invoke()

    def _predict_one(self, example: ModelInputs) -> list[Logits]:
        self._run(example)
        return [cast(Logits, self._interpreter.get_tensor(place)) for place in self._outputs]


class LiteRTTextEntry:
    """The signature of a .tflite file that takes a text alone; see `signature.Predictor`.

    Args:
        interpreter: Of the file.
        whole: Its predictor.
    """

    runtime = LiteRTPredictor.runtime

    def __init__(self, interpreter: "Interpreter", whole: LiteRTPredictor) -> None:
        self._interpreter, self._whole = interpreter, whole

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits of texts, whatever their images; see `signature.Predictor`.

        Raises:
            ParityError: The file's probabilities are not its logits'.
        """
        outputs = map(self._run, single_examples(inputs, TEXT_INPUT_NAMES))
        rows = [[output[name] for name in OUTPUT_NAMES] for output in outputs]
        return self._whole.checked(rows, without_image(inputs))

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Return a call that runs texts, one after the other."""
        texts = list(single_examples(inputs, TEXT_INPUT_NAMES))
        return lambda: [self._run(text) for text in texts]

    def _run(self, text: ModelInputs) -> dict[str, Logits]:
        # While a runner is held, LiteRT refuses to run the interpreter otherwise; a new one takes
        # 2.5 microseconds.
        outputs = self._interpreter.get_signature_runner(TEXT_ENTRY)(**text)
        return cast(dict[str, Logits], outputs)


def _places(interpreter: "Interpreter") -> tuple[dict[str, int], list[int]]:
    """Return the numbers of the tensors that the file's signature calls by our names."""
    runner = interpreter.get_signature_runner(main_signature(interpreter))
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return (
        {name: inputs[name]["index"] for name in INPUT_NAMES},
        [outputs[name]["index"] for name in OUTPUT_NAMES],
    )


def main_signature(interpreter: "Interpreter") -> str | None:
    """Return the name of the signature for image and text; None, the only one, of older files."""
    return MAIN_ENTRY if len(interpreter.get_signature_list()) > 1 else None


def _text_entry(interpreter: "Interpreter", whole: LiteRTPredictor) -> LiteRTTextEntry | None:
    has_one = TEXT_ENTRY in interpreter.get_signature_list()
    return LiteRTTextEntry(interpreter, whole) if has_one else None
