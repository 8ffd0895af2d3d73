"""What a Core ML package states of itself."""

from pathlib import Path

from msd_export.coreml_package import read_spec


def stated_metadata(package: Path) -> dict[str, str]:
    """Return the user-defined metadata of a package.

    Raises:
        ArtifactError: It is not a package, or holds no ML Program.
    """
    return dict(read_spec(package).description.metadata.userDefined)
