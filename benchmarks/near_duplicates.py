"""Are near-duplicates found, are different photos left alone, and how long does it take?

Some photos of a folder are copied: compressed, halved, cropped or mirrored. All
are described as `img2keras.py` does it, and grouped. What the originals have in
common was there before; a contact sheet shows it, for people to judge.

Run it:  python -m benchmarks.near_duplicates --photos data/raw --pairs pairs.png
"""

import argparse
import collections
import io
import pathlib
import random
import resource
import tempfile
import time

from PIL import Image, ImageOps

from pairs.command_line import add_workers_flag, positive_int, run
from pairs.files import replacing
from pairs.photos.check import inspect_photo
from pairs.photos.duplicates import find_groups, perceptual_hash
from pairs.photos.find import find_photos
from pairs.photos.read import open_photo, read_ahead

# Pixels of a photo in the contact sheet, and pairs in a row.
SHOWN, COLUMNS = 112, 7


def cut(image, share, rng):
    """An image without a share of its width and height, cut off at random sides."""
    width, height = image.size
    lost = round(share * width), round(share * height)
    left, top = (pixels * rng.randrange(2) for pixels in lost)
    return image.crop((left, top, left + width - lost[0], top + height - lost[1]))


def cut_around(image, share):
    """An image without a share of its width and height at every side."""
    width, height = image.size
    x, y = round(share * width), round(share * height)
    return image.crop((x, y, width - x, height - y))


# Of each kind: what is done to the pixels, and the quality of the JPEG.
KINDS = {
    "quality 40": (lambda image, rng: image, 40),
    "half the size": (
        lambda image, rng: image.resize([(side + 1) // 2 for side in image.size]),
        85,
    ),
    "5 % off at random sides": (lambda image, rng: cut(image, 0.05, rng), 90),
    "5 % off at every side": (lambda image, rng: cut_around(image, 0.05), 90),
    "mirrored": (lambda image, rng: ImageOps.mirror(image), 90),
    "mirrored, quality 40": (lambda image, rng: ImageOps.mirror(image), 40),
    "mirrored, 5 % off at random sides, quality 40": (
        lambda image, rng: ImageOps.mirror(cut(image, 0.05, rng)),
        40,
    ),
    "mirrored, 5 % off at every side, quality 40": (
        lambda image, rng: ImageOps.mirror(cut_around(image, 0.05)),
        40,
    ),
    "10 % off at random sides": (lambda image, rng: cut(image, 0.1, rng), 90),
}


def make_copies(path):
    """The copies of one photo: JPEG bytes by kind."""
    rng = random.Random(pathlib.Path(path).name)
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    copies = {}
    for kind, (change, quality) in KINDS.items():
        out = io.BytesIO()
        change(image, rng).save(out, "JPEG", quality=quality)
        copies[kind] = out.getvalue()
    return copies


def describe(paths, folder, workers):
    """Describes photos and their copies.

    Args:
        paths: of photos.
        folder: for copies, one file at a time.
        workers: threads.

    Returns:
        `(originals, copies)`: a list of `check.Facts`, and of such by kind.
    """

    def describe_one(path):
        copies = {}
        for kind, content in make_copies(path).items():
            # Of a file, as any photo: its header decides at which size it is decoded.
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".jpg") as file:
                file.write(content)
                file.flush()
                copies[kind] = inspect_photo(file.name)
        return inspect_photo(path), copies

    described = list(read_ahead(describe_one, paths, workers))
    return [original for original, _ in described], [copies for _, copies in described]


def share_found(originals, copies):
    """The share of copies in the group of their original, by kind.

    All photos and all copies of one kind at a time are grouped.
    """
    found = {}
    for kind in KINDS:
        photos = originals + [copy[kind] for copy in copies]
        group_of = {}
        for number, group in enumerate(group_all(photos)):
            group_of.update(dict.fromkeys(group, number))
        count = len(originals)
        both = [group_of.get(i, -1) == group_of.get(count + i, -2) for i in range(count)]
        found[kind] = sum(both) / count
    return found


def group_all(photos):
    """`find_groups` of some `check.Facts`."""
    return find_groups(
        [photo.digest for photo in photos], [photo.perceptual_hash for photo in photos]
    )


def time_many(paths, count):
    """Groups very many descriptions: of small windows of photos.

    Returns:
        `(seconds, seconds of the processor, bytes)` of `find_groups`; the last is the most
        memory so far.
    """
    rng, hashes = random.Random(0), []
    for path in paths:
        image = open_photo(path, 256)
        for _ in range(-(-count // len(paths))):
            side = rng.randrange(64, 160)
            x, y = rng.randrange(256 - side), rng.randrange(256 - side)
            hashes.append(perceptual_hash(image.crop((x, y, x + side, y + side))))
    hashes = rng.sample(hashes, count)
    start, busy = time.perf_counter(), time.process_time()
    find_groups(list(map(str, range(count))), hashes)
    seconds = time.perf_counter() - start, time.process_time() - busy
    return *seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def save_sheet(groups, paths, target):
    """Saves a picture of all groups: its first photo beside each of the others."""
    pairs = [(group[0], other) for group in groups for other in group[1:]]
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (2 * SHOWN + 8), max(1, rows) * (SHOWN + 8)), "white")
    for number, pair in enumerate(pairs):
        row, column = divmod(number, COLUMNS)
        for place, index in enumerate(pair):
            shown = open_photo(paths[index], SHOWN)
            sheet.paste(shown, (column * (2 * SHOWN + 8) + place * SHOWN, row * (SHOWN + 8)))
    with replacing(target) as temporary:
        sheet.save(temporary)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Find copies of photos that were made from them.")
    add = parser.add_argument
    add("--photos", nargs="+", required=True, help="folders of real photos")
    add("--count", type=positive_int, default=2000, help="photos, in equal parts (default: 2000)")
    add("--many", type=positive_int, default=20_000, help="descriptions to time (default: 20000)")
    add("--pairs", help="picture (.png) of what is grouped among the photos themselves")
    add_workers_flag(parser)
    return parser.parse_args(argv)


def main():
    args = parse_args()
    paths = []
    for folder in args.photos:
        found = find_photos(folder)
        paths += random.Random(0).sample(found, min(len(found), args.count // len(args.photos)))
    with tempfile.TemporaryDirectory() as scratch:
        originals, copies = describe(paths, scratch, args.workers)
    print(f"{len(paths)} photos, and as many copies of each kind:")
    for kind, share in share_found(originals, copies).items():
        print(f"found: {share:7.2%} of {kind}")
    groups = group_all(originals)
    grouped = sum(map(len, groups))
    sizes = collections.Counter(map(len, groups))
    print(
        f"grouped among the photos themselves: {grouped} ({grouped / len(paths):.2%}), groups of "
        + ", ".join(f"{size}: {count}" for size, count in sorted(sizes.items()))
    )
    if args.pairs:
        save_sheet(groups, paths, args.pairs)
        print(f"{args.pairs}: look which of them show one picture")
    seconds, busy, peak = time_many(paths, args.many)
    print(
        f"{args.many} descriptions: {seconds:.1f} s ({busy:.1f} s of the processor), at most "
        f"{peak / 1e6:.0f} MB of memory"
    )


if __name__ == "__main__":
    run(main)
