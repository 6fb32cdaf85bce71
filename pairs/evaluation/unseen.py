"""Which photos a model has seen, which model has not seen a photo, and what that one says.

Photos are known by the digest of their bytes, not by their folder: that may
have moved, or be named in another way.
"""

import itertools
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from pairs.errors import UserError
from pairs.evaluation.predictions import Predictions, average
from pairs.evaluation.predictor import Predictor
from pairs.files import digest_or_none
from pairs.network.held_out import read_held_out
from pairs.network.weights_folder import HELD_OUT
from pairs.photos.check import perceptual_hashes, read_check, readable
from pairs.photos.duplicates import find_groups
from pairs.photos.find import SIDES, TRAIN, VALID, find_class_photos, has_sides
from pairs.photos.folds import folds_of, pool_sides, read_folds
from pairs.photos.read import Photos, read_ahead
from pairs.photos.skipped import print_skipped


def find_training_photos(predictor: Predictor) -> Photos | None:
    """The photos that a model was trained on; None if they are not there any more.

    They are looked for where they lay as seen from the weights, so a moved project has
    them, and where the training's command named them.
    """
    data = str(predictor.flags.get("data", "data"))
    moved = predictor.home / os.path.relpath(data, str(predictor.flags.get("weights", "weights")))
    return training_photos_in(moved, predictor) or training_photos_in(pathlib.Path(data), predictor)


def training_photos_in(data: pathlib.Path, predictor: Predictor) -> Photos | None:
    """The same, in one folder. Where photos were sorted anew since then, others lie beside them."""
    sides = SIDES if read_folds(predictor.home) else (TRAIN,)
    try:
        photos = pool_sides([find_class_photos(data / side, predictor.typeids) for side in sides])
    except UserError:
        return None
    seen = was_trained_on(predictor, find_digests(photos.paths, predictor.workers))
    return None if seen is None or not seen.any() else photos.take(np.flatnonzero(seen))


def find_photos_to_judge(folder: str, predictors: Sequence[Predictor]) -> Photos:
    """The photos of class folders; where folds judge, also those of `train` and `valid` together.

    Prints what else lies there. No other model may judge photos of `train`: it has seen them.
    """
    typeids = predictors[0].typeids
    sides = [pathlib.Path(folder, side) for side in SIDES]
    single = [predictor.weights for predictor in predictors if len(predictor.models) == 1]
    # In a side these are classes with such typeids.
    is_side = pathlib.Path(folder).resolve().name in SIDES
    if not is_side and has_sides(folder):
        if single:
            raise UserError(
                f"{folder}: {TRAIN} and {VALID} together are judged by folds alone, and "
                f"{single[0]} is one model; choose {sides[1]}"
            )
        for side in sides:
            print_skipped(side, in_classes=True)
        return pool_sides([find_class_photos(side, typeids) for side in sides])
    photos = find_class_photos(folder, typeids)
    print_skipped(folder, in_classes=True)
    return photos


def find_digests(paths: Sequence[str], workers: int) -> list[str | None]:
    """The digest of each photo's bytes; None for what is no file that can be read."""
    return list(read_ahead(digest_or_none, paths, workers))


def find_folds(predictor: Predictor, digests: Sequence[str | None]) -> np.ndarray | None:
    """Which fold holds out each photo, if the predictor is of folds and knows one of them."""
    if len(predictor.models) == 1:
        return None
    folds = folds_of(read_folds(predictor.weights), digests)
    return folds if folds.any() else None


def predict_together(
    predictors: Sequence[Predictor],
    paths: Sequence[str],
    keep_features: bool = True,
    digests: Sequence[str | None] = (),
    folds: Sequence[np.ndarray | None] = (),
) -> Predictions:
    """What some models say of photos: their mean.

    Args:
        predictors: of the models; the first one's features are kept.
        paths: of the photos.
        keep_features: see `Predictor.predict`.
        digests: of the photos, see `find_digests`; only with `folds`.
        folds: of each predictor, `find_folds`: where a fold holds a photo out, that
            fold's model alone is asked. Empty: all models are asked about all photos.
    """
    found: list[Predictions] = []
    for predictor, own in itertools.zip_longest(predictors, folds):
        if own is not None:
            found.append(predict_held_out(predictor, paths, digests, own))
        else:
            is_first = not found  # whose features count, and who reports what cannot be read
            found.append(predictor.predict(paths, keep_features and is_first, quiet=not is_first))
    return average(found, [predictor.typeids for predictor in predictors])


def predict_held_out(
    together: Predictor, paths: Sequence[str], digests: Sequence[str | None], folds: np.ndarray
) -> Predictions:
    """Predicts each photo by the model of the fold that held it out.

    What the training has kept of it is taken from there.

    Args:
        together: the predictor of all folds.
        paths: of the photos.
        digests: of their bytes.
        folds: int array, shape `(len(paths),)`, see `Predictions.folds`.
    """
    probabilities = np.empty((len(paths), len(together.typeids)), np.float32)
    features = np.empty((len(paths), together.num_features), np.float32)
    likeness = np.empty(len(paths), np.float32) if all(together.similarities) else None
    for fold in np.unique(folds).tolist():
        own = np.flatnonzero(folds == fold)
        unseen = f"the model of fold {fold} has not seen" if fold else "no model has seen"
        print(f"{len(own)} photos that {unseen}", flush=True)
        predictor = together.of_folds[fold - 1] if fold else together
        kept = read_kept(predictor) if fold else {}
        is_kept = np.array([digests[index] in kept for index in own.tolist()])
        for index in own[is_kept].tolist():
            probabilities[index], features[index] = kept[digests[index]]
        rest = own[~is_kept]
        if len(rest):
            found = predictor.predict([paths[index] for index in rest])
            probabilities[rest] = found.probabilities
            # Where those of all models stand side by side, the first one's.
            features[rest] = found.features[:, : together.num_features]
        if likeness is not None:
            likeness[own] = (
                predictor.class_cosines(features[own])[0].max(axis=1) if fold else found.likeness
            )
    return Predictions(list(paths), probabilities, features, folds, likeness=likeness)


def read_kept(predictor: Predictor) -> dict[str | None, tuple[np.ndarray, np.ndarray]]:
    """Probabilities and features that a fold's training has kept, by the photo's digest."""
    from pairs.network import parts  # loads Keras

    if not predictor.is_plain or predictor.lacks_centres:  # which had a say in what was kept
        return {}
    try:
        kept = read_held_out(predictor.weights)
    except UserError:
        path = predictor.weights / HELD_OUT
        print(f"note: {path}: gone or damaged; its photos are read again", file=sys.stderr)
        return {}
    if kept.model != parts.digest(predictor.models[0].weights):
        return {}
    rows = zip(kept.probabilities, kept.features, strict=True)
    return dict(zip(kept.digests.tolist(), rows, strict=True))


def count_trained_on(predictor: Predictor, digests: Sequence[str | None]) -> int | None:
    """How many photos a model was trained on; None: nothing is known of its training.

    The models of all folds together count as one that was trained on no photo: each
    is judged by the one that has not seen it.
    """
    if len(predictor.models) > 1:
        return 0
    seen = was_trained_on(predictor, digests)
    return None if seen is None else int(seen.sum())


def was_trained_on(predictor: Predictor, digests: Sequence[str | None]) -> np.ndarray | None:
    """Which photos a model was trained on: bool array; None: nothing is known of its training."""
    if held_out := read_folds(predictor.home):
        folds = folds_of(held_out, digests)
        return (folds > 0) & (folds != predictor.fold)
    trained_on = set(readable(read_check(predictor.home)[TRAIN]).values())
    return np.array([digest in trained_on for digest in digests], bool) if trained_on else None


def find_near_duplicates(predictor: Predictor, digests: Sequence[str | None]) -> list[list[int]]:
    """Groups of copies and near-duplicates, as far as the training has looked at the photos."""
    hashes = perceptual_hashes(read_check(predictor.home))
    # What could not be read is like no other.
    distinct = [digest or f"unread {index}" for index, digest in enumerate(digests)]
    try:
        return find_groups(distinct, [hashes.get(digest, "") for digest in digests])
    except UserError as error:
        print(f"note: only exact copies are listed, no near-duplicates: {error}", file=sys.stderr)
        return find_groups(distinct, [""] * len(distinct))
