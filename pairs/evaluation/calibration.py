"""Fits what makes probabilities mean what they say, and keeps it beside the model.

`calibration.json` holds a temperature for the class probabilities and the
threshold from which two photos are called the same. It belongs to the very
model files that it was fitted for.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import sys

import numpy as np

from pairs.errors import UserError
from pairs.evaluation import metrics
from pairs.files import file_digest, write_json
from pairs.photos.folds import fold_folder, read_folds

CALIBRATION = "calibration.json"
MODEL = "model.keras"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was fitted on photos that the model has not seen.

    Attributes:
        temperature: probabilities are `softmax(log(p) / temperature)`.
        same_threshold: probability of "same" from which both kinds of pairs are
            wrong equally often; None for a model without pair head.
        photos: how many photos it was fitted on; 0: not fitted.
    """

    temperature: float = 1.0
    same_threshold: float | None = 0.5
    photos: int = 0

    def checked(self) -> "Calibration":
        """Itself; raises a ValueError or TypeError if a file held something else."""
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}")
        if self.same_threshold is not None and not 0 <= self.same_threshold <= 1:
            raise ValueError(f"same_threshold {self.same_threshold}")
        if not isinstance(self.photos, int) or self.photos < 0:
            raise ValueError(f"photos {self.photos!r}")
        return self


def model_files(weights: pathlib.Path) -> list[pathlib.Path]:
    """The model file of a weights folder, or those of its folds.

    Raises:
        UserError: it holds neither, or some folds are not trained yet.
    """
    num_folds = max(read_folds(weights).values(), default=0)
    if not num_folds and (weights / MODEL).is_file():
        return [weights / MODEL]
    files = [fold_folder(weights, fold) / MODEL for fold in range(1, num_folds + 1)]
    missing = [path for path in files if not path.is_file()]
    if not files:
        raise UserError(f"{weights / MODEL}: no such model; python train.py makes one")
    if missing:
        raise UserError(
            f"{missing[0]}: not there yet ({len(files) - len(missing)} of {len(files)} folds are); "
            f"run the same train.py command again, or take one fold: --weights {files[0].parent}"
        )
    return files


def fit(
    probabilities: np.ndarray,
    labels: np.ndarray,
    same_probabilities: np.ndarray,
    same: np.ndarray,
) -> Calibration:
    """Fits both numbers.

    Args:
        probabilities: float array, shape `(photos, classes)`.
        labels: int array, shape `(photos,)`.
        same_probabilities: float array, shape `(pairs,)`: of the pair head; empty
            if there is none.
        same: bool array, shape `(pairs,)`: whether they are of one class.
    """
    threshold: float | None = None
    if len(same):
        is_one_kind = same.all() or not same.any()
        threshold = 0.5 if is_one_kind else metrics.equal_error(same_probabilities, same)[0]
    return Calibration(metrics.fit_temperature(probabilities, labels), threshold, len(labels))


def models_digest(weights: pathlib.Path) -> str:
    """SHA-256 of the model file; of several, of their digests one after another."""
    digests = [file_digest(path) for path in model_files(weights)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def write_calibration(weights: pathlib.Path, calibration: Calibration) -> None:
    """Stores what was fitted for the models of a weights folder, beside them."""
    facts = {"model": models_digest(weights), **dataclasses.asdict(calibration)}
    write_json(weights / CALIBRATION, facts)


def read_calibration(weights: pathlib.Path) -> Calibration:
    """The stored one; the neutral one if there is none for these model files."""
    path = weights / CALIBRATION
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts.pop("model") == models_digest(weights):
            return Calibration(**facts).checked()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(
            f"{path}: damaged ({error}) and not used; --evaluate writes it anew",
            file=sys.stderr,
        )
    return Calibration()
