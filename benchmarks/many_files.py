"""Sorting very many photos, starting a training on them, and its epochs: time and memory.

The files are generated, and tiny.

Run it:  python -m benchmarks.many_files --files 200000 --classes 1000
"""

import argparse
import io
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

import img2keras
from pair_generator import PairBatches
from pairs.command_line import positive_int, run
from pairs.photos.check import (
    check_sides,
    fingerprint,
    list_photos,
    read_check,
    write_check,
)
from pairs.photos.read import read_ahead

# Runs a script and prints, last of all, the most memory it has had.
WITH_PEAK = (
    "import runpy, sys; sys.argv = sys.argv[1:]\n"
    "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "finally: print(open('/proc/self/status').read())"
)


def make_files(folder, num_files, num_classes):
    """Writes JPEGs of 8 x 8 pixels, each another one."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(num_files):
        pixels = rng.integers(0, 256, size=(8, 8, 3)).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG")
        # Another one even where the compression makes two alike.
        name = f"{number % num_classes}_{number}.jpg"
        (folder / name).write_bytes(out.getvalue() + number.to_bytes(4, "big"))


def time_script(*words):
    """Runs a script; returns its seconds, peak bytes and last line."""
    script, *flags = words
    path = pathlib.Path(img2keras.__file__).parent / script
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", WITH_PEAK, path, *flags],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    peak = int(re.search(r"VmHWM:\s+(\d+)", done.stdout)[1]) * 1024
    printed = done.stdout[: done.stdout.index("Name:")].strip().splitlines()
    return seconds, peak, printed[-1]


def time_start(data, weights):
    """Seconds that train.py takes to list and check photos before TensorFlow loads."""
    start = time.perf_counter()
    listed = list_photos(data)
    known = read_check(weights)
    _, found = check_sides(data, listed, known, workers=2)
    for side in found.values():
        fingerprint(side)
    if found != known:
        write_check(weights, found)
    return time.perf_counter() - start, sum(map(len, found.values()))


def measure_epochs(data, num_epochs=6, num_steps=200):
    """Resident memory in bytes after each of some epochs, of which some steps are read."""
    photos, _ = list_photos(data)
    batches = PairBatches(photos, 32, 32, seed=0, augment="affine")
    found = []
    for batches.epoch in range(num_epochs):
        for _ in read_ahead(batches.__getitem__, range(min(num_steps, len(batches))), 2):
            pass
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
        found.append(int(pages) * resource.getpagesize())
    return found


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Time the sorting of very many files.")
    add = parser.add_argument
    add("--files", type=positive_int, default=200_000, help="default: %(default)s")
    add("--classes", type=positive_int, default=1000, help="default: %(default)s")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        make_files(scratch / "raw", args.files, args.classes)
        for what in ("sorted", "sorted again"):
            words = ("--raw", scratch / "raw", "--out", scratch / "out")
            seconds, peak, line = time_script("img2keras.py", *words)
            print(f"{what}: {seconds:.1f} s, at most {peak / 1e6:.0f} MB of memory; {line}")
        for what in ("checked", "checked again"):
            seconds, count = time_start(scratch / "out", scratch)
            print(f"{what} before a training: {seconds:.1f} s, {count} photos", flush=True)
        shown = ", ".join(f"{size / 1e6:.0f}" for size in measure_epochs(scratch / "out"))
        print(f"resident after each epoch: {shown} MB")


if __name__ == "__main__":
    run(main)
