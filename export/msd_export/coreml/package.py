"""Read a Core ML package without altering it; write one whose bytes depend on the model alone.

Covers the package as a folder, its description and its metadata. The program in the description is
read by `coreml/spec.py`.
"""

import json
import uuid
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from msd_deploy.errors import ArtifactError, ExportError
from msd_deploy.quiet import quiet_python
from msd_export.signature import CLASS_OUTPUTS

CLASS_LABEL, CLASS_PROBABILITIES = CLASS_OUTPUTS
SPEC_PATH = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS_PATH = Path("Data/com.apple.CoreML/weights")
_MANIFEST_NAME = "Manifest.json"
_DEBUG_NAME = "executorch_debug_handle_mapping.json"
_OF_CLASS_LABEL = "The class with the highest probability, whatever that is."
_OF_PROBABILITIES = "The probabilities by class."
_CONVERSION_DATE = "com.github.apple.coremltools.conversion_date"


Spec: TypeAlias = Any
"""A Model message of coremltools' protobuf, for which there are no type stubs."""


class CoreMLModel(Protocol):
    """The part of coremltools' MLModel that is used here."""

    user_defined_metadata: MutableMapping[str, str]
    input_description: MutableMapping[str, str]
    output_description: MutableMapping[str, str]
    weights_dir: str | None

    def get_spec(self) -> Spec:
        """Return a copy of the model's description."""
        ...

    def save(self, save_path: str) -> None:
        """Write the package."""
        ...


def read_spec(package: Path) -> Spec:
    """Read the model description of an .mlpackage; its weights lie below WEIGHTS_PATH.

    The files are only read. coremltools' MLModel(path) and load_spec rewrite Manifest.json when
    they open a package: that would alter an export that others read, and fail where it is
    read-only.

    Raises:
        ArtifactError: No such package, or no ML Program in it.
    """
    if not (package / _MANIFEST_NAME).is_file():
        raise ArtifactError(f"is not an .mlpackage: it has no {_MANIFEST_NAME}", where=package)
    with quiet_python():
        from coremltools.proto import Model_pb2
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs

        try:
            spec = Model_pb2.Model.FromString((package / SPEC_PATH).read_bytes())
        except (OSError, DecodeError) as error:
            raise ArtifactError(
                f"cannot be read as a Core ML model ({error})", where=package
            ) from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise ArtifactError("contains no ML Program", where=package)
    return spec


def rewrite_package(
    source: Path,
    destination: Path,
    change: Callable[[CoreMLModel], CoreMLModel],
    *,
    what: str,
) -> None:
    """Write a changed copy of a package, metadata and descriptions kept.

    Args:
        source: The .mlpackage; only read.
        destination: The .mlpackage to write; replaced where it exists.
        change: Returns the changed model, by coremltools.
        what: Operation named in errors, for example "quantization to int8".

    Raises:
        ArtifactError: The source is not a package, or holds no ML Program.
        ExportError: coremltools cannot change it.
    """
    spec = read_spec(source)
    with quiet_python():
        from coremltools.models import MLModel

        number_names_anew()
        try:
            changed = change(
                MLModel(spec, weights_dir=str(source / WEIGHTS_PATH), skip_model_load=True)
            )
        except Exception as error:  # coremltools raises all kinds, bare Exceptions included
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ExportError(f"the {what} failed ({reason})", where=source.name) from error
        save_package(changed, destination)


def number_names_anew() -> None:
    """Let coremltools number the names of new operations from 0, as in a new process.

    It counts over all programs that a process has converted or read since the last conversion, and
    the bytes of a package must depend on its model alone.
    """
    from coremltools.converters.mil import Builder

    Builder.name_count.clear()


def save_package(model: CoreMLModel, path: Path) -> None:
    """Write an .mlpackage whose bytes depend on the model and its metadata alone.

    coremltools adds the date of the conversion, random identifiers in Manifest.json, protobuf maps
    in any order, and after torch.export a file for ExecuTorch's debugger: the date and that file
    are left out, the identifiers are made from the items' paths, the maps are sorted.

    Args:
        model: An MLModel.
        path: The package's folder; replaced where it exists.
    """
    from coremltools.proto import Model_pb2

    model.user_defined_metadata.pop(_CONVERSION_DATE, None)
    model.save(str(path))
    (path / _DEBUG_NAME).unlink(missing_ok=True)
    spec = Model_pb2.Model.FromString((path / SPEC_PATH).read_bytes())
    (path / SPEC_PATH).write_bytes(spec.SerializeToString(deterministic=True))
    _replace_identifiers(path / _MANIFEST_NAME)


def add_class_label(package: Path, labels: Sequence[str]) -> None:
    """Give a package the outputs of a classifier beside its own: classLabel and its probabilities.

    Xcode and Vision expect them of a classifier. What coremltools' `ClassifierConfig` adds, which
    takes the output `probabilities` away and cannot be combined with named outputs; as there,
    classLabel is the class of the highest probability, and classLabel_probs has them all by class.

    Args:
        package: The .mlpackage, of one function with the output probabilities; changed.
        labels: Names of the classes, in the order of the probabilities.

    Raises:
        ArtifactError: It is not a package, or holds no ML Program.
    """
    spec = read_spec(package)
    (function,) = spec.mlProgram.functions.values()
    block = function.block_specializations[function.opset]
    operation = block.operations.add(type="classify")
    operation.inputs["probabilities"].arguments.add(name="probabilities")
    classes = operation.inputs["classes"].arguments.add().value
    classes.type.listType.type.CopyFrom(_text().type)
    classes.type.listType.length.constant.size = len(labels)
    classes.immediateValue.list.values.extend(map(_text, labels))
    operation.attributes["name"].CopyFrom(_text("classify"))
    label, by_class = operation.outputs.add(name=CLASS_LABEL), operation.outputs.add()
    label.type.CopyFrom(_text().type)
    by_class.name = CLASS_PROBABILITIES
    by_class.type.dictionaryType.keyType.CopyFrom(_text().type)
    by_class.type.dictionaryType.valueType.tensorType.dataType = _data_type("FLOAT64")
    block.outputs.extend([CLASS_LABEL, CLASS_PROBABILITIES])
    described = spec.description
    described.predictedFeatureName = CLASS_LABEL
    described.predictedProbabilitiesName = CLASS_PROBABILITIES
    label = described.output.add(name=CLASS_LABEL, shortDescription=_OF_CLASS_LABEL)
    label.type.stringType.SetInParent()
    by_class = described.output.add(name=CLASS_PROBABILITIES, shortDescription=_OF_PROBABILITIES)
    by_class.type.dictionaryType.stringKeyType.SetInParent()
    (package / SPEC_PATH).write_bytes(spec.SerializeToString(deterministic=True))


def _text(text: str | None = None) -> Spec:
    """Return a value of MIL that is a text; None: of its type alone."""
    from coremltools.proto import MIL_pb2

    value = MIL_pb2.Value()
    value.type.tensorType.dataType = _data_type("STRING")
    if text is not None:
        value.immediateValue.tensor.strings.values.append(text)
    return value


def _data_type(name: str) -> int:
    from coremltools.proto import MIL_pb2

    return int(MIL_pb2.DataType.Value(name))


def _replace_identifiers(manifest_path: Path) -> None:
    """Name each item by its path, in the form that Core ML's own library writes and keeps."""
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    items = manifest["itemInfoEntries"]
    renamed = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, items[key]["path"])) for key in items}
    manifest["itemInfoEntries"] = {renamed[key]: item for key, item in items.items()}
    manifest["rootModelIdentifier"] = renamed[manifest["rootModelIdentifier"]]
    text = json.dumps(manifest, indent=4, sort_keys=True) + "\n"
    manifest_path.write_text(text, encoding="utf-8")


def recorded_metadata(package: Path) -> dict[str, str]:
    """Return the user-defined metadata of a package.

    Raises:
        ArtifactError: It is not a package, or holds no ML Program.
    """
    return dict(read_spec(package).description.metadata.userDefined)
