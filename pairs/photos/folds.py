"""Cuts photos into folds: each is held out by one model, and trained on by the others.

`folds.json` in the weights folder says which fold holds out which photo, by the
digest of its bytes: wherever a photo lies later, the model that has not seen it
is known.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from pairs.errors import UserError
from pairs.files import read_json, write_json
from pairs.photos.read import Photos

FOLDS = "folds.json"
MOST_FOLDS = 10


def pool_sides(sides: list[Photos]) -> Photos:
    """The photos of several folders with the same typeids, sorted by class and name."""
    paths = [path for photos in sides for path in photos.paths]
    labels = np.concatenate([photos.labels for photos in sides])
    digests = [digest for photos in sides for digest in photos.digests or [None] * len(photos)]
    pooled = Photos(paths, labels, sides[0].typeids, digests, fit=sides[0].fit)
    names = [os.fsencode(os.path.basename(path)) for path in paths]
    return pooled.take(sorted(range(len(paths)), key=lambda i: (labels[i], names[i], paths[i])))


def cut_folds(photos: Photos, groups: list[list[int]], num_folds: int, seed: int) -> np.ndarray:
    """Chooses the fold that holds out each photo.

    Every class is spread evenly over the folds, by its photos' names and the seed.

    Args:
        photos: to cut.
        groups: lists of indices: photos that must share a fold.
        num_folds: at least 2.
        seed: another seed, another choice.

    Returns:
        int array, shape `(len(photos),)`, 1 to `num_folds`.

    Raises:
        UserError: a class has fewer different photos than there are folds.
    """

    def draw(unit):
        first = unit[0]
        typeid = photos.typeids[photos.labels[first]]
        text = f"{seed}\0{typeid}\0{os.path.basename(photos.paths[first])}"
        return hashlib.sha256(os.fsencode(text)).digest()

    grouped = {index for group in groups for index in group}
    units = groups + [[index] for index in range(len(photos)) if index not in grouped]
    check_enough(photos, units, num_folds)
    folds = np.zeros(len(photos), int)
    sizes = np.bincount(photos.labels, minlength=len(photos.typeids))
    counts = np.zeros((num_folds, len(photos.typeids)), int)  # photos of each fold and class
    # The large ones first: what is left evens out.
    for unit in sorted(units, key=lambda unit: (-len(unit), photos.labels[unit[0]], draw(unit))):
        labels = photos.labels[unit]
        classes = np.unique(labels)
        # The smallest class first: it has the fewest groups to be spread by.
        smallest = classes[np.argmin(sizes[classes])]
        of_all_classes = (counts[:, classes] / sizes[classes]).sum(axis=1)
        keys = (counts[:, smallest], of_all_classes, counts.sum(axis=1))
        fold = int(np.lexsort(keys[::-1])[0])
        folds[unit] = fold + 1
        np.add.at(counts[fold], labels, 1)
    for label in np.flatnonzero((counts > 0).sum(axis=0) < 2):
        raise UserError(
            f"--folds {num_folds}: all photos of class {photos.typeids[label]!r} are in groups of "
            f"near-duplicates that fall into one fold; add photos of it, or leave it out"
        )
    return folds


def check_enough(photos: Photos, units: list[list[int]], num_folds: int) -> None:
    """Raises a UserError if a class has fewer different photos than there are folds."""
    num_different = np.zeros(len(photos.typeids), int)
    for unit in units:
        num_different[np.unique(photos.labels[unit])] += 1
    few = np.flatnonzero(num_different < num_folds)
    if len(few):
        fewest = few[np.argmin(num_different[few])]
        raise UserError(
            f"--folds {num_folds}: {len(few)} of {len(photos.typeids)} classes have fewer "
            f"different photos than folds, e.g. {photos.typeids[fewest]!r} has "
            f"{num_different[fewest]}; fewer --folds, more photos, or leave the class out"
        )


def fold_folder(weights: pathlib.Path, fold: int) -> pathlib.Path:
    """Where the model of a fold lies, 1 to the number of folds."""
    return weights / f"fold-{fold}"


def fold_of_folder(weights: pathlib.Path) -> int | None:
    """The fold whose model lies in a weights folder; None: it is not one of folds."""
    path = weights.resolve()
    for fold in range(1, MOST_FOLDS + 1):
        if path == fold_folder(path.parent, fold):
            return fold if fold in read_folds(path.parent).values() else None
    return None


def write_folds(weights: pathlib.Path, photos: Photos, folds: np.ndarray) -> None:
    """Remembers a choice of `cut_folds` as long as the weights."""
    held_out = dict(zip(photos.digests or [], map(int, folds), strict=True))
    write_json(weights / FOLDS, {"folds": int(folds.max()), "held_out": held_out})


def read_folds(weights: pathlib.Path, advice: str = "restore it") -> dict[str, int]:
    """Which fold holds out which photo, by digest; empty if these are no weights of folds.

    Args:
        weights: a weights folder.
        advice: what to do if the file is damaged.

    Raises:
        UserError: the file is damaged.
    """
    content = read_json(weights / FOLDS, advice)
    if not content:
        return {}
    try:
        held_out = content["held_out"]
        for fold in held_out.values():
            if type(fold) is not int or not 1 <= fold <= content["folds"] <= MOST_FOLDS:
                raise ValueError(f"{fold!r} is no fold's number")
        return held_out
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{weights / FOLDS}: damaged ({error}); {advice}") from error


def folds_of(held_out: dict[str, int], digests: Iterable[str | None]) -> np.ndarray:
    """int array: the fold that holds out each photo; 0: none, no model has seen it."""
    return np.array([held_out.get(digest or "", 0) for digest in digests], int)
