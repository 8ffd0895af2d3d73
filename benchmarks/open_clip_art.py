# ruff: noqa: T201
"""Make a FILE.jsonl of real pictures with titles out of Debian's Open Clip Art packages.

openclipart-png and openclipart-svg (public domain, 155 MB) are downloaded and unpacked, not
installed. A picture's class is the folder it is filed under; its text is the title in its SVG twin.

Left out, since their title or folder says nothing about the picture:
- titles of sets: those that PICTURES_OF_A_SET pictures or more share (icon themes, playing cards),
  and "... collection", "... theme", "clipart by ...";
- folders that name no subject, and those left with fewer than LEAST_PICTURES_PER_CLASS pictures;
- second filings: a symbolic link, or the same bytes again, often under another class.
Near-duplicates share their title but for numbers, so the split is by a hash of the title without
them. Pictures are copied as they are: any size, one of 231 megapixels.

The SVG twins are parsed by expat up to their title. A file that declares an entity is left out
unread, so nothing is ever expanded; external DTDs are not fetched.

Usage: python benchmarks/open_clip_art.py OUT [--packages DIR] [--links]
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import sha256_of_file
from msd_deploy.artifacts.output import check_output
from msd_deploy.errors import DataError, MsdError, RuntimeUnavailableError

PACKAGES = ("openclipart-png", "openclipart-svg")
PICTURES_OF_A_SET = 20
LEAST_PICTURES_PER_CLASS = 60
NO_SUBJECT = frozenset({"shapes", "special", "unsorted"})
SET_TITLES = re.compile(r"collection|\btheme\b|-theme|icon ?set|clip ?arts? by|^clip ?arts?$", re.I)
JSONL_NAME = "open_clip_art.jsonl"
_BY_HAND = (
    "On another machine run `apt-get download openclipart-png openclipart-svg` and name the folder"
    " of both .deb files with --packages"
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that may be used.

    Attributes:
        path: The PNG.
        name: Its path below the folder of all pictures.
        title: The title of its SVG twin, white space collapsed.
    """

    path: Path
    name: Path
    title: str

    @property
    def category(self) -> str:
        """The class: the outermost folder it is filed under."""
        return self.name.parts[0]


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--packages", type=Path, metavar="DIR", help="folder of both .deb files")
    parser.add_argument("--links", action="store_true", help="keep second filings of a picture")
    arguments = parser.parse_args()
    try:
        make_data_set(arguments.out, arguments.packages, keep_links=arguments.links)
    except MsdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make_data_set(out: Path, packages: Path | None, *, keep_links: bool) -> None:
    """Write OUT/open_clip_art.jsonl and OUT/pictures, and print what they hold.

    Args:
        out: Folder to make; must not exist.
        packages: Folder of both .deb files; None downloads them.
        keep_links: Whether a picture that is filed twice is two rows.

    Raises:
        MsdError: OUT exists, or the packages cannot be had, unpacked or read.
    """
    fix = "Name another folder, or remove it"
    check_output(out, "data set", is_kind=True, overwrite=False, fix=fix)
    with tempfile.TemporaryDirectory(prefix="open-clip-art-") as scratch:
        root = unpack(packages or download(Path(scratch)), Path(scratch) / "unpacked")
        left_out: Counter[str] = Counter()
        pictures = select(titled_pictures(root, left_out), left_out, keep_links=keep_links)
        if not pictures:
            raise DataError("no picture with a title is left", where=root, fix=_BY_HAND)
        with new_folder(out) as building:
            write(pictures, building)
    print_summary(pictures, left_out, out / JSONL_NAME)


def download(folder: Path) -> Path:
    """Download both packages without installing them; return their folder.

    Raises:
        RuntimeUnavailableError: There is no apt-get, or it cannot find or fetch them.
    """
    try:
        command = ["apt-get", "download", *PACKAGES]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeUnavailableError("there is no apt-get here", fix=_BY_HAND) from error
    except subprocess.CalledProcessError as error:
        raise RuntimeUnavailableError(
            f"apt-get cannot download {' and '.join(PACKAGES)} ({_last_line(error.stderr)})",
            fix=f"Run `apt-get update` as root and try again. {_BY_HAND}",
        ) from error
    return folder


def unpack(packages: Path, folder: Path) -> Path:
    """Unpack both .deb files; return the folder that holds png/ and svg/.

    Raises:
        DataError: A package is missing or broken.
        RuntimeUnavailableError: There is no dpkg.
    """
    for package in PACKAGES:
        files = sorted(packages.glob(f"{package}_*.deb"))
        if not files:
            raise DataError(f"holds no {package}_*.deb", where=packages, fix=_BY_HAND)
        try:
            command = ["dpkg", "-x", str(files[-1]), str(folder)]
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise RuntimeUnavailableError(
                "there is no dpkg here", fix="Run this on Debian or Ubuntu, and copy OUT"
            ) from error
        except subprocess.CalledProcessError as error:
            what = f"cannot be unpacked ({_last_line(error.stderr)})"
            raise DataError(what, where=files[-1], fix="Download it again") from error
    return folder / "usr" / "share" / "openclipart"


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no reason given"])[-1]


def titled_pictures(root: Path, left_out: Counter[str]) -> list[Picture]:
    """Return every picture that has a title, by name, files before symbolic links."""
    pictures = []
    pngs = sorted(root.joinpath("png").rglob("*.png"), key=lambda path: (path.is_symlink(), path))
    for path in pngs:
        name = path.relative_to(root / "png")
        try:
            title = title_of_svg((root / "svg" / name).with_suffix(".svg"))
        except (OSError, expat.ExpatError, _EntityError):
            left_out["SVG missing, malformed or declaring entities"] += 1
            continue
        if title:
            pictures.append(Picture(path, name, title))
        else:
            left_out["no title"] += 1
    return pictures


class _EntityError(ValueError):
    """An SVG declares an entity."""


class _TitleFoundError(Exception):
    """Parsing may end: the title is complete. Expat has no other way to stop."""


def title_of_svg(path: Path) -> str:
    """Return the title of an SVG's work (dc:title below cc:Work), "" if it has none.

    Raises:
        OSError: The file cannot be read.
        expat.ExpatError: It is malformed before the title ends.
        _EntityError: It declares an entity.
    """
    reader = _TitleReader()
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = reader.refuse_entity
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except _TitleFoundError:
        pass
    return " ".join("".join(reader.parts).split())


class _TitleReader:
    """Collects the text of the first title element whose parent is Work."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._open: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._open.append(name.rpartition(":")[2])

    def text(self, text: str) -> None:
        if self._open[-2:] == ["Work", "title"]:
            self.parts.append(text)

    def end(self, name: str) -> None:
        if self._open[-2:] == ["Work", "title"]:
            raise _TitleFoundError
        self._open.pop()

    def refuse_entity(self, *declaration: object) -> None:
        raise _EntityError


def select(
    pictures: Iterable[Picture], left_out: Counter[str], *, keep_links: bool
) -> list[Picture]:
    """Return the pictures whose title and class mean something, sorted by name."""
    pictures = list(pictures)
    per_title = Counter(picture.title.casefold() for picture in pictures)
    seen: set[str] = set()
    kept = []
    for picture in pictures:
        reason = _reason_against(picture, per_title[picture.title.casefold()])
        if not reason and not keep_links:
            digest = sha256_of_file(picture.path)
            reason = "second filing of a picture" if digest in seen else ""
            seen.add(digest)
        if reason:
            left_out[reason] += 1
        else:
            kept.append(picture)
    per_class = Counter(picture.category for picture in kept)
    large = {name for name, count in per_class.items() if count >= LEAST_PICTURES_PER_CLASS}
    left_out["class too small"] += sum(picture.category not in large for picture in kept)
    return sorted((p for p in kept if p.category in large), key=lambda picture: picture.name)


def _reason_against(picture: Picture, pictures_with_title: int) -> str:
    if picture.category in NO_SUBJECT:
        return "folder names no subject"
    if pictures_with_title >= PICTURES_OF_A_SET or SET_TITLES.search(picture.title):
        return "title of a set"
    return ""


def split_of_title(title: str) -> str:
    """Return train (80 %), validation or test (10 % each) by the title's letters alone."""
    folded = unicodedata.normalize("NFKC", title).casefold()
    letters = " ".join(re.findall(r"[^\W\d_]+", folded)) or folded
    tenth = int(hashlib.sha256(letters.encode()).hexdigest(), 16) % 10
    return {8: "validation", 9: "test"}.get(tenth, "train")


def write(pictures: Sequence[Picture], folder: Path) -> None:
    """Copy the pictures' bytes and write a row for each."""
    rows = []
    for picture in pictures:
        target = Path("pictures") / picture.name
        folder.joinpath(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture.path, folder / target)
        rows.append(
            {
                "image": target.as_posix(),
                "text": picture.title,
                "label": picture.category,
                "split": split_of_title(picture.title),
            }
        )
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    folder.joinpath(JSONL_NAME).write_text(lines, encoding="utf-8")


def print_summary(pictures: Sequence[Picture], left_out: Counter[str], jsonl: Path) -> None:
    """Print counts by class and split, what was left out, and the next command."""
    splits = ("train", "validation", "test")
    counts = Counter((picture.category, split_of_title(picture.title)) for picture in pictures)
    print(f"{'class':<20}" + "".join(f"{split:>12}" for split in splits) + f"{'total':>12}")
    for name in [*sorted({picture.category for picture in pictures}), None]:
        cells = [
            sum(count for (c, s), count in counts.items() if s == split and name in (c, None))
            for split in splits
        ]
        print(f"{name or 'total':<20}" + "".join(f"{n:>12,}" for n in [*cells, sum(cells)]))
    for reason, count in left_out.most_common():
        print(f"left out {count:>6,}: {reason}")
    print(f"wrote {jsonl}\nnext: msd distill --data {jsonl}")


if __name__ == "__main__":
    sys.exit(main())
