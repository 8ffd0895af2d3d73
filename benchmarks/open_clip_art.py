# ruff: noqa: T201
"""Build a FILE.jsonl of real images with titles from Debian's Open Clip Art packages.

openclipart-png and openclipart-svg (public domain, 155 MB) are downloaded and unpacked, not
installed. The class of an image is its outermost folder, its text the title in the SVG of the same
name.

Excluded, since title or folder do not describe the image:
- titles of sets: those of IMAGES_OF_A_SET images or more (icon themes, playing cards), and "...
  collection", "... theme", "clipart by ...";
- folders without a subject, and those with fewer than MIN_IMAGES_PER_CLASS remaining images;
- duplicates: symbolic links and files with equal bytes, often of another class.
Near-duplicates have equal titles up to numbers, so a hash of the title without numbers chooses the
split. Images are copied unchanged, in any size up to 231 megapixels.

The SVGs are parsed by expat up to their title. A file that declares an entity is excluded, so that
no entity is ever expanded; external DTDs are not fetched.

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
IMAGES_OF_A_SET = 20
MIN_IMAGES_PER_CLASS = 60
NO_SUBJECT = frozenset({"shapes", "special", "unsorted"})
SET_TITLES = re.compile(r"collection|\btheme\b|-theme|icon ?set|clip ?arts? by|^clip ?arts?$", re.I)
JSONL_NAME = "open_clip_art.jsonl"
_BY_HAND = (
    "On another machine run `apt-get download openclipart-png openclipart-svg`, and pass the folder"
    " of both .deb files with --packages"
)


@dataclass(frozen=True, slots=True)
class TitledImage:
    """An image with a title.

    Attributes:
        path: Path of the PNG.
        name: Its path relative to the folder of all images.
        title: Title in the SVG of the same name, with white space collapsed.
    """

    path: Path
    name: Path
    title: str

    @property
    def category(self) -> str:
        """The class, which is the outermost folder."""
        return self.name.parts[0]


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to create")
    parser.add_argument("--packages", type=Path, metavar="DIR", help="folder of both .deb files")
    parser.add_argument("--links", action="store_true", help="keep duplicates of an image")
    arguments = parser.parse_args()
    try:
        make_data_set(arguments.out, arguments.packages, keep_links=arguments.links)
    except MsdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make_data_set(out: Path, packages: Path | None, *, keep_links: bool) -> None:
    """Write OUT/open_clip_art.jsonl and OUT/pictures, and print a summary.

    Args:
        out: Folder to create; must not exist.
        packages: Folder of both .deb files; None downloads them.
        keep_links: Whether to keep duplicates of an image.

    Raises:
        MsdError: OUT exists, or the packages cannot be downloaded, unpacked or read.
    """
    fix = "Name another folder, or remove it"
    check_output(out, "data set", is_kind=True, overwrite=False, fix=fix)
    with tempfile.TemporaryDirectory(prefix="open-clip-art-") as scratch:
        root = unpack(packages or download(Path(scratch)), Path(scratch) / "unpacked")
        left_out: Counter[str] = Counter()
        images = select(titled_images(root, left_out), left_out, keep_links=keep_links)
        if not images:
            raise DataError("no image with a title remains", where=root, fix=_BY_HAND)
        with new_folder(out) as building:
            write(images, building)
    print_summary(images, left_out, out / JSONL_NAME)


def download(folder: Path) -> Path:
    """Download both packages without installing them; return their folder.

    Raises:
        RuntimeUnavailableError: apt-get is missing, or cannot find or fetch them.
    """
    try:
        command = ["apt-get", "download", *PACKAGES]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeUnavailableError("apt-get is not installed", fix=_BY_HAND) from error
    except subprocess.CalledProcessError as error:
        raise RuntimeUnavailableError(
            f"apt-get cannot download {' and '.join(PACKAGES)} ({_last_line(error.stderr)})",
            fix=f"Run `apt-get update` as root and try again. {_BY_HAND}",
        ) from error
    return folder


def unpack(packages: Path, folder: Path) -> Path:
    """Unpack both .deb files; return the folder of png/ and svg/.

    Raises:
        DataError: A package is missing or damaged.
        RuntimeUnavailableError: dpkg is missing.
    """
    for package in PACKAGES:
        files = sorted(packages.glob(f"{package}_*.deb"))
        if not files:
            raise DataError(f"has no {package}_*.deb", where=packages, fix=_BY_HAND)
        try:
            command = ["dpkg", "-x", str(files[-1]), str(folder)]
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise RuntimeUnavailableError(
                "dpkg is not installed", fix="Run this on Debian or Ubuntu, and copy OUT"
            ) from error
        except subprocess.CalledProcessError as error:
            what = f"cannot be unpacked ({_last_line(error.stderr)})"
            raise DataError(what, where=files[-1], fix="Download it again") from error
    return folder / "usr" / "share" / "openclipart"


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no reason given"])[-1]


def titled_images(root: Path, left_out: Counter[str]) -> list[TitledImage]:
    """Return the images with a title, by name, files before symbolic links."""
    images = []
    pngs = sorted(root.joinpath("png").rglob("*.png"), key=lambda path: (path.is_symlink(), path))
    for path in pngs:
        name = path.relative_to(root / "png")
        try:
            title = title_of_svg((root / "svg" / name).with_suffix(".svg"))
        except (OSError, expat.ExpatError, _EntityError):
            left_out["SVG missing, malformed or declaring entities"] += 1
            continue
        if title:
            images.append(TitledImage(path, name, title))
        else:
            left_out["no title"] += 1
    return images


class _EntityError(ValueError):
    """An SVG declares an entity."""


class _TitleFoundError(Exception):
    """Ends parsing after the title, for which expat has no other way."""


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
    images: Iterable[TitledImage], left_out: Counter[str], *, keep_links: bool
) -> list[TitledImage]:
    """Return the images with a meaningful title and class, sorted by name."""
    images = list(images)
    per_title = Counter(image.title.casefold() for image in images)
    seen: set[str] = set()
    kept = []
    for image in images:
        reason = _reason_against(image, per_title[image.title.casefold()])
        if not reason and not keep_links:
            digest = sha256_of_file(image.path)
            reason = "duplicate of an image" if digest in seen else ""
            seen.add(digest)
        if reason:
            left_out[reason] += 1
        else:
            kept.append(image)
    per_class = Counter(image.category for image in kept)
    large = {name for name, count in per_class.items() if count >= MIN_IMAGES_PER_CLASS}
    left_out["class too small"] += sum(image.category not in large for image in kept)
    return sorted((p for p in kept if p.category in large), key=lambda image: image.name)


def _reason_against(image: TitledImage, images_with_title: int) -> str:
    if image.category in NO_SUBJECT:
        return "folder without a subject"
    if images_with_title >= IMAGES_OF_A_SET or SET_TITLES.search(image.title):
        return "title of a set"
    return ""


def split_of_title(title: str) -> str:
    """Choose train (80 %), validation or test (10 % each) by the letters of the title."""
    folded = unicodedata.normalize("NFKC", title).casefold()
    letters = " ".join(re.findall(r"[^\W\d_]+", folded)) or folded
    tenth = int(hashlib.sha256(letters.encode()).hexdigest(), 16) % 10
    return {8: "validation", 9: "test"}.get(tenth, "train")


def write(images: Sequence[TitledImage], folder: Path) -> None:
    """Copy the images and write a row for each."""
    rows = []
    for image in images:
        target = Path("pictures") / image.name
        folder.joinpath(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.path, folder / target)
        rows.append(
            {
                "image": target.as_posix(),
                "text": image.title,
                "label": image.category,
                "split": split_of_title(image.title),
            }
        )
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    folder.joinpath(JSONL_NAME).write_text(lines, encoding="utf-8")


def print_summary(images: Sequence[TitledImage], left_out: Counter[str], jsonl: Path) -> None:
    """Print counts by class and split, exclusions, and the next command."""
    splits = ("train", "validation", "test")
    counts = Counter((image.category, split_of_title(image.title)) for image in images)
    print(f"{'class':<20}" + "".join(f"{split:>12}" for split in splits) + f"{'total':>12}")
    for name in [*sorted({image.category for image in images}), None]:
        cells = [
            sum(count for (c, s), count in counts.items() if s == split and name in (c, None))
            for split in splits
        ]
        print(f"{name or 'total':<20}" + "".join(f"{n:>12,}" for n in [*cells, sum(cells)]))
    for reason, count in left_out.most_common():
        print(f"excluded {count:>6,}: {reason}")
    print(f"wrote {jsonl}\nnext: msd distill --data {jsonl}")


if __name__ == "__main__":
    sys.exit(main())
