"""What the file of any target states of itself, where its format has a place for it."""

from msd_export.export_folder import ExportFolder
from msd_export.quiet import quiet


def stated_metadata(export: ExportFolder) -> dict[str, str]:
    """Return the metadata of an export's file, as `ExportSource.metadata` made it.

    Raises:
        ArtifactError: The file cannot be read.
    """
    match export.target:
        case "coreml":
            from msd_export import coreml_statement

            return coreml_statement.stated_metadata(export.model_path)
        case "onnx" | "ort":
            from msd_export.predictors import OnnxPredictor

            return OnnxPredictor(export.model_path).metadata
        case "litert":
            with quiet():
                from msd_export.litert_program import metadata_of

                return metadata_of(export.model_path)
        case "executorch":
            with quiet():
                from msd_export.inspect_executorch import read_executorch

                return dict(read_executorch(export.model_path).metadata)
