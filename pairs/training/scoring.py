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
    photos = batches.pairs.photos
    probabilities = np.zeros((len(photos), len(photos.typeids)), np.float32)
    same_probabilities, same = [np.zeros(0, np.float32)], [np.zeros(0, bool)]
    is_paired = "bin_out" in model.output
    # Not by `predict`, which keeps all that all heads say: of very many classes that is large.
    for step in range(len(batches)):
        indices, partner, labels = batches.pairs.pairs(step)
        outputs = model.predict_on_batch(batches[step][0])
        probabilities[indices] += outputs["ctg_out_1"]
        if is_paired:
            # Row i of ctg_out_2 is about image partner[i].
            probabilities[indices[partner]] += outputs["ctg_out_2"]
            same_probabilities.append(outputs["bin_out"][:, 1])
            same.append(labels["bin_out"].astype(bool))
    if is_paired:
        probabilities /= 2
    return Judgement(
        probabilities, photos.labels, np.concatenate(same_probabilities), np.concatenate(same)
    )
