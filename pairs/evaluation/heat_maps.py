"""Where in a photo a class was seen (Grad-CAM)."""

from collections.abc import Sequence

import numpy as np

from pairs.evaluation.predictor import Predictor
from pairs.out_of_memory import memory_for
from pairs.photos.read import read_photo


def find_heat_maps(
    predictor: Predictor,
    paths: Sequence[str],
    labels: np.ndarray,
    folds: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Where in each photo a class was seen, by the mean of all models.

    Args:
        predictor: whose models are asked.
        paths: readable photos.
        labels: int array, shape `(len(paths),)`: the class of each map.
        folds: int array, shape `(len(paths),)`: whose model is asked alone, see
            `Predictions.folds`.

    Returns:
        float arrays, shape `(rows, columns)`, in [0, 1]: they lie over the square that
        the model's fit makes of the photo.
    """
    from pairs.network import parts

    models = [parts.class_map_model(model) for model in predictor.models]
    maps = []
    for index, (path, label) in enumerate(zip(paths, labels, strict=True)):
        fold = 0 if folds is None else folds[index]
        asked = models[fold - 1 : fold] if fold else models
        image = read_photo(path, predictor.image_size, predictor.fit)[None]
        with memory_for(len(image)):
            of_models = [model.predict_on_batch(image) for model in asked]
        seen = np.maximum(np.mean(of_models, axis=0)[0, ..., label], 0)
        maps.append(seen / max(seen.max(), 1e-12))
    return maps
