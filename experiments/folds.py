"""Cuts labelled photos into folds: some to tune a recipe on, one kept untouched.

A contest keeps the labels of its test photos. To find out what helps, each fold
in turn plays the test photos, and the others are sorted as `img2keras.py` does
(a photo under two typeids is always one to train on):

    OUT/fold-0/{train,valid,test}/typeid/    test: the untouched fold
    OUT/fold-1/{train,valid,test}/typeid/    test: fold 1; fold 0 is nowhere in it
    ...

Tune on fold-1, fold-2, ...; look at fold-0 once, at the end.

Run it:  python -m experiments.folds --raw data/raw --out data/folds
"""

import pathlib

from pairs.command_line import Parser, add_workers_flag, run
from pairs.errors import UserError
from pairs.photos.place import place_photo
from pairs.photos.raw import contest_name, inspect_photos, read_raw, usable_classes
from pairs.photos.split import group_photos, split_class, under_two_typeids

VALID_FRACTION = 0.1


def cut_class(typeid, names, num_folds, seed, groups):
    """Cuts the photos of a class into folds, as even as groups of near-duplicates allow.

    Args and raises: as `split.split_class`, which draws every fold.

    Returns:
        list of lists of file names, `num_folds` long; copies and near-duplicates
        of one photo are in one fold.

    Raises:
        UserError: the class has too few different photos.
    """
    folds, rest = [], list(names)
    for left in range(num_folds, 1, -1):
        drawn = split_class(typeid, rest, 1 / left, seed, groups)
        folds.append([name for name in rest if name in drawn])
        rest = [name for name in rest if name not in drawn]
    folds.append(rest)
    if not all(folds) or sum(map(len, folds[1:])) - max(map(len, folds[1:])) < 2:
        raise UserError(
            f"class {typeid!r}: {len(names)} photos are too few for {num_folds} folds; fewer "
            f"--folds, or more photos"
        )
    return folds


def cut_folds(raw, out, num_folds, seed, workers):
    """Copies the photos into the folders of all folds; returns the photos in each test folder."""
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out}: not empty; photos of two cuts would mix, choose another one")
    classes, _ = read_raw(raw)
    inspected, _ = inspect_photos(raw, classes, workers)
    classes, _ = usable_classes(inspected)
    groups = group_photos(inspected)
    if not classes:
        raise UserError(f"--raw {raw}: no photos named typeid_hash.jpg")
    counts = [0] * num_folds
    typeids = {name: typeid for typeid, names in classes.items() for name in names}
    in_two = under_two_typeids(typeids, groups)
    for typeid, names in classes.items():
        own = [name for name in names if groups[name] not in in_two]
        others_too = [name for name in names if groups[name] in in_two]
        folds = cut_class(typeid, own, num_folds, seed, groups)
        for number, test in enumerate(folds):
            others = [fold for fold in folds if fold is not test and fold is not folds[0]]
            rest = [name for fold in others for name in fold]
            valid = split_class(typeid, rest, VALID_FRACTION, seed, groups)
            counts[number] += len(test)
            for name in (*test, *rest, *others_too):
                side = "test" if name in test else "valid" if name in valid else "train"
                target = out / f"fold-{number}" / side / typeid / contest_name(name)
                place_photo(raw / name, target, link=False)
    return counts


def parse_args(argv=None):
    parser = Parser(description="Cut labelled photos into folds for choosing a recipe.")
    add = parser.add_argument
    add("--raw", type=pathlib.Path, default="data/raw", help="default: %(default)s")
    add("--out", type=pathlib.Path, default="data/folds", help="default: %(default)s")
    add("--folds", type=int, default=5, help="the untouched one included (default: %(default)s)")
    add("--seed", type=int, default=0, help="another seed, other folds (default: %(default)s)")
    add_workers_flag(parser)
    args = parser.parse_args(argv)
    if args.folds < 3:
        parser.error(f"--folds {args.folds}: an untouched one and two others are needed")
    return args


def main():
    args = parse_args()
    counts = cut_folds(args.raw, args.out, args.folds, args.seed, args.workers)
    for number, count in enumerate(counts):
        what = "untouched until the end" if number == 0 else "to tune on"
        print(f"{args.out / f'fold-{number}'}: {count} test photos, {what}")


if __name__ == "__main__":
    run(main)
