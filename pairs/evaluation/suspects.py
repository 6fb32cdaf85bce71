"""Labels to check: photos whose class is improbable, the most suspicious first.

Every photo needs probabilities from a model that has not seen it, "out of
fold": a model knows by heart what it was trained on, wrong labels included.
Numbers only; `suspects_page.py` makes a page to decide on them.
"""

import collections
import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

import numpy as np

from pairs.evaluation.metrics import LEAST
from pairs.files import write_csv
from pairs.photos.read import Photos

# The page shows so many suspects; others need no neighbours.
MOST_SUSPECTS = 150
NEIGHBOURS = 3
MOST_DUPLICATES = 6
PHOTOS_AT_ONCE = 4096
HEADER = ["image", "typeid", "suggested", "score"]


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A photo whose label should be checked.

    Attributes:
        index: of the photo.
        suggested: the label to take instead. The first guess; where that is the
            photo's own label, the most probable label of `duplicates`.
        score: of `label_scores`.
        own_probability: of its own label, in [0, 1].
        probability: of the suggested label, in [0, 1].
        near_suggested: indices of up to three photos labelled as suggested, the
            nearest first; of the same fold. Of the first `MOST_SUSPECTS` alone.
        near_own: the same for its own label, without the photo itself.
        duplicates: indices of near-duplicates of it under other labels, at most
            `MOST_DUPLICATES`.
    """

    index: int
    suggested: int
    score: float
    own_probability: float
    probability: float
    near_suggested: tuple[int, ...]
    near_own: tuple[int, ...]
    duplicates: tuple[int, ...] = ()


def label_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How suspicious labels are: how much more probable another class is, in powers of ten.

    It finds as many planted labels as the probability of the label alone, and no
    temperature changes its order (`experiments/rankings.py`, docs/results.md).

    Args:
        probabilities: float array, shape `(photos, classes)`; rows sum to 1.
        labels: int array, shape `(photos,)`.

    Returns:
        float64 array, shape `(photos,)`: the decimal logarithm of the largest
        probability of another class over that of the own; 2: a hundred times as
        probable, below 0 where the own class is the first guess.
    """
    rows = np.arange(len(labels))
    others = np.maximum(probabilities, LEAST, dtype=np.float64)
    np.log10(others, out=others)
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    return others.max(axis=1) - own


def find_suspects(
    photos: Photos,
    probabilities: np.ndarray,
    features: np.ndarray,
    folds: np.ndarray,
    groups: Sequence[Sequence[int]] = (),
    calibrated: np.ndarray | None = None,
) -> list[Suspect]:
    """Finds the photos whose label should be checked.

    They are those whose first guess is another class, and those with a
    near-duplicate under another label, even if the model agrees with theirs: one
    of the two labels is wrong, whatever a model says.

    Args:
        photos: all of them.
        probabilities: float array, shape `(photos, classes)`, out of fold. A photo
            without any (a row with NaN) is no suspect and no neighbour.
        features: float array, shape `(photos, features)`, of the same models.
        folds: int array, shape `(photos,)`: which model a photo's row is of.
            Features of different models cannot be compared.
        groups: of near-duplicates, exact copies included: indices of photos.
        calibrated: the probabilities that are shown; None: the same. They do not rank:
            sharpened, many are 1.

    Returns:
        the highest score first.
    """
    shown = probabilities if calibrated is None else calibrated
    labels = photos.labels
    readable = ~np.isnan(probabilities).any(axis=1)
    scores = label_scores(probabilities, labels)
    guesses = probabilities.argmax(axis=1)
    duplicates = find_mislabelled_duplicates(labels, groups)
    doubted = guesses != labels
    doubted[list(duplicates)] = True
    chosen = np.flatnonzero(readable & doubted).tolist()
    suspects: list[Suspect] = []
    for index in sorted(chosen, key=lambda index: (-scores[index], index)):
        others = duplicates.get(index, ())
        suggested = int(guesses[index])
        if suggested == labels[index]:
            suggested = max((int(labels[i]) for i in others), key=probabilities[index].__getitem__)
        near: list[tuple[int, ...]] = [(), ()]
        if len(suspects) < MOST_SUSPECTS:
            members = readable & (folds == folds[index])
            members[index] = False
            near = [
                nearest(features, features[index], members & (labels == label))
                for label in (suggested, labels[index])
            ]
        suspects.append(
            Suspect(
                index,
                suggested,
                score=float(scores[index]),
                own_probability=float(shown[index, labels[index]]),
                probability=float(shown[index, suggested]),
                near_suggested=near[0],
                near_own=near[1],
                duplicates=others,
            )
        )
    return suspects


def find_mislabelled_duplicates(
    labels: np.ndarray, groups: Sequence[Sequence[int]]
) -> dict[int, tuple[int, ...]]:
    """At most `MOST_DUPLICATES` near-duplicates under other labels, of photos that have such."""
    found: dict[int, tuple[int, ...]] = {}
    for group in groups:
        of_group = labels[list(group)].tolist()
        # A placeholder may stand for thousands of photos. A few do, and of many labels first.
        order = one_of_each_first(of_group)
        shown = {}
        for label in set(of_group):
            others = (place for place in order if of_group[place] != label)
            few = sorted(itertools.islice(others, MOST_DUPLICATES))
            shown[label] = tuple(int(group[place]) for place in few)
        if len(shown) > 1:
            found.update((int(i), shown[label]) for i, label in zip(group, of_group, strict=True))
    return found


def labels_to_check(count: int) -> str:
    """How many suspects there are, human-readable."""
    return "1 label to check" if count == 1 else f"{count} labels to check"


def one_of_each_first(labels: Sequence[int]) -> list[int]:
    """Places in a list of labels: the first of each label, then the second of each, ..."""
    num_seen: collections.Counter[int] = collections.Counter()
    ranked = []
    for place, label in enumerate(labels):
        ranked.append((num_seen[label], place))
        num_seen[label] += 1
    return [place for _, place in sorted(ranked)]


def nearest(features: np.ndarray, feature: np.ndarray, candidates: np.ndarray) -> tuple[int, ...]:
    """The nearest photos by squared distance of features, at most `NEIGHBOURS`.

    Args:
        features: float array, shape `(photos, features)`.
        feature: float array, shape `(features,)`: of the photo whose neighbours are sought.
        candidates: bool array, shape `(photos,)`.
    """
    chosen = np.flatnonzero(candidates)
    distances = np.empty(len(chosen))
    for start in range(0, len(chosen), PHOTOS_AT_ONCE):
        block = slice(start, start + PHOTOS_AT_ONCE)
        distances[block] = ((features[chosen[block]] - feature) ** 2).sum(axis=1)
    return tuple(chosen[np.argsort(distances, kind="stable")[:NEIGHBOURS]].tolist())


def write_suspects(suspects: Sequence[Suspect], photos: Photos, path: str | pathlib.Path) -> None:
    """Writes one line per suspect, in their order: image, typeid, suggested, score.

    Args:
        suspects: of `find_suspects`.
        photos: the same.
        path: of the CSV. The image is the file name without its folder.
    """
    rows = [
        [
            pathlib.Path(photos.paths[suspect.index]).name,
            photos.typeids[photos.labels[suspect.index]],
            photos.typeids[suspect.suggested],
            round(suspect.score, 4),
        ]
        for suspect in suspects
    ]
    write_csv(path, HEADER, rows)
