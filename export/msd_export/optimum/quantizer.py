"""OnnxQuantizer: our static int8 quantization as Optimum's OptimumQuantizer."""

from pathlib import Path
from typing import Any

from optimum.quantization_base import OptimumQuantizer

from msd_deploy.errors import ArtifactError
from msd_export.folder import ExportFolder, open_export
from msd_export.onnx.static_int8 import StaticQuantizer
from msd_export.optimum.model import ExportedModel
from msd_export.signature import ModelInputs


class OnnxQuantizer(OptimumQuantizer):  # type: ignore[misc]  # optimum has no types
    """Quantizes a float32 ONNX export to int8.

    What it writes is not verified: `msd export --precision int8` does that.

    Args:
        export: The export.

    Raises:
        ArtifactError: It is not onnx-fp32.
    """

    def __init__(self, export: ExportFolder) -> None:
        if export.name != "onnx-fp32":
            raise ArtifactError(
                f"is an export to {export.name}, and only onnx-fp32 can be quantized",
                where=export.folder,
            )
        self.export = export

    @classmethod
    def from_pretrained(
        cls, model_or_path: ExportedModel | str | Path, file_name: str | None = None
    ) -> "OnnxQuantizer":
        """Take a model, or open an export folder; `file_name` is the export's own.

        Raises:
            ArtifactError: It is no onnx-fp32 export.
        """
        if isinstance(model_or_path, ExportedModel):
            return cls(model_or_path.export)
        return cls(open_export(Path(model_or_path)))

    def quantize(
        self,
        save_dir: str | Path,
        file_prefix: str | None = None,
        *,
        calibration: ModelInputs,
        **kwargs: Any,
    ) -> Path:
        """Write the quantized file.

        Args:
            save_dir: Where; made if it is not there.
            file_prefix: The file's name without .onnx; None: model_quantized.
            calibration: Training examples of all three views, whose activations set the scales.
            kwargs: None is known.

        Returns:
            The file.

        Raises:
            ExportError: The quantizer failed.
        """
        if kwargs:
            raise TypeError(f"unknown arguments {', '.join(kwargs)}")
        folder = Path(save_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{file_prefix or 'model_quantized'}.onnx"
        StaticQuantizer(self.export.model_path, calibration).write(path)
        return path
