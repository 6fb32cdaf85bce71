"""What the model of a fold says of the photos that it has not seen, kept beside it.

Training has computed it anyway, from stored activations; an evaluation need not
read these photos again.
"""

import dataclasses
import pathlib

import numpy as np

from pairs.errors import UserError
from pairs.files import write_arrays
from pairs.network.weights_folder import HELD_OUT

ARRAYS = ("digests", "probabilities", "features")


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The photos that a fold holds out, as its model sees them.

    Attributes:
        model: `parts.digest` of the model's weights.
        digests: str array, shape `(photos,)`: of the photos' bytes.
        probabilities: float32 array, shape `(photos, classes)`.
        features: float32 array, shape `(photos, features)`.
    """

    model: str
    digests: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray


def write_held_out(folder: pathlib.Path, held_out: HeldOut) -> None:
    """Writes `held_out.npz` into the folder of a fold, whole or not at all."""
    write_arrays(folder / HELD_OUT, vars(held_out))


def read_held_out(folder: pathlib.Path) -> HeldOut:
    """Reads what `write_held_out` wrote.

    Raises:
        UserError: it is gone or damaged.
    """
    path = folder / HELD_OUT
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = HeldOut(str(arrays["model"]), *(arrays[name] for name in ARRAYS))
        shapes = [part.shape for part in (found.digests, found.probabilities, found.features)]
        if [len(shape) for shape in shapes] != [1, 2, 2] or len({shape[0] for shape in shapes}) > 1:
            raise ValueError("its parts do not belong together")
    except Exception as error:  # whatever a damaged archive leads to
        raise UserError(
            f"{path}: gone or damaged ({error}); to train this fold anew, delete the folder "
            f"{folder} and run the same train.py command again"
        ) from error
    return found
