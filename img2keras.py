"""Sorts photos named `typeid_hash.jpg` into one folder per class, as Keras reads them.

    data/raw/64_2043,1136.jpg  ->  data/train/64/64_2043,1136.jpg
                               or  data/valid/64/64_2043,1136.jpg

The typeid is what stands before the first `_`. Photos that are in class folders already,
`data/raw/64/2043,1136.jpg`, are sorted into the same places. Which side a photo goes to
depends on the names of its class and the seed: not on the order of the directory, nor on
the machine. Copies and near-duplicates of one photo stay on one side (of two typeids: in
training). What cannot be read is skipped and listed. Sources are copied, never moved or
changed.

Run it:  python img2keras.py --raw data/raw --out data --valid-fraction 0.1 --seed 0
"""

import dataclasses
import pathlib

from tqdm import tqdm

from pairs.command_line import Parser, add_workers_flag, print_first, run
from pairs.errors import UserError
from pairs.files import check_can_be_made
from pairs.photos.corrections import correct, read_corrections
from pairs.photos.find import SIDES, TRAIN, VALID, typeid_order
from pairs.photos.place import (
    check_case,
    find_stale,
    folded,
    place_photo,
    remove_places,
    write_sorting,
)
from pairs.photos.raw import (
    contest_name,
    inspect_photos,
    read_raw,
    typeid_of,
    usable_classes,
)
from pairs.photos.split import find_alike, group_photos, plan_places, under_two_typeids

# Flags that whoever sorts again will want to know.
REMEMBERED = ("raw", "valid_fraction", "seed", "link", "corrections")


@dataclasses.dataclass(frozen=True)
class Sorting:
    """What becomes of the photos of a folder.

    Attributes:
        places: of each file name, below `--out`.
        skipped: list of `(file name, reason)`.
        copies: groups of the same photo, see `split.find_alike`.
        near_duplicates: groups of photos of the same picture, copies of it among them.
        relabelled, left_out: see `corrections.Corrected`.
        num_written: photos that were not in place already.
        num_removed: places of an earlier sorting that were removed.
    """

    places: dict
    skipped: list
    copies: list
    near_duplicates: list
    relabelled: list
    left_out: list
    num_written: int = 0
    num_removed: int = 0


def sort_photos(raw, out, valid_fraction=0.1, seed=0, link=False, workers=2, corrections=()):
    """Sorts all photos of `raw` into `out/train` and `out/valid`.

    Args:
        raw: folder of `typeid_hash.jpg` files, or of class folders.
        out: folder for `train/<typeid>/` and `valid/<typeid>/`.
        valid_fraction: share of each class for validation, between 0 and 1.
        seed: int, chooses which photos.
        link: hard links instead of copies (no disk space, same file system).
        workers: threads that read photos.
        corrections: files of them, see `corrections.read_corrections`.

    Returns:
        `Sorting`.

    Raises:
        UserError: no photos, `out` holds others, or of corrections.
    """
    raw, out = pathlib.Path(raw), pathlib.Path(out)
    if raw.resolve() == out.resolve():
        raise UserError(f"--raw and --out are both {raw}: sort into another folder")
    check_can_be_made("--out", out)
    sorting = plan_sorting(raw, valid_fraction, seed, workers, corrections)
    places = sorting.places
    check_case(places.values(), out)
    names = {*places, *sorting.left_out, *(name for name, _ in sorting.skipped)}
    stale = find_stale(raw, out, names, places)
    shown = tqdm(places.items(), desc="sorting", unit=" photos", disable=None)
    num_written = sum(place_photo(raw / name, out / place, link) for name, place in shown)
    remove_places(out, stale)  # now: what is killed before has a photo in two folders, not in none
    return dataclasses.replace(sorting, num_written=num_written, num_removed=len(stale))


def plan_sorting(raw, valid_fraction, seed, workers, corrections):
    """Decides where each photo goes; arguments, result and errors as in `sort_photos`."""
    classes, skipped = read_raw(raw)
    names = {name for members in classes.values() for name in members}
    decided = read_corrections(corrections, names | {name for name, _ in skipped}, set(classes))
    inspected, unreadable = inspect_photos(raw, classes, workers)
    classes, alone = usable_classes(inspected)
    skipped += unreadable + alone
    if not classes:
        raise UserError(
            f"--raw {raw}: no class with two different photos, named typeid_hash.jpg or in class "
            f"folders ({len(skipped)} other entries"
            + (f", e.g. {skipped[0][0]!r}: {skipped[0][1]})" if skipped else ")")
        )
    groups = group_photos(inspected)
    # Also with photos of classes that are skipped.
    in_two = under_two_typeids({name: typeid_of(name) for name in inspected}, groups)
    split = plan_places(classes, groups, in_two, valid_fraction, seed)
    if not any(place.parts[0] == VALID for place in split.values()):
        raise UserError(
            f"--raw {raw}: no photo is left for validation, because each is like another under "
            f"another typeid, or all of its class are alike. Add photos that differ"
        )
    # The only photo of its class may have a typing error for a typeid.
    moved = [name for name, _ in alone if decided.get(name) in classes]
    split |= {name: pathlib.Path(TRAIN, typeid_of(name), contest_name(name)) for name in moved}
    skipped = [
        (name, with_correction(name, reason, decided))
        for name, reason in skipped
        if name not in moved
    ]
    corrected = correct(split, decided, groups, classes)
    listed = {name: place.parts[1] for name, place in corrected.places.items()}
    listed |= {name: typeid_of(name) for name, _ in alone if name not in moved}
    digests = {name: facts.digest for name, facts in inspected.items()}
    near_duplicates = [
        group
        for group in find_alike(listed, groups)
        if len({digests[name] for _, name in group}) > 1
    ]
    return Sorting(
        places=corrected.places,
        skipped=skipped,
        copies=of_sorted(find_alike(listed, digests), corrected.places),
        near_duplicates=of_sorted(near_duplicates, corrected.places),
        relabelled=corrected.relabelled,
        left_out=corrected.left_out,
    )


def of_sorted(groups, places):
    """The groups with a photo that has a place; those of a skipped class alone have none."""
    return [group for group in groups if any(name in places for _, name in group)]


def with_correction(name, reason, decided):
    """The reason to skip a photo; says, too, if a correction would have given it a class."""
    typeid = decided.get(name)
    if typeid is None or typeid == typeid_of(name):
        return reason
    return f"{reason}; its correction to {typeid!r} does nothing, give it that typeid in --raw"


def print_groups(groups, of_one_class, of_two):
    """Prints the photos of each group; of the harmless groups, the first."""
    harmless = []
    for group in groups:
        # repr: a hostile name cannot forge a line of these lists.
        names = ", ".join(repr(name) for _, name in group)
        if len({typeid for typeid, _ in group}) > 1:
            print(f"{of_two} under two typeids, none for validation: {names}")
        else:
            harmless.append(names)
    print_first(f"{of_one_class}, kept on one side", harmless)


def print_spellings(typeids):
    """Prints which typeids look the same or nearly: one class in two spellings would be two."""
    spellings = {}
    for typeid in typeids:
        spellings.setdefault(folded(typeid).strip(), []).append(ascii(typeid))
    for same in spellings.values():
        if len(same) > 1:
            print(f"note: the typeids {', '.join(same)} differ in their spelling only: one class?")


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
    print_spellings(counts)
    print_groups(result.copies, "copies of one photo", "one photo")
    print_groups(result.near_duplicates, "near-duplicates", "near-duplicates")
    moves = [f"{name!r}: {before!r} -> {now!r}" for name, before, now in result.relabelled]
    print_first("relabelled", moves)
    print_first("left out", [repr(name) for name in result.left_out])
    for name, reason in result.skipped:
        print(f"skipped: {name!r}: {reason}")
    num_photos = len(result.places)
    more = {
        "relabelled": len(result.relabelled),
        "left out": len(result.left_out),
        "old places removed": result.num_removed,
    }
    print(
        f"{len(counts)} classes, {num_photos} photos: {result.num_written} written, "
        f"{num_photos - result.num_written} there already, {len(result.skipped)} skipped"
        + "".join(f", {count} {what}" for what, count in more.items() if count)
    )


def parse_args(argv=None):
    parser = Parser(
        description="Sort photos named typeid_hash.jpg, or in class folders, into train/<typeid>/ "
        "and valid/<typeid>/."
    )
    parser.add_argument(
        "--raw", default="data/raw", help="folder of photos or class folders (default: %(default)s)"
    )
    parser.add_argument("--out", default="data", help="folder to sort into (default: %(default)s)")
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.1,
        help="fraction of each class used for validation; at least one photo, if the class has two "
        "different ones (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the split (default: %(default)s)"
    )
    parser.add_argument(
        "--corrections",
        action="append",
        default=[],
        metavar="FILE",
        help="CSV of image,decision,typeid from the page of labels to check; may be repeated, the "
        "later file wins",
    )
    parser.add_argument("--link", action="store_true", help="hard links instead of copies")
    add_workers_flag(parser)
    args = parser.parse_args(argv)
    if not 0 < args.valid_fraction < 1:
        parser.error(f"--valid-fraction {args.valid_fraction}: a share between 0 and 1 is needed")
    return args


def main():
    args = parse_args()
    result = sort_photos(
        args.raw,
        args.out,
        valid_fraction=args.valid_fraction,
        seed=args.seed,
        link=args.link,
        workers=args.workers,
        corrections=args.corrections,
    )
    flags = {name: getattr(args, name) for name in REMEMBERED}
    notes = write_sorting(pathlib.Path(args.out), flags)  # before `| head` ends this process
    print_table(result)
    for note in notes:
        print(note)


if __name__ == "__main__":
    run(main)
