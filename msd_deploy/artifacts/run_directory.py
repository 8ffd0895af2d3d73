"""RunDirectory: the paths of a run's files and folders."""

import re
from dataclasses import dataclass
from pathlib import Path

from msd_deploy.artifacts.manifest import RESTORE, Json, read_versioned_json
from msd_deploy.errors import ArtifactError

_DIGEST = re.compile("[0-9a-f]{64}")
_REQUIRED = ("config", "dataset_digest")
MODEL_FOLDERS = "Pass a run, a model folder, or a folder in a run's exports"


def check_model_exists(path: Path) -> None:
    """Check the path of a run, model or export folder, as commands do before slow imports.

    Raises:
        ArtifactError: Nothing is there.
    """
    if not path.exists():
        raise ArtifactError("no such folder", where=path, fix=MODEL_FOLDERS)


def _is_valid(key: str, value: object) -> bool:
    """Return whether a value of run.json is one of its key; keys of newer versions are ignored."""
    match key:
        case "msd_deploy" | "created_utc":
            return isinstance(value, str)
        case "seed":
            return type(value) is int
        case "config" | "class_weights":
            return isinstance(value, dict)
        case "teacher_digest" | "start_digest" if value is None:
            return True
        case (
            "dataset_digest"
            | "preprocess_digest"
            | "teacher_digest"
            | "image_teacher_digest"
            | "text_teacher_digest"
            | "start_digest"
        ):
            return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
        case "examples":
            return isinstance(value, dict) and all(
                type(count) is int and count >= 0 for count in value.values()
            )
        case "skipped_rows":
            return isinstance(value, list) and all(isinstance(row, str) for row in value)
        case "versions":
            return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    return True


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The paths of a run.

    Attributes:
        root: The run's folder, for example runs/memes.
    """

    root: Path

    @property
    def run_json(self) -> Path:
        """Configuration, seeds, digests and versions."""
        return self.root / "run.json"

    @property
    def study_json(self) -> Path:
        """What `msd compare` compares; a run of `msd distill` has none."""
        return self.root / "study.json"

    @property
    def history(self) -> Path:
        """One JSON object a line: loss terms while training, metrics at each evaluation."""
        return self.root / "history.jsonl"

    @property
    def metrics(self) -> Path:
        """The metrics of teacher and student, written last: a run without it is unfinished."""
        return self.root / "metrics.json"

    @property
    def teacher(self) -> Path:
        """The teacher's model folder."""
        return self.root / "teacher"

    @property
    def adapted_teacher(self) -> Path:
        """The model folder of the teacher adapted to single views, if one was requested."""
        return self.root / "adapted_teacher"

    @property
    def distilled_teacher(self) -> Path:
        """The model folder of the teacher that the student learns from."""
        return self.adapted_teacher if self.adapted_teacher.is_dir() else self.teacher

    @property
    def student(self) -> Path:
        """The student's model folder."""
        return self.root / "student"

    @property
    def teacher_predictions(self) -> Path:
        """The teacher's logits of every example under every view."""
        return self.root / "teacher_predictions"

    @property
    def example_weights(self) -> Path:
        """Weights that the finished student's method gives to each training example."""
        return self.root / "example_weights.safetensors"

    @property
    def checkpoints(self) -> Path:
        """What an interrupted training continues from."""
        return self.root / "checkpoints"

    @property
    def exports(self) -> Path:
        """One folder per exported form of the student."""
        return self.root / "exports"

    @property
    def teacher_exports(self) -> Path:
        """The teacher's exported forms: references for `msd bench`, never for an app."""
        return self.root / "teacher_exports"

    @property
    def trackers(self) -> Path:
        """What a tracker of experiments writes, such as TensorBoard's events."""
        return self.root / "trackers"

    @property
    def reports(self) -> Path:
        """Benchmark results and pages."""
        return self.root / "reports"

    def read(self) -> Json:
        """Read run.json.

        Raises:
            ArtifactError: The folder is not a run, of a newer schema, or a value is missing or of
                another type; names the key.
        """
        if not self.run_json.is_file():
            raise ArtifactError(
                "is not a run: it has no run.json",
                where=self.root,
                fix="Name the folder that `msd distill --out` wrote",
            )
        content = read_versioned_json(self.run_json)
        for key, value in (dict.fromkeys(_REQUIRED) | content).items():
            if not _is_valid(key, value):
                raise ArtifactError(
                    f"has no valid {key} ({value!r})", where=self.run_json, fix=RESTORE
                )
        return content
