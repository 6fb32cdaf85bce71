"""Fits what makes probabilities mean what they say, and keeps it beside the model.

`calibration.json` holds a temperature for the class probabilities, the weights of the
logistic models that say whether two photos are of one class (`same.py`), and from
where on a photo shows none of the classes. It belongs to the very model files that it
was fitted for.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import sys

import numpy as np

from pairs.evaluation import metrics, same
from pairs.evaluation.predictions import Predictions
from pairs.files import file_digest, write_json
from pairs.network.weights_folder import CALIBRATION, SIMILARITY, model_files

NOT_FITTED = "not calibrated yet: see --evaluate"
NO_PAIRS = "not calibrated: no class had two of the photos that were judged"
# Fewer than this, and what is fitted on them is mostly chance.
FEW_PHOTOS = 50
# Share of photos of the classes that "none of the classes" may be said of.
REFUSED = 0.05


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was fitted on photos that the model has not seen.

    Attributes:
        temperature: probabilities are `softmax(log(p) / temperature)`.
        same_known: weights for photos of the trained classes, see `same.fit`. Not
            fitted, it is the agreement of their class probabilities.
        same_new: the same for photos of other classes, of the cosine alone. Not
            fitted, it is about what other trainings had, with `similarity.npz`.
        same_threshold: probability of "same" from which both kinds of pairs of
            trained classes are wrong equally often.
        none_below: a photo with a lower score (`class_scores`) shows none of the
            classes. 5 % of those that do have one; 0 where it is not fitted. Of folds
            it is fitted on single models, and their mean refuses more.
        photos: how many photos it was fitted on; 0: not fitted.
    """

    temperature: float = 1.0
    same_known: tuple[float, ...] = (0.0, 1.0, 0.0)
    same_new: tuple[float, ...] = (17.0, -2.5)
    same_threshold: float = 0.5
    none_below: float = 0.0
    photos: int = 0

    def shows_none(self, predictions: Predictions) -> np.ndarray:
        """Which photos show none of the classes: bool array, shape `(photos,)`."""
        scores = class_scores(predictions.probabilities, predictions.likeness)
        # Not fitted, it refuses nothing: scores of photos that are unlike all are below 0.
        return (scores < self.none_below) & (self.none_below != 0)

    def of_mean(self) -> "Calibration":
        """What to store for the mean of several models, of what was fitted on each alone.

        The mean is less sure than each of them: a temperature that makes them less sure
        would do so twice.
        """
        return dataclasses.replace(self, temperature=min(1.0, self.temperature))

    def why_not_fitted(self, of_pairs: bool = False) -> str:
        """Why probabilities were not fitted; empty where they were."""
        if not self.photos:
            return NOT_FITTED
        return NO_PAIRS if of_pairs and self.same_known == Calibration.same_known else ""

    def remark(self, of_pairs: bool = False) -> str:
        """What to print behind a line about probabilities; empty where they were fitted well."""
        why = self.why_not_fitted(of_pairs)
        if not why and self.photos < FEW_PHOTOS:
            why = f"calibrated on {self.photos} photos only"
        return f"; {why}" if why else ""

    def checked(self) -> "Calibration":
        """Itself; raises a ValueError or TypeError if a file held something else."""
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}")
        if not 0 <= self.same_threshold <= 1:
            raise ValueError(f"same_threshold {self.same_threshold}")
        for weights, count in ((self.same_known, 3), (self.same_new, 2)):
            if len(weights) != count or not all(map(math.isfinite, weights)):
                raise ValueError(f"{count} numbers are expected, not {weights!r}")
        if not -1 <= self.none_below <= 1:
            raise ValueError(f"none_below {self.none_below}")
        if not isinstance(self.photos, int) or self.photos < 0:
            raise ValueError(f"photos {self.photos!r}")
        return self


def fit_calibration(
    probabilities: np.ndarray, labels: np.ndarray, likeness: np.ndarray | None, pairs: same.Pairs
) -> Calibration:
    """Fits all of it.

    Args:
        probabilities: float array, shape `(photos, classes)`.
        labels: int array, shape `(photos,)`.
        likeness: float array, shape `(photos,)`, see `Predictions`.
        pairs: of these photos, of `same.compare`.
    """
    temperature = metrics.fit_temperature(probabilities, labels)
    scores = class_scores(probabilities, likeness)
    # Weibull's rule: of photos to come, too, 5 % are below. NumPy's own refuses more.
    none_below = float(np.quantile(scores, REFUSED, method="weibull"))
    if pairs.same.all() or not pairs.same.any():  # nothing to tell apart
        return Calibration(temperature, none_below=none_below, photos=len(labels))
    known = same.fit(pairs, with_agreement=True)
    answers = same.probability(known, pairs.cosine, pairs.agreement)
    return Calibration(
        temperature,
        known,
        same.fit(pairs, with_agreement=False),
        metrics.equal_error(answers, pairs.same)[0],
        none_below,
        len(labels),
    )


def class_scores(probabilities: np.ndarray, likeness: np.ndarray | None) -> np.ndarray:
    """How much photos look like one of the classes at all, at most 1.

    Chosen in experiments/new_classes.py: the largest probability times the likeness,
    if that is known. A softmax is sure of many a photo of something else.

    Args:
        probabilities: float array, shape `(photos, classes)`, without temperature.
        likeness: float array, shape `(photos,)`, see `Predictions`.
    """
    surest = probabilities.max(axis=1)
    return surest if likeness is None else surest * likeness


def models_digest(weights: pathlib.Path) -> str:
    """SHA-256 of the model file; with a space of similarities, of both; so of several models."""
    files = model_files(weights)
    files += [path for model in files if (path := model.with_name(SIMILARITY)).is_file()]
    digests = [file_digest(path) for path in files]
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
            found = Calibration(**facts).checked()
            return dataclasses.replace(  # JSON knows no tuples
                found, same_known=tuple(found.same_known), same_new=tuple(found.same_new)
            )
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(
            f"{path}: damaged ({error}) and not used; --evaluate writes it anew",
            file=sys.stderr,
        )
    return Calibration()
