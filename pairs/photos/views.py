"""Several views of a photo, whose predictions are averaged."""

import numpy as np

from pairs.photos.fit import SQUASH
from pairs.photos.read import read_photo

# Side of a crop, as a share of the photo's.
CROP_SHARE = 7 / 8
MAX_VIEWS = 12


def read_views(path: str, image_size: int, num_views: int, fit: str = SQUASH) -> np.ndarray:
    """Reads views of a photo: as `fit` makes it a square, mirrored, then crops and their mirrors.

    The crops are of the square: what the training never saw, beside a cropped
    photo, is in no view.

    Returns:
        uint8 array, shape `(num_views, image_size, image_size, 3)`.

    Raises:
        UserError: the photo cannot be read.
    """
    views = [read_photo(path, image_size, fit)]
    if num_views > 2:
        large = read_photo(path, round(image_size / CROP_SHARE), fit)
        rest = len(large) - image_size
        # The middle, then the corners.
        for top, left in ((rest // 2, rest // 2), (0, 0), (0, rest), (rest, 0), (rest, rest)):
            views.append(large[top : top + image_size, left : left + image_size])
    both = [mirrored for view in views for mirrored in (view, view[:, ::-1])]
    return np.stack(both[:num_views])
