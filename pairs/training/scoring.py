"""What a stage's best epoch says of the validation photos, and how good that is."""

import dataclasses
from typing import Any

import keras
import numpy as np

from pairs.training.batches import KerasBatches


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a model says of photos whose class is known, each once as first and second image.

    Attributes:
        probabilities: float32 array, shape `(photos, classes)`: the mean of the
            softmax heads; of a finished model what `predict.py` will say.
        labels: int array, shape `(photos,)`.
        same_probabilities: float32 array, shape `(pairs,)`: of `bin_out`; empty
            for a model without it.
        same: bool array, shape `(pairs,)`: whether they are of one class.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    same_probabilities: np.ndarray
    same: np.ndarray

    def result(self) -> dict[str, Any]:
        """Numbers of it.

        Returns:
            `photos` and `error` (share wrong), and for a paired model `same` and
            `different`: the share of pairs of either kind that `bin_out` gets
            right (None: there are none).
        """
        wrong = self.probabilities.argmax(axis=1) != self.labels
        result: dict[str, Any] = {"photos": len(wrong), "error": int(wrong.sum()) / len(wrong)}
        if len(self.same):
            right = (self.same_probabilities > 0.5) == self.same
            for name, kind in (("same", self.same), ("different", ~self.same)):
                result[name] = float(np.mean(right[kind])) if kind.any() else None
        return result


def judge(model: keras.Model, batches: KerasBatches) -> Judgement:
    """Asks a model about validation photos.

    Args:
        model: from what the batches hold to the outputs, see `stage.Parts.feed`.
        batches: of validation pairs.

    Returns:
        `Judgement`, in the order of `batches.pairs.photos`.
    """
    with batches.original_errors():
        outputs = model.predict(batches.for_keras, verbose=0)
    probabilities = outputs["ctg_out_1"].copy()
    order, same, position = [], [], 0
    for step in range(len(batches)):
        indices, partner, labels = batches.pairs.pairs(step)
        rows = slice(position, position + len(partner))
        position += len(partner)
        order.append(indices)
        if "bin_out" in outputs:
            # Row i of ctg_out_2 is about image partner[i].
            probabilities[rows][partner] += outputs["ctg_out_2"][rows]
            same.append(labels["bin_out"])
    if "bin_out" in outputs:
        probabilities /= 2
    place = np.argsort(np.concatenate(order))
    return Judgement(
        probabilities[place],
        batches.pairs.photos.labels,
        outputs["bin_out"][:, 1] if same else np.zeros(0, np.float32),
        np.concatenate(same).astype(bool) if same else np.zeros(0, bool),
    )
