"""Who gets which images of a batch: arithmetic only, no device is asked.

A batch is padded so that every device gets the same number of images, and may
be divided into groups whose images are paired among themselves.
"""

import numpy as np


def groups(count: int, num_groups: int) -> list[range]:
    """Divides the images of a batch into groups that are paired separately.

    Returns:
        ranges as even as they can be, each of at least two images (for few
        images fewer groups).
    """
    parts = np.array_split(np.arange(count), max(1, min(num_groups, count // 2)))
    return [range(part[0], part[-1] + 1) for part in parts]


def padded_length(count: int, batch_size: int, num_devices: int) -> int:
    """Length of a batch of `count` images after padding: all devices get as many."""
    return -(-max(count, batch_size) // num_devices) * num_devices


def spread(
    partner: np.ndarray, length: int, num_groups: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pads a batch, and every group of it, to even lengths.

    Args:
        partner: int array, shape `(batch,)`: which image each one is paired with.
        length: `padded_length(...)`.
        num_groups: a divisor of `length`.

    Returns:
        `(rows, places, is_image)`, arrays of shape `(length,)`: which image of the
        batch, where its partner is in its group, and False for padding.
    """
    count, group_length = len(partner), length // num_groups
    rows = np.full(length, -1)
    for number, members in enumerate(groups(count, num_groups)):
        start = number * group_length
        rows[start : start + len(members)] = members
    is_image = rows >= 0
    place_of = np.empty(count, int)
    place_of[rows[is_image]] = np.flatnonzero(is_image)
    places = np.arange(length)  # padding is its own partner
    places[is_image] = place_of[partner[rows[is_image]]]
    return np.maximum(rows, 0), (places % group_length).astype(np.int32), is_image
