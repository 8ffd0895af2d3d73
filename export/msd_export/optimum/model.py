"""ExportedModel: an export folder of any format as Optimum's OptimizedModel."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from huggingface_hub import HfApi, snapshot_download
from numpy.typing import NDArray
from optimum.modeling_base import OptimizedModel
from PIL import Image
from transformers.utils.generic import ModelOutput

from msd_deploy.artifacts.manifest import MANIFEST_NAME, read_versioned_json
from msd_deploy.data.images import to_rgb
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.resize import PixelArray, resize_to_spec
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.metrics import probabilities
from msd_deploy.models.classifier import task_config
from msd_deploy.models.folders import read_labels
from msd_deploy.temperatures import read_temperatures
from msd_export.folder import ExportFolder, open_export
from msd_export.optimum.config import ExportedConfig
from msd_export.predictors import open_predictor
from msd_export.signature import Logits, ModelInputs, Predictor, calibrated

ImageSource = Path | str | bytes | Image.Image | None
"""A file, encoded bytes, or an upright image of Pillow's; None: no image."""


@dataclass
class ClassifierOutput(ModelOutput):
    """The output of a model.

    Attributes:
        logits: float32 [batch, classes].
        probabilities: float64 [batch, classes].
    """

    logits: Logits | None = None
    probabilities: NDArray[np.float64] | None = None


class ExportedModel(OptimizedModel):  # type: ignore[misc]  # optimum has no types
    """A verified export behind Optimum's interface; `from_pretrained` opens one.

    Args:
        model: Runs it.
        config: Labels, problem and shapes.
        export: Its folder.
    """

    base_model_prefix = "exported_model"
    config_class = ExportedConfig

    def __init__(self, model: Predictor, config: ExportedConfig, export: ExportFolder) -> None:
        super().__init__(model, config)
        self.export = export
        self.preprocessor = Preprocessor.load(export.folder)
        _, self.problem = read_labels(export.folder)
        self.temperatures = read_temperatures(export.folder)

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | Path,
        *,
        subfolder: str = "",
        trust_remote_code: bool = False,
        threads: int = 1,
        **hub: Any,
    ) -> "ExportedModel":
        """Open an export folder, every file verified against its digest.

        Args:
            model_id: The folder, or a repository of the hub that holds one.
            subfolder: Where it lies in there.
            trust_remote_code: Must be false: no code of a checkpoint is ever run.
            threads: CPU threads of its runtime.
            hub: revision, token, cache_dir, local_files_only and force_download of huggingface_hub.

        Raises:
            ConfigError: An argument of Optimum's requests what is not supported here.
            ArtifactError: It is no export, altered, or cannot be fetched.
        """
        if trust_remote_code:
            raise ConfigError("code from a checkpoint is never run", where="trust_remote_code")
        if hub.pop("export", False):
            raise ConfigError(
                "a model cannot be exported while it is loaded",
                where="export",
                fix="Run `msd export` first",
            )
        root = Path(model_id) if Path(model_id).is_dir() else _fetch(str(model_id), subfolder, hub)
        export = open_export(root / subfolder)
        return cls(
            open_predictor(export.target, export.model_path, threads=threads),
            config_of(export),
            export,
        )

    def forward(
        self,
        image: ImageSource | Sequence[ImageSource] | NDArray[np.uint8] = None,
        text: str | Sequence[str] | None = None,
        *,
        image_present: NDArray[np.generic] | None = None,
        input_ids: NDArray[np.generic] | None = None,
        attention_mask: NDArray[np.generic] | None = None,
    ) -> ClassifierOutput:
        """Classify images and texts, or prepared inputs (see `ModelInputs`).

        Args:
            image: An image or several; with input_ids uint8 [batch, height, width, 3].
            text: A text or several, as many as images; "" is no text.
            image_present: int32 [batch], with input_ids.
            input_ids: int32 [batch, length].
            attention_mask: int32 [batch, length], with input_ids.

        Raises:
            ConfigError: There is nothing to classify, or not as many images as texts.
            DataError: An image cannot be read.
        """
        if input_ids is None:
            inputs = self._prepare(image, text)
        else:
            given = (image, image_present, input_ids, attention_mask)
            names = ("image", "image_present", "input_ids", "attention_mask")
            missing = [name for name, value in zip(names, given, strict=True) if value is None]
            if missing:
                raise ConfigError(f"input_ids are given without {', '.join(missing)}")
            inputs = {n: np.asarray(value) for n, value in zip(names, given, strict=True)}
        logits = self.model.predict(inputs)
        scaled = calibrated(logits, inputs, self.temperatures)
        return ClassifierOutput(logits, probabilities(scaled, self.problem))

    def push_to_hub(
        self,
        save_directory: str,
        repository_id: str,
        private: bool | None = None,
        token: bool | str | None = None,
    ) -> str:
        """Upload a saved folder; return its address.

        Optimum's own drops the folders that files lie in, and a Core ML package is one.
        """
        api = HfApi(token=token)
        api.create_repo(repo_id=repository_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository_id, folder_path=save_directory))

    def _save_config(self, save_directory: str | Path) -> None:
        """Write nothing: manifest.json and labels.json are the configuration."""

    def _save_pretrained(self, save_directory: str | Path) -> None:
        shutil.copytree(self.export.folder, save_directory, dirs_exist_ok=True)

    def _prepare(self, image: object, text: str | Sequence[str] | None) -> ModelInputs:
        images = cast(list[ImageSource], _listed(image))
        texts = [text] if isinstance(text, str) else list(text or [])
        rows = max(len(images), len(texts))
        images, texts = images or [None] * rows, texts or [""] * rows
        if not rows or len(images) != len(texts):
            given = f"{len(images)} images and {len(texts)} texts" if rows else "nothing"
            raise ConfigError(
                f"{given} to classify", fix="Pass as many images as texts, or only one of the two"
            )
        input_ids, attention_mask = self.preprocessor.tokens(texts)
        return {
            "image": np.stack([self._pixels(image) for image in images]),
            "image_present": np.array([p is not None for p in images], np.int32),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
        }

    def _pixels(self, image: ImageSource) -> PixelArray:
        spec = self.preprocessor.image
        if image is None:
            return np.zeros((*spec.size, 3), np.uint8)
        if isinstance(image, Image.Image):
            return resize_to_spec(to_rgb(image), spec)
        source = image if isinstance(image, bytes) else Path(image)
        return self.preprocessor.pixels(source)


def config_of(export: ExportFolder) -> ExportedConfig:
    """Return an export's configuration, made of what lies in its folder."""
    labels, problem = read_labels(export.folder)
    preprocessor = Preprocessor.load(export.folder)
    return ExportedConfig(
        image_size=preprocessor.image.size,
        max_text_length=preprocessor.max_length,
        vocab_size=preprocessor.tokenizer.get_vocab_size(),
        target=export.target,
        precision=export.precision,
        **task_config(labels, problem),
    )


def _listed(image: object) -> list[object]:
    if image is None:
        return []
    return list(image) if isinstance(image, list | tuple) else [image]


def _fetch(repository: str, subfolder: str, hub: dict[str, Any]) -> Path:
    """Download an export from the hub: the files that its manifest names and no others."""
    inside = f"{subfolder}/" if subfolder else ""
    try:
        root = Path(snapshot_download(repository, allow_patterns=[inside + MANIFEST_NAME], **hub))
        named = read_versioned_json(root / inside / MANIFEST_NAME).get("files")
        patterns = [f"{inside}{name}" for name in named] if isinstance(named, dict) else []
        return Path(
            snapshot_download(repository, allow_patterns=[inside + MANIFEST_NAME, *patterns], **hub)
        )
    except (OSError, ValueError) as error:  # the bases of huggingface_hub's errors
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ArtifactError(
            f"is neither an export folder nor a repository on the Hub ({reason})",
            where=repository,
        ) from error
