"""Random affine transforms of photos: ImageDataGenerator's own, done by Pillow.

The parameters are drawn by `ImageDataGenerator` itself; the pixels are moved by
`PIL.Image.transform`, on bytes and without the interpreter lock, instead of by
SciPy, channel by channel on floats. Tests hold it to within one grey level of
the stock result.
"""

import math
import threading

import numpy as np
from PIL import Image

# The 2017 settings. Its shear of 0.2 was in radians; ImageDataGenerator takes
# degrees today. The edges are filled with the nearest pixel, its default.
AUGMENTATION = {
    "rotation_range": 45,
    "shear_range": math.degrees(0.2),
    "zoom_range": 0.2,
    "horizontal_flip": True,
}
# ImageDataGenerator draws from NumPy's global generator: one thread at a time.
GLOBAL_RANDOM_STATE = threading.Lock()


def make_augmenter():
    """`ImageDataGenerator` with the seed's settings."""
    # Not tensorflow.keras: this is the same class, and works on any backend.
    from keras._tf_keras.keras.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(**AUGMENTATION)


def augment(image, seed, augmenter):
    """Applies the random transform of a seed to one image.

    Args:
        image: `PIL.Image.Image`, RGB.
        seed: int below 2**32; the same seed, the same transform.
        augmenter: `make_augmenter()`.

    Returns:
        `PIL.Image.Image` of the same size.
    """
    with GLOBAL_RANDOM_STATE:
        state = np.random.get_state()
        parameters = augmenter.get_random_transform((*image.size[::-1], 3), seed=int(seed))
        np.random.set_state(state)
    return transform(image, parameters)


def transform(image, parameters):
    """Applies the transform that `ImageDataGenerator.get_random_transform` drew.

    Args:
        image: `PIL.Image.Image`, RGB.
        parameters: its dict; `theta` and `shear` in degrees, `zx`, `zy`,
            `flip_horizontal`. Others are not part of `AUGMENTATION`.

    Returns:
        `PIL.Image.Image` of the same size; what lies outside is the nearest
        pixel.
    """
    width, height = image.size
    matrix = affine_matrix(parameters, height, width)
    corners = matrix @ [[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]]
    # Pillow leaves what lies outside black: first repeat the edge, only as far
    # as the four corners reach (and a pixel for the interpolation).
    left, top = (max(0, math.ceil(1 - low)) for low in corners.min(axis=1))
    right, bottom = (
        max(0, math.ceil(1 + high - size))
        for high, size in zip(corners.max(axis=1), image.size, strict=True)
    )
    padded = repeat_edge(image, left, right, top, bottom)
    matrix[:, 2] += (left, top)
    # fill=0: every pixel is written, so none has to be cleared first.
    return padded.transform(
        image.size, Image.Transform.AFFINE, matrix.ravel(), Image.Resampling.BILINEAR, fill=0
    )


def affine_matrix(parameters, height, width):
    """Where each output pixel comes from, in Pillow's coordinates.

    Returns:
        float64 array, shape `(2, 3)`: output `(x, y, 1)` to input `(x, y)`, both
        measured from the image's corner (pixel centres at .5).
    """
    theta, shear = np.deg2rad(parameters["theta"]), np.deg2rad(parameters["shear"])
    rotate = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    slant = np.array([[1, -np.sin(shear)], [0, np.cos(shear)]])
    linear = rotate @ slant @ np.diag([parameters["zx"], parameters["zy"]])
    # ImageDataGenerator turns about (height, width) / 2, also where x comes
    # first; our images are square, and this keeps to it on others.
    centre = np.array([height, width]) / 2
    offset = centre - linear @ centre
    if parameters["flip_horizontal"]:  # the output is mirrored
        offset += linear[:, 0] * width
        linear[:, 0] *= -1
    return np.column_stack([linear, offset])


def repeat_edge(image, left, right, top, bottom):
    """An image with its edge pixels repeated outwards, as `numpy.pad(mode="edge")`."""
    width, height = image.size
    padded = Image.new(image.mode, (left + width + right, top + height + bottom))
    padded.paste(image, (left, top))

    def stretch(edge, place):
        size = (place[2] - place[0], place[3] - place[1])
        if min(size) > 0:
            padded.paste(padded.crop(edge).resize(size, Image.Resampling.NEAREST), place)

    # Columns first; the rows above and below then take the corners along.
    stretch((left, top, left + 1, top + height), (0, top, left, top + height))
    end = left + width
    stretch((end - 1, top, end, top + height), (end, top, padded.width, top + height))
    stretch((0, top, padded.width, top + 1), (0, 0, padded.width, top))
    end = top + height
    stretch((0, end - 1, padded.width, end), (0, end, padded.width, padded.height))
    return padded
