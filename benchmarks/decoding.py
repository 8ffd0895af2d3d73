"""Time of decoding and resizing JPEG files, on one core and on all, against Pillow alone.

    python benchmarks/decoding.py --out decoding.json

Writes 2,000 JPEG files of 1024 x 768 pixels and prepares them as `msd distill` does, on each number
of cores alternately, with an empty cache each time: seconds, and processor milliseconds per image
of all threads together. Then decodes some of them on one thread, alternately with `preprocessor
.pixels` and with Pillow alone (open, decode, resize to the same size): processor milliseconds per
image, and their ratio. Linux, which can restrict a process to some of its cores.
"""

import argparse
import io
import json
import os
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from msd_deploy.artifacts.manifest import write_json
from msd_deploy.data.pixel_cache import cached_pixels
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.source import SourceData, SourceOptions
from msd_mobile_bench.host import describe_host

_SIDE, _DIFFERENT, _COMPARED = 64, 20, 400


def write_photos(folder: Path, count: int) -> Path:
    """Write JPEG files like photos of a camera, and their FILE.jsonl; no two are equal."""
    generator = np.random.default_rng(0)
    photos = []
    for _ in range(_DIFFERENT):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((1024, 768), Image.Resampling.BICUBIC), np.float32)
        noisy = smooth + generator.normal(0, 6, smooth.shape)
        stream = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        photos.append(stream.getvalue())
    rows = []
    for index in range(count):
        photo, number = photos[index % _DIFFERENT], str(index).encode()
        comment = struct.pack(">HH", 0xFFFE, len(number) + 2) + number
        (folder / f"{index}.jpg").write_bytes(photo[:2] + comment + photo[2:])
        rows.append(json.dumps({"image": f"{index}.jpg", "label": index % 2}))
    file = folder / "photos.jsonl"
    file.write_text("\n".join(rows))
    return file


def prepare_on(cores: set[int], source: SourceData, preprocessor: Preprocessor) -> dict[str, float]:
    """Decode all images of a source on some cores, with an empty cache."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        with tempfile.TemporaryDirectory() as cache:
            wall, processor = time.perf_counter(), time.process_time()
            images = len(cached_pixels(source, preprocessor, Path(cache), lambda *_: None)[1])
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
    finally:
        os.sched_setaffinity(0, all_cores)
    return {"seconds": wall, "processor_ms_per_image": 1000 * processor / images}


def processor_ms(work: Callable[[Path], object], path: Path) -> float:
    """Return the processor milliseconds of a call."""
    start = time.thread_time()
    work(path)
    return 1000 * (time.thread_time() - start)


def pillow_alone(path: Path) -> None:
    """Decode and resize an image to the size that `fit` scales it to."""
    with Image.open(path) as image:
        image.resize((_SIDE, _SIDE * 3 // 4), Image.Resampling.BILINEAR)


def compare_with_pillow(paths: list[Path], preprocessor: Preprocessor) -> dict[str, float]:
    """Decode each image both ways, in alternating order."""
    ways: dict[str, Callable[[Path], object]] = {
        "pillow": pillow_alone,
        "preprocessor": preprocessor.pixels,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for index, path in enumerate(paths):
        for name in sorted(ways, reverse=index % 2 == 1):
            taken[name].append(processor_ms(ways[name], path))
    medians = {f"{name}_ms": statistics.median(values) for name, values in taken.items()}
    return {**medians, "ratio": sum(taken["preprocessor"]) / sum(taken["pillow"])}


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    preprocessor = build_preprocessor(
        train_tokenizer(["a text"], vocabulary_size=50), ImageSpec((_SIDE, _SIDE)), max_length=8
    )
    all_cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        file = write_photos(Path(folder), options.images)
        start = time.perf_counter()
        source = load_source(str(file), options=SourceOptions())
        reading_s = time.perf_counter() - start
        numbers = sorted({1, len(all_cores)})
        rounds = [
            {n: prepare_on(set(sorted(all_cores)[:n]), source, preprocessor) for n in numbers}
            for _ in range(options.rounds)
        ]
        paths = [Path(folder) / f"{n}.jpg" for n in range(min(options.images, _COMPARED))]
        compared = compare_with_pillow(paths, preprocessor)
    for number in numbers:
        seconds = [round_[number]["seconds"] for round_ in rounds]
        listed = ", ".join(f"{value:.1f}" for value in seconds)
        sys.stdout.write(f"{options.images} images on {number} cores: {listed} s\n")
    sys.stdout.write(
        f"one thread: {compared['preprocessor_ms']:.2f} ms per image, Pillow alone"
        f" {compared['pillow_ms']:.2f} ms, ratio {compared['ratio']:.3f}\n"
    )
    write_json(
        options.out,
        {
            "host": describe_host(),
            "pillow": PIL.__version__,
            "images": options.images,
            "reading_and_hashing_s": reading_s,
            "rounds": [{str(n): values for n, values in round_.items()} for round_ in rounds],
            "one_thread": compared,
        },
    )


if __name__ == "__main__":
    main()
