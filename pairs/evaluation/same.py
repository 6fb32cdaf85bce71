"""The same class or not: how probably two photos show one class. Numbers only.

Two things tell: the cosine of their features, and how well their class
probabilities agree, `sum(p(a) * p(b))` over the classes. A logistic model of both
is fitted on photos that the model has not seen. Photos of classes that nobody
trained on have no class probabilities worth the name: for them it is a logistic
model of the cosine alone.
"""

import dataclasses

import numpy as np

from pairs.evaluation import metrics

# Agreements closer to 0 or 1 than this are no different from it.
TINY = 1e-6
# Pairs whose features are gathered at once: 64 MB each side, of 2,048 numbers.
PAIRS_AT_ONCE = 8192
# Newton steps; a handful suffices for three numbers.
STEPS = 50
# Added to the loss: RIDGE * |weights|**2. Where pairs can be told apart without an
# error, the weights would grow without end.
RIDGE = 1e-4


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of photos whose classes are known, and what is known about them.

    Attributes:
        cosine, agreement: float arrays, shape `(pairs,)`.
        same: bool array, shape `(pairs,)`: whether they are of one class.
        labels: int array, shape `(pairs, 2)`: their classes.
        photos: int array, shape `(pairs, 2)`: which photos they are.
    """

    cosine: np.ndarray
    agreement: np.ndarray
    same: np.ndarray
    labels: np.ndarray
    photos: np.ndarray

    def take(self, chosen: np.ndarray) -> "Pairs":
        """Some of them; `chosen` is a bool array, shape `(pairs,)`."""
        return Pairs(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))


def dot_products(rows: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Of unit features their cosines; of class probabilities their agreement, in [0, 1].

    Args:
        rows: float array, shape `(photos, numbers)`.
        pairs: int array, shape `(pairs, 2)`: which rows.

    Returns:
        shape `(pairs,)`, of the dtype of `rows`.
    """
    products = np.empty(len(pairs), rows.dtype)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        first, second = pairs[block].T
        products[block] = np.einsum("ij,ij->i", rows[first], rows[second])
    return products


def compare(
    unit: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, folds: np.ndarray | None
) -> Pairs:
    """Draws pairs of photos, as many of one class as of two if there are, and compares them.

    Args:
        unit: float32 array, shape `(photos, numbers)`, of `Predictor.unit`.
        probabilities: float array, shape `(photos, classes)`.
        labels: int array, shape `(photos,)`.
        folds: int array, shape `(photos,)`: which model a photo's features are of;
            those of different models cannot be compared. None: all of one.
    """
    groups = [np.arange(len(labels))]
    if folds is not None:
        groups = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    pairs = np.concatenate([own[metrics.sample_pairs(labels[own])] for own in groups])
    first, second = labels[pairs].T
    return Pairs(
        dot_products(unit, pairs),
        dot_products(probabilities, pairs),
        first == second,
        labels[pairs],
        pairs,
    )


def logit(probabilities: np.ndarray) -> np.ndarray:
    """The logarithm of odds, of probabilities that may be 0 or 1."""
    inside = np.clip(np.asarray(probabilities, np.float64), TINY, 1 - TINY)
    return np.log(inside / (1 - inside))


def probability(
    weights: tuple[float, ...], cosine: np.ndarray, agreement: np.ndarray | None = None
) -> np.ndarray:
    """How probably pairs are of one class, if as many are of one as of two.

    Args:
        weights: of `fit`: three where class probabilities are used, else two.
        cosine, agreement: float arrays, shape `(pairs,)`.
    """
    inputs = [cosine] if agreement is None else [cosine, logit(agreement)]
    z = sum(weight * values for weight, values in zip(weights, inputs, strict=False)) + weights[-1]
    return 1 / (1 + np.exp(-np.clip(z, -50, 50)))


def fit(pairs: Pairs, with_agreement: bool) -> tuple[float, ...]:
    """Fits the logistic model of known pairs; both kinds count the same, however many there are.

    Args:
        pairs: of photos that the model has not seen, of both kinds.
        with_agreement: also of class probabilities, not of the cosine alone.

    Returns:
        weights of the cosine, of the logit of the agreement (if wanted), and the bias.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999, section 2.2:
    of n pairs of a kind none is taken for surer than (n + 1) / (n + 2). Else a few pairs
    that can be told apart would make every answer a certainty.
    """
    columns = [pairs.cosine, logit(pairs.agreement)] if with_agreement else [pairs.cosine]
    inputs = np.column_stack([*columns, np.ones(len(pairs.same))]).astype(np.float64)
    scales = np.maximum(inputs.std(axis=0), TINY)
    scales[-1] = 1
    inputs = inputs / scales
    share = pairs.same.mean()
    counts = np.where(pairs.same, 0.5 / share, 0.5 / (1 - share))  # their mean is 1
    num_same = int(pairs.same.sum())
    num_different = len(pairs.same) - num_same
    targets = np.where(pairs.same, (num_same + 1) / (num_same + 2), 1 / (num_different + 2))
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(inputs @ weights, -50, 50)))
        gradient = inputs.T @ (counts * (p - targets)) / len(p) + 2 * RIDGE * weights
        curvature = (inputs * (counts * p * (1 - p))[:, None]).T @ inputs / len(p)
        step = np.linalg.solve(curvature + 2 * RIDGE * np.eye(len(weights)), gradient)
        # Far from the minimum a whole step may lead past it, and on to nowhere.
        before = loss(weights, inputs, targets, counts)
        while moves(step, inputs) and loss(weights - step, inputs, targets, counts) > before:
            step = step / 2
        if not moves(step, inputs):
            break
        weights = weights - step
    return tuple(float(value) for value in weights / scales)


def loss(weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> float:
    """What `fit` makes as small as can be: the cross-entropy, weighted, and the ridge."""
    z = inputs @ weights
    return float(np.mean(counts * (np.logaddexp(0, z) - z * targets)) + RIDGE * weights @ weights)


def moves(step: np.ndarray, inputs: np.ndarray) -> bool:
    """Whether a step changes any answer."""
    return bool(np.abs(inputs @ step).max() >= TINY)


def answer_for_left_out_classes(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Answers about pairs of classes that the fit of the cosine has not seen.

    Each half of the classes is answered by the model fitted on the other half; pairs
    across the halves are left out.

    Returns:
        `(probabilities, same)`: float array and bool array, shape `(answered,)`.
    """
    halves = [(pairs.labels % 2 == half).all(axis=1) for half in (0, 1)]
    scores, same = [], []
    for own, other in (halves, halves[::-1]):
        fitted_on, answered = pairs.take(other), pairs.take(own)
        if fitted_on.same.any() and not fitted_on.same.all() and len(answered.same):
            scores.append(probability(fit(fitted_on, with_agreement=False), answered.cosine))
            same.append(answered.same)
    return (
        np.concatenate(scores or [np.zeros(0)]),
        np.concatenate(same or [np.zeros(0, bool)]),
    )
