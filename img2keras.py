"""Sorts photos named `typeid_hash.jpg` into one folder a class, as Keras reads them.

    data/raw/64_2043,1136.jpg  ->  data/train/64/64_2043,1136.jpg
                               or  data/valid/64/64_2043,1136.jpg

The typeid is what stands before the first `_`. Which side a photo goes to
depends on its name, its class and the seed alone: not on the order of the
directory, nor on the machine. Sources are copied, never moved or changed.

Run it:  python img2keras.py --raw data/raw --out data --valid-fraction 0.1 --seed 0
"""

import argparse
import filecmp
import hashlib
import os
import pathlib
import shutil

from atomic_file import replacing
from command_line import UserError, run

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
SIDES = ("train", "valid")


def read_raw(raw):
    """Groups the photos of a folder by typeid.

    Args:
        raw: folder of `typeid_hash.jpg` files.

    Returns:
        `(classes, left_aside)`: a dict from typeid to its file names in sorted
        order, and a list of `(file name, reason)` for everything else there.

    Raises:
        UserError: `raw` is no folder.
    """
    if not pathlib.Path(raw).is_dir():
        raise UserError(f"--raw {raw}: no such folder; it should hold typeid_hash.jpg files")
    classes, left_aside = {}, []
    with os.scandir(raw) as entries:
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
            reason = why_not_a_photo(entry)
            if reason:
                left_aside.append((entry.name, reason))
            else:
                typeid = entry.name.partition("_")[0]
                classes.setdefault(typeid, []).append(entry.name)
    for typeid, names in list(classes.items()):
        if len(names) == 1:
            reason = (
                "the only photo of its class; one for training and one for validation are needed"
            )
            left_aside.append((names[0], reason))
            del classes[typeid]
    return classes, left_aside


def why_not_a_photo(entry):
    """The reason to leave a directory entry aside, or None if it is a photo."""
    name = entry.name
    typeid, underscore, _ = name.partition("_")
    if entry.is_dir():
        return "a folder"
    if not entry.is_file():
        return "not a regular file"
    if name.startswith("."):
        return "a hidden file"
    if pathlib.Path(name).suffix.lower() not in PHOTO_SUFFIXES:
        return "not named as a photo (.jpg, .png, ...)"
    if not underscore:
        return "no '_' in the name, so no typeid"
    if not typeid.strip():
        return "nothing before the first '_', so no typeid"
    # A typeid becomes a folder name: '..' would lead out of --out, and a hidden
    # folder would not be read back.
    if typeid.startswith(".") or any(sign in typeid for sign in "/\\") or not typeid.isprintable():
        return f"the typeid {typeid!r} cannot be a folder name"
    return None


def split_class(typeid, names, valid_fraction, seed):
    """Chooses the validation photos of one class.

    Args:
        typeid: the class.
        names: its file names, at least two.
        valid_fraction: share of photos for validation, between 0 and 1.
        seed: int; another seed, another choice.

    Returns:
        set of file names, at least one and not all of them.
    """

    def draw(name):
        # A hash, not a random generator: the same on every machine and version.
        return hashlib.sha256(os.fsencode(f"{seed}\0{typeid}\0{name}")).digest()

    count = min(max(1, round(valid_fraction * len(names))), len(names) - 1)
    return set(sorted(names, key=draw)[:count])


def plan_copies(classes, valid_fraction, seed):
    """Places every photo.

    Returns:
        dict from file name to its place below `--out`, e.g. `valid/64/64_a.jpg`.
    """
    places = {}
    for typeid, names in classes.items():
        valid = split_class(typeid, names, valid_fraction, seed)
        for name in names:
            places[name] = pathlib.Path("valid" if name in valid else "train", typeid, name)
    return places


def check_nothing_in_the_way(out, places):
    """Refuses an `--out` that holds photos of another split.

    They would stay beside the new ones, and a photo could be on both sides.

    Raises:
        UserError: names one such file.
    """
    planned = set(places.values())
    for side in SIDES:
        for folder, _, names in os.walk(out / side):
            for name in names:
                place = pathlib.Path(folder, name).relative_to(out)
                if place not in planned and not name.startswith("."):
                    raise UserError(
                        f"{out / place} is not part of this split (another seed, fraction or "
                        f"--raw made it). Remove {out / 'train'} and {out / 'valid'}, or choose "
                        f"another --out"
                    )


def place_photo(source, target, link):
    """Copies or links one photo, unless it is there already.

    Returns:
        True if it was written, False if it was there.

    Raises:
        UserError: a different photo has that name.
    """
    if target.exists():
        if filecmp.cmp(source, target):
            return False
        raise UserError(f"{target} differs from {source}. Remove it if the new photo is right")
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        os.link(source, target)
    else:
        with replacing(target) as temporary:
            shutil.copy2(source, temporary)
    return True


def sort_photos(raw, out, valid_fraction=0.1, seed=0, link=False):
    """Sorts all photos of `raw` into `out/train` and `out/valid`.

    Args:
        raw: folder of `typeid_hash.jpg` files.
        out: folder for `train/<typeid>/` and `valid/<typeid>/`.
        valid_fraction: share of each class for validation, between 0 and 1.
        seed: int, chooses which photos.
        link: hard links instead of copies (no disk space, same file system).

    Returns:
        `(places, left_aside, num_written)`: see `plan_copies` and `read_raw`.

    Raises:
        UserError: no photos, or `out` holds another split.
    """
    raw, out = pathlib.Path(raw), pathlib.Path(out)
    classes, left_aside = read_raw(raw)
    if not classes:
        raise UserError(
            f"--raw {raw}: no class with two photos named typeid_hash.jpg "
            f"({len(left_aside)} other entries)"
        )
    places = plan_copies(classes, valid_fraction, seed)
    check_nothing_in_the_way(out, places)
    num_written = sum(place_photo(raw / name, out / place, link) for name, place in places.items())
    return places, left_aside, num_written


def typeid_order(typeid):
    """Sort key: numbers by value, before names ('2' < '10' < 'pug')."""
    is_number = typeid.isascii() and typeid.isdigit()
    return (not is_number, int(typeid) if is_number else 0, typeid)


def print_table(places, left_aside, num_written):
    """Prints classes with their counts, and what was left aside and why."""
    counts = {}
    for place in places.values():
        side, typeid, _ = place.parts
        counts.setdefault(typeid, dict.fromkeys(SIDES, 0))[side] += 1
    width = max(len("typeid"), *map(len, counts))
    print(f"{'typeid':<{width}} {'train':>7} {'valid':>7}")
    for typeid in sorted(counts, key=typeid_order):
        print(f"{typeid:<{width}} {counts[typeid]['train']:>7} {counts[typeid]['valid']:>7}")
    train, valid = (sum(count[side] for count in counts.values()) for side in SIDES)
    print(f"{'all':<{width}} {train:>7} {valid:>7}")
    for name, reason in left_aside:
        # repr: a hostile name cannot forge a line of this list.
        print(f"left aside: {name!r}: {reason}")
    print(
        f"{len(counts)} classes, {len(places)} photos: {num_written} written, "
        f"{len(places) - num_written} there already, {len(left_aside)} left aside"
    )


def parse_args():
    parser = argparse.ArgumentParser(
        description="Sort photos named typeid_hash.jpg into train/<typeid>/ and valid/<typeid>/."
    )
    parser.add_argument("--raw", default="data/raw", help="folder of photos (default: %(default)s)")
    parser.add_argument("--out", default="data", help="folder to sort into (default: %(default)s)")
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.1,
        help="share of each class for validation, at least one photo (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses them (default: %(default)s)")
    parser.add_argument("--link", action="store_true", help="hard links instead of copies")
    args = parser.parse_args()
    if not 0 < args.valid_fraction < 1:
        parser.error(f"--valid-fraction {args.valid_fraction}: a share between 0 and 1 is needed")
    return args


def main():
    args = parse_args()
    print_table(*sort_photos(args.raw, args.out, args.valid_fraction, args.seed, args.link))


if __name__ == "__main__":
    run(main)
