"""FILE.jsonl: one JSON object a line with image, text, label or labels, and perhaps split.

A row that cannot be used is named and left out, never a crash. Pictures are hashed here, not
decoded: a broken one is found when the set is prepared. Rows without a label are trained on, with
the teacher's answers alone. How one row is read is `jsonl_rows`, what they make together
`from_rows`.
"""

from pathlib import Path

from msd_deploy.data.from_rows import FoundRows, source_from_rows
from msd_deploy.data.jsonl_rows import Scan, scan_rows
from msd_deploy.data.rows import Row, shown
from msd_deploy.data.source_types import SkippedRow, SourceData, SourceOptions
from msd_deploy.errors import DataError

_FORM = "Write one JSON object a line with image or text, and label"


def load_jsonl(path: Path, options: SourceOptions) -> SourceData:
    """Read a FILE.jsonl.

    `image` is relative to the file's folder and may not leave it; "" and null are absent, as is a
    text of white space. A class is its name: the label 1 equals the label "1". Without a closed
    list of labels, a class that one single row carries is taken for a slip. Rows without `split`
    go 80/10/10 by the SHA-256 of their picture's bytes, else of their text; a row whose picture has
    a split in another row follows it.

    Args:
        path: The file.
        options: `labels` and `strict` are used.

    Raises:
        DataError: The file is missing, holds no usable row, mixes `label` and `labels`, has one
            single class or no training rows; with strict, any row cannot be used.
    """
    scan = scan_rows(path)
    _refuse_mixed_labels(path, scan)
    rows = _rows_with_known_labels(scan, options.labels)
    found = FoundRows(
        where=path,
        rows=rows,
        skipped=tuple(SkippedRow(f"{path}:{at}", scan.skipped[at]) for at in sorted(scan.skipped)),
        problem="multi_label" if "labels" in scan.first_line_with else "single_label",
        labels=options.labels,
        form=_FORM,
    )
    return source_from_rows(found, strict=options.strict)


def _refuse_mixed_labels(path: Path, scan: Scan) -> None:
    if len(scan.first_line_with) == 2:
        raise DataError(
            f"mixes label (line {scan.first_line_with['label']}) and labels"
            f" (line {scan.first_line_with['labels']})",
            where=path,
            fix="Give every row a label, or every row a list of labels",
        )


def _rows_with_known_labels(scan: Scan, closed: tuple[str, ...] | None) -> list[Row]:
    """Return the rows whose classes are known; name the others in `scan.skipped`."""
    known = []
    for row in scan.rows:
        for name in row.labels or ():
            if closed is not None and name not in closed:
                scan.skipped[row.line] = f"unknown label {shown(name)}"
            elif closed is None and scan.class_rows[name] == 1:
                scan.skipped[row.line] = (
                    f"unknown label {shown(name)}: no other row has it; name the classes with"
                    " --labels to keep it"
                )
        if row.line not in scan.skipped:
            known.append(row)
    return known
