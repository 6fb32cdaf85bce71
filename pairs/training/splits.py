"""What each model of a training trains on: one split, or one per fold."""

import dataclasses
import pathlib

import numpy as np

from pairs.errors import UserError
from pairs.photos.check import Known, perceptual_hashes, warn_about_leakage
from pairs.photos.duplicates import find_groups
from pairs.photos.find import SIDES, TRAIN, VALID
from pairs.photos.folds import FOLDS, cut_folds, fold_folder, folds_of, read_folds
from pairs.photos.read import Photos
from pairs.photos.skipped import print_skipped
from pairs.training.settings import RESTART


@dataclasses.dataclass(frozen=True)
class Split:
    """What one model trains on, and what it is validated on.

    Attributes:
        folder: for its files.
        photos, valid: of training and of validation.
        pool: of all folds, `photos` and `valid` are some of them; None: there
            are no folds.
    """

    folder: pathlib.Path
    photos: Photos
    valid: Photos
    pool: Photos | None = None


def check_sides_suffice(photos: Photos, valid: Photos) -> None:
    """Raises a UserError if a side has no pair, or a class nothing to train on."""
    for side, own in ((TRAIN, photos), (VALID, valid)):
        if len(own) < 2:
            raise UserError(f"{len(own)} {side} photo: at least 2 make a pair. Add photos")
    for typeid in photos.missing_classes():
        raise UserError(
            f"none of the {TRAIN} photos of class {typeid!r} can be read; add photos or remove "
            f"the class folder"
        )


def print_counts(
    data: str, photos: Photos, valid: Photos, num_folds: int | None, found: dict[str, Known]
) -> None:
    """Prints how many photos of training and validation there are, and what is odd about them."""
    for side in SIDES:
        print_skipped(pathlib.Path(data, side), in_classes=True)
    if num_folds:
        count = len(photos) + len(valid)
        print(f"{len(photos.typeids)} classes, {count} photos in {num_folds} folds", flush=True)
        return
    warn_about_leakage(found[TRAIN], found[VALID])
    if unjudged := valid.missing_classes():
        print(f"note: classes without a validation photo: {len(unjudged)}, e.g. {unjudged[0]!r}")
    print(
        f"{len(photos.typeids)} classes, {len(photos)} photos to train, {len(valid)} to validate",
        flush=True,
    )


def choose_folds(pool: Photos, found: dict[str, Known], num_folds: int, seed: int) -> np.ndarray:
    """Chooses the fold of each photo; copies and near-duplicates share one.

    Args:
        pool: of all folds, with their digests.
        found: what the check of both sides found.
        num_folds, seed: as `folds.cut_folds`, which also says what is returned
            and raised.
    """
    hashes = perceptual_hashes(found)
    digests = [digest or "" for digest in pool.digests or []]
    groups = find_groups(digests, [hashes[digest] for digest in digests])
    folds = cut_folds(pool, groups, num_folds, seed)
    if groups:
        print(
            f"{sum(map(len, groups))} of the photos are copies or near-duplicates of others: "
            f"{len(groups)} groups, each in one fold"
        )
    return folds


def split_folds(folder: pathlib.Path, pool: Photos, num_folds: int) -> list[Split]:
    """What the model of each fold trains on.

    Args:
        folder: the weights folder; its folds.json says which fold holds out which photo.
        pool: of all folds, with their digests.
        num_folds: that there are.

    Raises:
        UserError: folds.json is not of these photos.
    """
    folds = folds_of(read_folds(folder, RESTART), pool.digests or [])
    if set(folds) != set(range(1, num_folds + 1)):
        raise UserError(f"{folder / FOLDS}: gone, or not of these photos; {RESTART}")
    pool = dataclasses.replace(pool, folds=folds)
    return [
        Split(
            fold_folder(folder, fold),
            pool.take(np.flatnonzero(folds != fold)),
            # Others may stand in for what a model is judged by, not for what it learns.
            dataclasses.replace(pool.take(np.flatnonzero(folds == fold)), pool=pool),
            pool,
        )
        for fold in range(1, num_folds + 1)
    ]
