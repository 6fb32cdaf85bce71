"""How good are predictions, and can their probabilities be trusted? Numbers only.

Everything here is computed from arrays: class probabilities and labels of photos, and
scores of pairs of them.
"""

import dataclasses
import math

import numpy as np

# Bins of equal width for the calibration error, the usual number.
NUM_BINS = 15
TOP = 5
# No probability counts as less: its logarithm is finite.
LEAST = 1e-12
# Probabilities (photos x classes) that a temperature is fitted on: of more, one in so many photos.
MOST_FITTED = 10_000_000
# What is thought of a temperature before any photo is seen: its logarithm is normal around
# 0 with this standard deviation. Without, a few photos without an error made it 0.05, and
# all probabilities 1; from 300 photos on it changes nothing that matters.
TEMPERATURE_SPREAD = 0.5


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of counted things, with its standard error.

    Attributes:
        value: in [0, 1].
        standard_error: the standard deviation over the square root of the count; of
            a binomial share, `sqrt(p (1 - p) / n)`.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.standard_error:.4f}"


def share(values: np.ndarray) -> Share:
    """The mean of a bool array, or of shares, `(count,)`."""
    return Share(float(np.mean(values)), float(np.std(values)) / math.sqrt(len(values)))


def highest_share(num_photos: int) -> float:
    """The share of errors, in [0, 1], from which on 19 of 20 samples of so many hold one.

    What can be said where no photo was wrong: the standard error is 0 then.
    """
    return float(1 - 0.05 ** (1 / num_photos))


def rank_classes(probabilities: np.ndarray) -> np.ndarray:
    """Labels from the most to the least probable, `(photos, classes)`.

    Equal probabilities are ranked by label, the same on every machine.
    """
    return np.argsort(-probabilities, axis=1, kind="stable")


def errors(probabilities: np.ndarray, labels: np.ndarray) -> tuple[Share, Share]:
    """Shares of photos whose class is not the first guess, not among the first five.

    Args:
        probabilities: float array, shape `(photos, classes)`.
        labels: int array, shape `(photos,)`.

    Returns:
        `(error, top5_error)`.
    """
    labels = np.asarray(labels)
    own = probabilities[np.arange(len(labels)), labels][:, None]
    # Of equal probabilities the smaller label is guessed first, as by `rank_classes`.
    ahead = (probabilities > own).sum(axis=1)
    ahead += ((probabilities == own) & (np.arange(probabilities.shape[1]) < labels[:, None])).sum(1)
    return share(ahead > 0), share(ahead >= TOP)


def count_confusions(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int array, shape `(classes, classes)`: photos of class row guessed as column."""
    num_classes = probabilities.shape[1]
    guesses = probabilities.argmax(axis=1)
    confusions = np.zeros((num_classes, num_classes), int)
    np.add.at(confusions, (labels, guesses), 1)
    return confusions


def judge_classes(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of every class.

    Args:
        confusions: `count_confusions(...)`.

    Returns:
        float arrays `precision`, `recall`, `f1`, shape `(classes,)`, and the int
        array `photos`. A class that was never guessed has precision 0;
        one without photos has NaN throughout.
    """
    right = np.diag(confusions)
    photos, guessed = confusions.sum(axis=1), confusions.sum(axis=0)
    with np.errstate(invalid="ignore"):
        recall = right / photos
    precision = np.where(photos > 0, right / np.maximum(guessed, 1), np.nan)
    f1 = 2 * right / np.maximum(photos + guessed, 1)
    return {
        "photos": photos,
        "precision": precision,
        "recall": recall,
        "f1": np.where(photos > 0, f1, np.nan),
    }


def worst_classes(judged: dict[str, np.ndarray], count: int = 10) -> list[int]:
    """Labels of the classes with the lowest F1, the worst first."""
    order = np.argsort(judged["f1"], kind="stable")
    return [int(label) for label in order if judged["photos"][label]][:count]


def most_confused(confusions: np.ndarray, count: int = 10) -> list[tuple[int, int, int, int]]:
    """Pairs of classes taken for one another, the most frequent first.

    Returns:
        tuples of `(a, b, a_as_b, b_as_a)`: two labels, and how many photos of either were
        guessed as the other; together at least one. `a` is the class more often mistaken
        of the two, the smaller label of equals.
    """
    both = np.triu(confusions + confusions.T, 1)
    order = np.argsort(-both, axis=None, kind="stable")[:count]
    confused = []
    for a, b in zip(*np.unravel_index(order, both.shape), strict=True):
        if not both[a, b]:
            break  # and nothing behind it
        if confusions[b, a] > confusions[a, b]:
            a, b = b, a
        confused.append((int(a), int(b), int(confusions[a, b]), int(confusions[b, a])))
    return confused


def bin_by_confidence(
    probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups photos by the probability of their first guess.

    Returns:
        `(count, confidence, accuracy)`: arrays of shape `(num_bins,)`; the means
        of an empty bin are NaN.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # 1.0 belongs to the last bin.
    place = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    count = np.bincount(place, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence, accuracy = (
            np.bincount(place, weights=values, minlength=num_bins) / count
            for values in (confidence, right)
        )
    return count, mean_confidence, accuracy


def calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS
) -> float:
    """Expected calibration error: how far confidence is from accuracy, in [0, 1].

    Source: Guo et al., On Calibration of Modern Neural Networks,
    arXiv:1706.04599.
    """
    count, confidence, accuracy = bin_by_confidence(probabilities, labels, num_bins)
    filled = count > 0
    gaps = np.abs(confidence[filled] - accuracy[filled])
    return float((gaps * count[filled]).sum() / count.sum())


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softens (above 1) or sharpens (below 1) probabilities; the first guess stays.

    Returns:
        float64 array like `probabilities`: softmax of `log(p) / temperature`.
    """
    scaled = np.maximum(probabilities, LEAST, dtype=np.float64)  # of many classes it is large
    np.log(scaled, out=scaled)
    scaled /= temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The most probable temperature after seeing the labels, between 0.05 and 20.

    Source: arXiv:1706.04599, section 4.2. One number, fitted on the validation
    photos (at most `MOST_FITTED` probabilities), with a weak prior (`TEMPERATURE_SPREAD`).
    A golden section search closes in on the minimum.
    """
    # Photos are sorted by class: every nth of them are of all classes.
    one_in = max(1, math.ceil(probabilities.size / MOST_FITTED))
    probabilities, labels = probabilities[::one_in], labels[::one_in]
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), LEAST))
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(labels)), labels]
    powers = np.empty_like(logits)

    def loss(log_temperature):
        temperature = math.exp(log_temperature)
        np.exp(np.divide(logits, temperature, out=powers), out=powers)
        log_probabilities = own / temperature - np.log(powers.sum(axis=1))
        prior = (log_temperature / TEMPERATURE_SPREAD) ** 2 / 2
        return prior - np.maximum(log_probabilities, math.log(LEAST)).sum()

    ratio = (math.sqrt(5) - 1) / 2
    low, high = -math.log(20), math.log(20)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-6:
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - ratio * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + ratio * (high - low)
            loss_right = loss(right)
    return math.exp((low + high) / 2)


def sample_pairs(labels: np.ndarray, most: int = 10_000, seed: int = 0) -> np.ndarray:
    """Pairs of photos to compare: as many of one class as of two, if there are.

    Args:
        labels: int array, shape `(photos,)`.
        most: pairs of each kind.
        seed: of the choice, if there are more.

    Returns:
        int array, shape `(pairs, 2)`: indices of photos, the smaller first.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    places = np.arange(len(order))
    # Sorted by class, the partners of a place are those after it: of its own class
    # up to the end of that, of other classes from there on.
    ends = np.searchsorted(labels[order], labels[order], side="right")
    same = draw_partners(places + 1, ends, most, rng)
    different = draw_partners(ends, np.full(len(order), len(order)), len(same), rng)
    return np.sort(order[np.concatenate([same, different])], axis=1)


def draw_partners(
    starts: np.ndarray, stops: np.ndarray, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws different pairs of places, each of a place and a partner in its range.

    Neither time nor memory grows with the number of pairs that there are: they
    are numbered, and only numbers are drawn.

    Args:
        starts, stops: int arrays, shape `(places,)`: place `i` may be paired with
            `starts[i]` to `stops[i] - 1`.
        most: pairs to draw; all of them if there are fewer.
        rng: draws the numbers.

    Returns:
        int array, shape `(pairs, 2)`, sorted.
    """
    ends = np.cumsum(stops - starts)
    count = int(ends[-1]) if len(ends) else 0
    numbers = np.sort(rng.choice(count, min(most, count), replace=False))
    place = np.searchsorted(ends, numbers, side="right")
    return np.column_stack([place, stops[place] - (ends[place] - numbers)])


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative (ties count half).

    Source: the Mann-Whitney U statistic; NaN where one kind is missing.
    """
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return math.nan
    negatives = np.sort(scores[~positive])
    below = np.searchsorted(negatives, scores[positive], side="left")
    not_above = np.searchsorted(negatives, scores[positive], side="right")
    return float((below + not_above).sum() / (2 * num_positive * num_negative))


def equal_error(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """The threshold at which both kinds of pairs are wrong equally often.

    Returns:
        `(threshold, error)`: "same" is said from the threshold on; the error is
        the mean of both shares of wrong ones there.
    """
    candidates = np.unique(scores)
    positives, negatives = np.sort(scores[positive]), np.sort(scores[~positive])
    missed = np.searchsorted(positives, candidates) / len(positives)
    false = 1 - np.searchsorted(negatives, candidates) / len(negatives)
    best = int(np.argmin(np.abs(missed - false)))
    # Amid the scores that it parts: other pairs will be between them.
    threshold = candidates[max(best - 1, 0) : best + 1].mean(dtype=np.float64)
    return float(threshold), float((missed[best] + false[best]) / 2)
