"""How good a stage's best epoch is on the validation photos."""

from typing import Any

import keras
import numpy as np

from pairs.training.batches import KerasBatches


def score(model: keras.Model, batches: KerasBatches) -> dict[str, Any]:
    """Scores a model on validation photos, each once as first and second image.

    Args:
        model: from what the batches hold to the outputs, see `stage.Parts.feed`.
        batches: of validation pairs.

    Returns:
        `photos` and `error` (share wrong by the mean of the softmax heads), and
        for a paired model `same` and `different`: the share of pairs of either
        kind that `bin_out` gets right (None: there are none).
    """
    with batches.original_errors():
        outputs = model.predict(batches.for_keras, verbose=0)
    num_wrong, position = 0, 0
    right: dict[int, list[bool]] = {0: [], 1: []}
    for step in range(len(batches)):
        _, partner, labels = batches.pairs.pairs(step)
        rows = slice(position, position + len(partner))
        position += len(partner)
        probabilities = outputs["ctg_out_1"][rows].copy()
        if "bin_out" in outputs:
            # Row i of ctg_out_2 is about image partner[i].
            probabilities[partner] += outputs["ctg_out_2"][rows]
            guess = outputs["bin_out"][rows].argmax(axis=1)
            for same in (0, 1):
                is_kind = labels["bin_out"] == same
                right[same] += (guess[is_kind] == same).tolist()
        num_wrong += int((probabilities.argmax(axis=1) != labels["ctg_out_1"]).sum())
    result: dict[str, Any] = {"photos": position, "error": num_wrong / position}
    if "bin_out" in outputs:
        result["same"] = float(np.mean(right[1])) if right[1] else None
        result["different"] = float(np.mean(right[0])) if right[0] else None
    return result
