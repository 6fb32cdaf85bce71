"""Sorts photos named `typeid_hash.jpg` into one folder per class, as Keras reads them.

    data/raw/64_2043,1136.jpg  ->  data/train/64/64_2043,1136.jpg
                               or  data/valid/64/64_2043,1136.jpg

The typeid is what stands before the first `_`. Which side a photo goes to
depends on its name, its class and the seed: not on the order of the directory,
nor on the machine. Copies of one photo stay on one side. Every photo is read
once; what cannot be read is skipped and listed. Sources are copied, never moved or changed.

Run it:  python img2keras.py --raw data/raw --out data --valid-fraction 0.1 --seed 0
"""

import dataclasses
import filecmp
import os
import pathlib
import shutil
import tempfile
import unicodedata

from tqdm import tqdm

from pairs.command_line import Parser, add_workers_flag, run
from pairs.errors import UserError
from pairs.files import replacing
from pairs.photos.check import inspect_photo
from pairs.photos.read import (
    PHOTO_SUFFIXES,
    SIDES,
    TRAIN,
    VALID,
    is_hidden,
    read_ahead,
    typeid_order,
    why_not_a_typeid,
)
from pairs.photos.split import find_copies, plan_copies


@dataclasses.dataclass(frozen=True)
class Sorted:
    """What was done with the photos of a folder.

    Attributes:
        places: of each file name, below `--out`.
        skipped: list of `(file name, reason)`.
        num_written: photos that were not in place already.
        copies: groups of the same photo, see `find_copies`.
    """

    places: dict
    skipped: list
    num_written: int
    copies: list


def read_raw(raw):
    """Groups the photos of a folder by typeid.

    Args:
        raw: folder of `typeid_hash.jpg` files.

    Returns:
        `(classes, skipped)`: a dict from typeid to its file names in sorted
        order, and a list of `(file name, reason)` for everything that, by its
        name, is none.

    Raises:
        UserError: `raw` is no folder.
    """
    if not pathlib.Path(raw).is_dir():
        raise UserError(f"--raw {raw}: no such folder; it should hold typeid_hash.jpg files")
    classes, skipped = {}, []
    with os.scandir(raw) as entries:
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
            reason = why_not_a_photo(entry)
            if reason:
                skipped.append((entry.name, reason))
            else:
                typeid = entry.name.partition("_")[0]
                classes.setdefault(typeid, []).append(entry.name)
    return classes, skipped


def why_not_a_photo(entry):
    """The reason to skip a directory entry, or None if it may be a photo."""
    if os.path.isdir(entry.path):  # and not `entry.is_dir`, which fails on a link to itself
        return "a folder"
    if not os.path.isfile(entry.path):
        return "not a regular file, or a link to nowhere"
    return why_not_a_name(entry.name)


def why_not_a_name(name):
    """The reason why a file name is not `typeid_hash.jpg`, or None if it is."""
    typeid, underscore, _ = name.partition("_")
    if is_hidden(name):
        return "a hidden file"
    if pathlib.Path(name).suffix.lower() not in PHOTO_SUFFIXES:
        return "not named as a photo (.jpg, .png, ...)"
    if not underscore:
        return "no '_' in the name, so no typeid"
    if not typeid.strip():
        return "nothing before the first '_', so no typeid"
    reason = why_not_a_typeid(typeid)
    return f"the typeid {typeid!r} {reason}" if reason else None


def inspect_photos(raw, classes, workers):
    """Reads every photo from end to end.

    Args:
        raw: `pathlib.Path` of the folder.
        classes: of `read_raw`; what cannot be used is taken out of it.
        workers: threads that read photos.

    Returns:
        `(digests, skipped)`: dict from file name to the SHA-256 of its bytes,
        and a list of `(file name, reason)`.
    """
    names = [name for members in classes.values() for name in members]
    inspected = read_ahead(lambda name: inspect_photo(raw / name), names, workers)
    # No bar where nobody watches.
    shown = tqdm(inspected, desc="reading", total=len(names), unit=" photos", disable=None)
    digests, skipped = {}, []
    for name, (digest, reason) in zip(names, shown, strict=True):
        if reason:
            skipped.append((name, reason))
        else:
            digests[name] = digest
    for typeid, members in list(classes.items()):
        usable = [name for name in members if name in digests]
        if len({digests[name] for name in usable}) > 1:
            classes[typeid] = usable
            continue
        del classes[typeid]
        reason = "the only photo of its class; one for training and one for validation are needed"
        skipped += [(name, reason) for name in usable]
    return digests, skipped


def check_case(classes, out):
    """Refuses typeids that would share a folder on the disk of `out`.

    Raises:
        UserError: names two of them.
    """
    by_folder = {}
    for typeid in classes:
        folder = unicodedata.normalize("NFC", typeid).casefold()
        other = by_folder.setdefault(folder, typeid)
        if other != typeid and not tells_apart(out, other, typeid):
            raise UserError(
                f"the typeids {other!r} and {typeid!r} would share a folder: the disk of --out "
                f"{out} does not tell them apart. Rename one, or choose an --out on another disk"
            )


def tells_apart(out, name, other):
    """Whether two names are two folders on a disk (upper and lower case, composed letters)."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=out) as scratch:
        pathlib.Path(scratch, name).mkdir()
        return not pathlib.Path(scratch, other).exists()


def check_nothing_in_the_way(out, places):
    """Refuses an `--out` that holds photos of another split.

    They would stay beside the new ones, and a photo could be on both sides.

    Raises:
        UserError: names one such file.
    """
    planned = set(places.values())
    for side in SIDES:
        for folder, folders, names in os.walk(out / side):
            folders[:] = [name for name in folders if not is_hidden(name)]
            for name in names:
                place = pathlib.Path(folder, name).relative_to(out)
                if place not in planned and why_not_a_name(name) is None:
                    raise UserError(
                        f"{out / place} is not part of this split (another seed, fraction or "
                        f"--raw made it, or the photo is gone from --raw). Remove {out / TRAIN} "
                        f"and {out / VALID}, or choose another --out"
                    )


def place_photo(source, target, link):
    """Copies or links one photo, unless it is there already.

    Returns:
        True if it was written, False if it was there.

    Raises:
        UserError: a different photo has that name.
    """
    if os.path.lexists(target):
        if target.exists() and filecmp.cmp(source, target, shallow=False):
            return False
        raise UserError(f"{target} differs from {source}. Remove it if the new photo is right")
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        os.link(source.resolve(), target)  # the photo, not a link to it
    else:
        with replacing(target) as temporary:
            shutil.copy2(source, temporary)
    return True


def sort_photos(raw, out, valid_fraction=0.1, seed=0, link=False, workers=2):
    """Sorts all photos of `raw` into `out/train` and `out/valid`.

    Args:
        raw: folder of `typeid_hash.jpg` files.
        out: folder for `train/<typeid>/` and `valid/<typeid>/`.
        valid_fraction: share of each class for validation, between 0 and 1.
        seed: int, chooses which photos.
        link: hard links instead of copies (no disk space, same file system).
        workers: threads that read photos.

    Returns:
        `Sorted`.

    Raises:
        UserError: no photos, or `out` holds another split.
    """
    raw, out = pathlib.Path(raw), pathlib.Path(out)
    if raw.resolve() == out.resolve():
        raise UserError(f"--raw and --out are both {raw}: sort into another folder")
    classes, skipped = read_raw(raw)
    digests, unusable = inspect_photos(raw, classes, workers)
    skipped += unusable
    if not classes:
        raise UserError(
            f"--raw {raw}: no class with two different photos named typeid_hash.jpg "
            f"({len(skipped)} other entries"
            + (f", e.g. {skipped[0][0]!r}: {skipped[0][1]})" if skipped else ")")
        )
    check_case(classes, out)
    places = plan_copies(classes, digests, valid_fraction, seed)
    check_nothing_in_the_way(out, places)
    shown = tqdm(places.items(), desc="sorting", unit=" photos", disable=None)
    num_written = sum(place_photo(raw / name, out / place, link) for name, place in shown)
    return Sorted(places, skipped, num_written, find_copies(classes, digests))


def print_table(result):
    """Prints classes with their counts, copies, and what was skipped and why."""
    counts = {}
    for place in result.places.values():
        side, typeid, _ = place.parts
        counts.setdefault(typeid, dict.fromkeys(SIDES, 0))[side] += 1
    width = max(len("typeid"), *map(len, counts))
    print(f"{'typeid':<{width}} {TRAIN:>7} {VALID:>7}")
    for typeid in sorted(counts, key=typeid_order):
        print(f"{typeid:<{width}} {counts[typeid][TRAIN]:>7} {counts[typeid][VALID]:>7}")
    train, valid = (sum(count[side] for count in counts.values()) for side in SIDES)
    print(f"{'all':<{width}} {train:>7} {valid:>7}")
    for group in result.copies:
        # repr: a hostile name cannot forge a line of these lists.
        names = ", ".join(repr(name) for _, name in group)
        if len({typeid for typeid, _ in group}) > 1:
            print(f"one photo under two typeids, all to train: {names}")
        else:
            print(f"copies of one photo, kept on one side: {names}")
    for name, reason in result.skipped:
        print(f"skipped: {name!r}: {reason}")
    num_photos = len(result.places)
    print(
        f"{len(counts)} classes, {num_photos} photos: {result.num_written} written, "
        f"{num_photos - result.num_written} there already, {len(result.skipped)} skipped"
    )


def parse_args(argv=None):
    parser = Parser(
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
    add_workers_flag(parser)
    args = parser.parse_args(argv)
    if not 0 < args.valid_fraction < 1:
        parser.error(f"--valid-fraction {args.valid_fraction}: a share between 0 and 1 is needed")
    return args


def main():
    args = parse_args()
    print_table(
        sort_photos(args.raw, args.out, args.valid_fraction, args.seed, args.link, args.workers)
    )


if __name__ == "__main__":
    run(main)
