"""Candidates for `pairs.evaluation.suspects.label_scores`: which labels to check first?

Each takes probabilities, float array of shape `(photos, classes)`, and labels,
int array of shape `(photos,)`, and returns a float array of shape `(photos,)`:
the larger, the more suspicious. `label_noise.py` judges them.
"""

import numpy as np

from pairs.evaluation.suspects import label_scores


def own_and_other(probabilities, labels):
    """Each photo's value for its own class, and the largest for another: `(photos,)` each."""
    rows = np.arange(len(labels))
    others = np.array(probabilities, np.float64)
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    return own, others.max(axis=1)


def self_confidence(probabilities, labels):
    """How improbable the own class is: `1 - p`, in [0, 1]."""
    return 1 - own_and_other(probabilities, labels)[0]


def normalised_margin(probabilities, labels):
    """How far another class is ahead of the own one, in [-1, 1]."""
    own, other = own_and_other(probabilities, labels)
    return other - own


def class_thresholds(probabilities, labels):
    """Mean probability of a class among the photos labelled so, `(classes,)`; 1 without photos."""
    return np.array(
        [
            probabilities[labels == label, label].mean() if (labels == label).any() else 1.0
            for label in range(probabilities.shape[1])
        ]
    )


def adjusted_confidence(probabilities, labels):
    """As `self_confidence`, measured against what is usual for the class."""
    return self_confidence(probabilities - class_thresholds(probabilities, labels), labels)


def adjusted_margin(probabilities, labels):
    """As `normalised_margin`, both classes measured against what is usual for them."""
    return normalised_margin(probabilities - class_thresholds(probabilities, labels), labels)


def count_confident(probabilities, labels):
    """The confident joint, with the class that each photo is counted under.

    A photo counts as of the most probable class among those that are at least as
    probable as is usual for them, see `class_thresholds`.

    Returns:
        `(joint, counted)`: float array, shape `(classes, classes)`, given label by
        row, and its rows sum to the photos labelled so; int array, shape
        `(photos,)`, -1 where no class is probable enough.

    Source: Northcutt et al., Confident Learning, arXiv:1911.00068, section 3.1.
    """
    num_classes = probabilities.shape[1]
    above = probabilities >= class_thresholds(probabilities, labels)
    best = np.where(above, probabilities, -1).argmax(axis=1)
    counted = np.where(above.any(axis=1), best, -1)
    joint = np.zeros((num_classes, num_classes))
    np.add.at(joint, (labels[counted >= 0], counted[counted >= 0]), 1)
    photos = np.bincount(labels, minlength=num_classes)
    sums = joint.sum(axis=1)
    joint[np.diag_indices(num_classes)] += sums == 0  # nothing known: nothing is wrong
    return joint * (photos / np.maximum(sums, 1))[:, None], counted


def off_diagonal(probabilities, labels):
    """Confident learning, C_confusion: photos counted under another class first, by margin."""
    _, counted = count_confident(probabilities, labels)
    chosen = (counted >= 0) & (counted != labels)
    # A margin is at most 1 and at least -1.
    return normalised_margin(probabilities, labels) + 3 * chosen


def prune_by_noise_rate(probabilities, labels):
    """Confident learning, PBNR: as many of each pair of classes as the joint says, first."""
    joint, _ = count_confident(probabilities, labels)
    chosen = np.zeros(len(labels), bool)
    for given, true in zip(*np.nonzero(joint), strict=True):
        members = np.flatnonzero(labels == given)
        if given != true:
            margins = probabilities[members, true] - probabilities[members, given]
            count = round(joint[given, true])
            chosen[members[np.argsort(-margins, kind="stable")[:count]]] = True
    return normalised_margin(probabilities, labels) + 3 * chosen


RANKINGS = {
    "self-confidence": self_confidence,
    "normalised margin": normalised_margin,
    "log ratio": label_scores,
    "adjusted confidence": adjusted_confidence,
    "adjusted margin": adjusted_margin,
    "off-diagonal": off_diagonal,
    "prune by noise rate": prune_by_noise_rate,
}
