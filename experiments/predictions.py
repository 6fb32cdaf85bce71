"""Photos through a model, a batch at a time: what every experiment is judged by."""

import itertools

import numpy as np

from pairs.photos.fit import SQUASH
from pairs.photos.read import read_ahead, read_photo

BATCH_SIZE = 32


def predict_photos(predict, photos, image_size, fit=SQUASH):
    """What `predict` says of all photos.

    Args:
        predict: a function from photos, uint8 array of shape `(batch, image_size,
            image_size, 3)`, to a dict of arrays with a row for each.
        photos: `Photos`.
        image_size: side in pixels.
        fit: how a photo becomes a square.

    Returns:
        dict of arrays, a row for each photo.
    """
    images = read_ahead(lambda path: read_photo(path, image_size, fit), photos.paths, 2)
    found = []
    while batch := list(itertools.islice(images, BATCH_SIZE)):
        found.append(predict(np.stack(batch)))
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}
