"""Does any file crash, hang or bloat the photo reader? Thousands of broken ones.

Real photos, some of them saved again as PNG, GIF, WebP, TIFF or BMP, are
mutated: bits flipped, cut short, spliced with another file's header, sizes in
headers made huge, parts repeated. Each goes through `pairs.photos.read.open_photo` in a
process of its own. A file is either read or refused with one line.

Run it:  python -m benchmarks.fuzz_images --photos data/raw --files 5000
"""

import argparse
import collections
import concurrent.futures
import io
import multiprocessing
import os
import pathlib
import random
import re
import tempfile
import time

from PIL import Image

from pairs.command_line import positive_int, run
from pairs.demo import breeds
from pairs.errors import UserError
from pairs.photos import read as photo
from pairs.photos.find import find_photos

KINDS = ("JPEG", "JPEG", "JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
IMAGE_SIZE = 299
# Seconds after which a file counts as a hang.
HANG = 60
# Files of a pool: a peak of memory is a file's.
CHUNK = 500


def flip_bits(content, rng, _):
    """One to 64 bits anywhere."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 4, 16, 64))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def flip_header_bits(content, rng, _):
    """One to 16 bits in the first 600 bytes, where sizes and tables are."""
    return flip_bits(content[:600], rng, None) + content[600:]


def cut(content, rng, _):
    """Only the first bytes."""
    return content[: rng.randrange(len(content))]


def splice(content, rng, other):
    """Another file's header before this one's body."""
    length = rng.choice((4, 20, 200, 2000))
    return other[:length] + content[length:]


def repeat(content, rng, _):
    """A part of the file many times over."""
    start = rng.randrange(len(content))
    part = content[start : start + rng.randrange(1, 3000)]
    return content[:start] + part * rng.randrange(2, 40) + content[start:]


def overwrite(content, rng, _):
    """A few bytes set to what means "very large", or to zero."""
    content = bytearray(content)
    place = rng.randrange(min(len(content), 1000))
    content[place : place + rng.choice((1, 2, 4))] = rng.choice(
        (b"\xff\xff", b"\x7f\xff\xff\xff", b"\0")
    )
    return bytes(content)


MUTATIONS = (flip_bits, flip_header_bits, cut, splice, repeat, overwrite)


def mutate(contents, number):
    """File `number`: bytes that depend on it alone."""
    rng = random.Random(number)
    content, other = (as_kind(rng.choice(contents), rng.choice(KINDS)) for _ in range(2))
    for _ in range(rng.choice((1, 1, 2))):
        content = rng.choice(MUTATIONS)(content, rng, other) or b"\0"
    return content


def as_kind(content, kind):
    """A photo in another file format."""
    if kind == "JPEG":
        return content
    with Image.open(io.BytesIO(content)) as image:
        image.thumbnail((200, 200))
        out = io.BytesIO()
        image.convert("RGB").save(out, kind)  # no other kind knows CMYK
    return out.getvalue()


def read_one(contents, number, folder):
    """Writes and reads a mutated file.

    Returns:
        `(outcome, seconds, peak_bytes)` of this process so far; the outcome is
        "read", "refused", or the name of an error that must not happen.
    """
    path = pathlib.Path(folder, f"{number}.jpg")
    path.write_bytes(mutate(contents, number))
    start = time.perf_counter()
    try:
        image = photo.open_photo(path, IMAGE_SIZE)
        expected = image.size == (IMAGE_SIZE, IMAGE_SIZE) and image.mode == "RGB"
        outcome = "read" if expected else "read as something else"
    except UserError as error:
        outcome = "refused" if len(str(error).splitlines()) == 1 else "refused in several lines"
    except BaseException as error:
        outcome = type(error).__name__
    seconds = time.perf_counter() - start
    path.unlink()
    status = pathlib.Path("/proc/self/status").read_text()
    return outcome, seconds, int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


def read_in_pool(contents, numbers, folder, workers):
    """Yields `(number, outcome, seconds, peak_bytes)`, until a process dies or hangs."""
    pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        futures = [pool.submit(read_one, contents, number, folder) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            try:
                yield number, *future.result(timeout=HANG)
            except concurrent.futures.process.BrokenProcessPool:
                yield number, "crash", 0, 0
                return
            except TimeoutError:
                yield number, "hang", HANG, 0
                return
    finally:
        for process in multiprocessing.active_children():  # what hangs would be waited for
            process.kill()
        pool.shutdown(cancel_futures=True)


def fuzz(contents, count, folder):
    """Reads `count` mutated files; returns outcomes, slowest seconds and peak bytes."""
    outcomes, slowest, peak = collections.Counter(), 0, 0
    waiting, workers = list(range(count)), os.cpu_count()
    while waiting:
        found = list(read_in_pool(contents, waiting[:CHUNK], folder, workers))
        if found[-1][1] == "crash" and workers > 1:
            found.pop()  # of whose file did the process die? One alone reads them again.
            workers = 1
        else:
            workers = os.cpu_count()
        waiting = waiting[len(found) :]
        for number, outcome, seconds, memory in found:
            slowest, peak = max(slowest, seconds), max(peak, memory)
            outcomes[outcome] += 1
            if outcome not in ("read", "refused"):
                print(f"file {number}: {outcome}", flush=True)
    return outcomes, slowest, peak


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Read thousands of broken photos.")
    parser.add_argument("--photos", help="folder of real photos (default: drawn ones)")
    parser.add_argument("--files", type=positive_int, default=5000, help="default: %(default)s")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photos = args.photos
        if not photos:
            photos = pathlib.Path(scratch, "drawn")
            breeds.draw_breeds(photos, 2, seed=0)
        paths = find_photos(photos)
        contents = [pathlib.Path(path).read_bytes() for path in paths[:: len(paths) // 24 + 1]]
        outcomes, slowest, peak = fuzz(contents, args.files, scratch)
    print(
        f"{args.files} files: {outcomes['read']} read, {outcomes['refused']} refused, "
        f"{args.files - outcomes['read'] - outcomes['refused']} crashes, hangs or other errors; "
        f"slowest {slowest:.2f} s, highest memory of a process {peak / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    run(main)
