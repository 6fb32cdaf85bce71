"""What the models of all folds say of the photos that they have not seen."""

import dataclasses
import math
import os
import pathlib
from typing import Any

import numpy as np

from pairs.errors import UserError
from pairs.files import write_csv, write_json
from pairs.network.held_out import read_held_out
from pairs.network.similarity import read_similarity, unit_rows
from pairs.network.weights_folder import MODEL, OUT_OF_FOLD, RESULTS
from pairs.photos.folds import fold_folder, folds_of, read_folds
from pairs.photos.read import Photos
from pairs.training.settings import RESTART


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """Every photo, judged by the one model that has not seen it.

    Attributes:
        photos: of all folds.
        folds: int array, shape `(photos,)`: the fold that held out each.
        probabilities: float32 array, shape `(photos, classes)`.
        unit: float32 array, shape `(photos, features)`: features as the similarity of
            each model sees them.
        likeness: float32 array, shape `(photos,)`: the cosine to the nearest class
            centre; None: nothing is known of it.
    """

    photos: Photos
    folds: np.ndarray
    probabilities: np.ndarray
    unit: np.ndarray
    likeness: np.ndarray | None

    def results(self) -> dict[str, Any]:
        """Numbers: `photos`, `error`, `error_standard_error` (binomial), and those of each fold."""
        wrong = self.probabilities.argmax(axis=1) != self.photos.labels
        error = float(wrong.mean())
        folds = [wrong[self.folds == fold] for fold in range(1, self.folds.max() + 1)]
        return {
            "photos": len(wrong),
            "error": error,
            "error_standard_error": math.sqrt(error * (1 - error) / len(wrong)),
            "folds": [{"photos": len(own), "error": float(own.mean())} for own in folds],
        }


def gather(folder: pathlib.Path, photos: Photos) -> OutOfFold:
    """Reads what each fold's model said of the photos that it held out.

    Args:
        folder: the weights folder.
        photos: of all folds.

    Raises:
        UserError: a file is gone or damaged.
    """
    folds = folds_of(read_folds(folder, RESTART), photos.digests or [])
    folders = [fold_folder(folder, fold) for fold in range(1, int(folds.max()) + 1)]
    similarities = [read_similarity(path / MODEL) for path in folders]
    probabilities = np.zeros((len(photos), len(photos.typeids)), np.float32)
    unit = np.zeros((len(photos), 0), np.float32)
    # Somebody may have deleted one.
    likeness = np.zeros(len(photos), np.float32) if all(similarities) else None
    for fold, (path, similarity) in enumerate(zip(folders, similarities, strict=True), start=1):
        held_out = read_held_out(path)  # one at a time: of many classes it is large
        row = {digest: number for number, digest in enumerate(held_out.digests.tolist())}
        own = np.flatnonzero(folds == fold)
        try:
            rows = [row[(photos.digests or [])[index]] for index in own.tolist()]
            probabilities[own] = held_out.probabilities[rows]
            features = held_out.features[rows]
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{path}: what is kept there is not of these photos; delete "
                f"the folder and run the same command again to train this fold anew"
            ) from error
        if not unit.size:
            unit = np.zeros((len(photos), features.shape[1]), np.float32)
        unit[own] = similarity.unit(features) if similarity else unit_rows(features)
        if likeness is not None and similarity:
            likeness[own] = similarity.class_cosines(features).max(axis=1)
    return OutOfFold(photos, folds, probabilities, unit, likeness)


def write_results(folder: pathlib.Path, found: OutOfFold) -> None:
    """Writes `out_of_fold.csv`, one line per photo, and `results.json`.

    The table's columns: image (file name), typeid, fold, then `p_TYPEID`, the
    probability of every class.
    """
    typeids = found.photos.typeids
    rows = (
        [
            os.path.basename(path),
            typeids[label],
            int(fold),
            *(f"{probability:.6g}" for probability in probabilities),
        ]
        for path, label, fold, probabilities in zip(
            found.photos.paths,
            found.photos.labels,
            found.folds,
            found.probabilities,
            strict=True,
        )
    )
    header = ["image", "typeid", "fold", *(f"p_{typeid}" for typeid in typeids)]
    write_csv(folder / OUT_OF_FOLD, header, rows)
    write_json(folder / RESULTS, found.results())


def print_results(found: OutOfFold) -> None:
    """Prints the error of each fold, and of all photos."""
    results = found.results()
    print("\nfold     photos      error")
    for number, result in enumerate(results["folds"], start=1):
        print(f"{number:<6}{result['photos']:>9}{result['error']:>11.4f}")
    print(
        f"{'all':<6}{results['photos']:>9}{results['error']:>11.4f} ± "
        f"{results['error_standard_error']:.4f} (each photo by the model that has not seen it)"
    )
