"""Random affine transforms of photos: ImageDataGenerator's own, done by Pillow.

Draws the numbers that Keras' `ImageDataGenerator` would draw from the same seed
(`get_random_transform` in keras/src/legacy/preprocessing/image.py), and moves
the pixels with `PIL.Image.transform`: on bytes and without the interpreter
lock, not channel by channel on floats with SciPy. Tests hold both, numbers and
pixels, to the real ImageDataGenerator: within one grey level.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Transform:
    """One affine transform.

    Attributes:
        theta, shear: angles in degrees.
        zx, zy: zoom of the two axes as ImageDataGenerator names them, 1: none.
        mirror: left and right change places.
    """

    theta: float
    shear: float
    zx: float
    zy: float
    mirror: bool


def augment(image: Image.Image, seed: int, ranges: Mapping[str, float]) -> Image.Image:
    """Applies the random transform of a seed to an RGB image; its size stays.

    Args:
        image: RGB.
        seed: below 2**32; the same seed, the same transform.
        ranges: of `draw_transform`.
    """
    return apply_transform(image, draw_transform(seed, ranges))


def draw_transform(seed: int, ranges: Mapping[str, float]) -> Transform:
    """Draws what `ImageDataGenerator(**ranges)` draws from a seed, in its order.

    Args:
        seed: below 2**32.
        ranges: `rotation_range` and `shear_range` in degrees, `zoom_range` as a
            share, `horizontal_flip`; none of them 0, which would draw nothing.
    """
    rng = np.random.RandomState(seed)  # the generator that np.random.seed sets
    rotation, shear, zoom = (ranges[f"{name}_range"] for name in ("rotation", "shear", "zoom"))
    theta = rng.uniform(-rotation, rotation)
    slant = rng.uniform(-shear, shear)
    zx, zy = rng.uniform(1 - zoom, 1 + zoom, 2)
    mirror = rng.random_sample() < 0.5 and ranges["horizontal_flip"]
    return Transform(theta, slant, zx, zy, bool(mirror))


def apply_transform(image: Image.Image, transform: Transform) -> Image.Image:
    """Transforms an RGB image; its size stays, and what lies outside is the nearest pixel."""
    width, height = image.size
    matrix = affine_matrix(transform, height, width)
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
        image.size,
        Image.Transform.AFFINE,
        tuple(matrix.ravel()),
        Image.Resampling.BILINEAR,
        fill=0,
    )


def affine_matrix(transform: Transform, height: int, width: int) -> np.ndarray:
    """Where each output pixel comes from, in Pillow's coordinates.

    Returns:
        float64 array, shape `(2, 3)`: output `(x, y, 1)` to input `(x, y)`, both
        measured from the image's corner (pixel centres at .5).
    """
    theta, shear = np.deg2rad(transform.theta), np.deg2rad(transform.shear)
    rotate = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    slant = np.array([[1, -np.sin(shear)], [0, np.cos(shear)]])
    linear = rotate @ slant @ np.diag([transform.zx, transform.zy])
    # ImageDataGenerator turns about (height, width) / 2, also where x comes
    # first; our images are square, and this keeps to it on others.
    centre = np.array([height, width]) / 2
    offset = centre - linear @ centre
    if transform.mirror:  # the output is mirrored
        offset += linear[:, 0] * width
        linear[:, 0] *= -1
    return np.column_stack([linear, offset])


def repeat_edge(image: Image.Image, left: int, right: int, top: int, bottom: int) -> Image.Image:
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
