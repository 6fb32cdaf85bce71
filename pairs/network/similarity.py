"""How similar two photos are: a space in which a trained feature counts for what it tells.

The trunk's feature was trained to tell the classes of the training apart, and what
differs between photos of one class (pose, light, background) is in it, too. So the
mean feature is taken off, and directions in which photos of one class vary are shrunk.
The similarity of two photos is the cosine of what is left. It is fitted at the end of a
training, on its photos, and kept beside the model. A photo's cosine to the centre of each
class says, too, which class it shows.

Sources: within-class covariance normalization, Hatch, Kajarekar and Stolcke,
Interspeech 2006; nearest class mean, Mensink et al., TPAMI 35 (2013).
"""

import dataclasses
import pathlib
import sys

import numpy as np

from pairs.files import file_digest, write_arrays
from pairs.network.weights_folder import SIMILARITY

# Directions that are shrunk: those in which photos of one class vary most.
NUM_AXES = 256
# The mean variance within classes, times this, is added to that of every direction.
# Chosen by experiment: docs/experiments.md.
SHRINKAGE = 3.0
# Class probabilities are softmax(this * cosine to the class centre). Chosen by experiment:
# docs/experiments.md. Another number needs a calibration anew.
SHARPNESS = 30.0
# Lengths below this are no different from it.
TINY = 1e-6
# Features at once: 64 MB.
ROWS = 8192
# Fewer rows than the product has columns take longer to add than to multiply.
ROWS_A_PRODUCT = 512


@dataclasses.dataclass(frozen=True)
class Similarity:
    """What makes features comparable.

    Attributes:
        model: SHA-256 of the model file whose features they are.
        mean: float32 array, shape `(features,)`: of the features.
        axes: float32 array, shape `(features, axes)`: directions to shrink, of length 1.
        gains: float32 array, shape `(axes,)`: what is left of each, in (0, 1].
        centres: float32 array, shape `(classes, features)`: of the training photos of
            each class, of length 1; 0 for a class without any.
        votes: whether class probabilities are, unless somebody asks otherwise, those
            `with_centres`.
    """

    model: str
    mean: np.ndarray
    axes: np.ndarray
    gains: np.ndarray
    centres: np.ndarray
    votes: bool = False

    def unit(self, features: np.ndarray) -> np.ndarray:
        """Features as similarity sees them: the dot product of two is their cosine.

        Args:
            features: float array, shape `(photos, features)`.

        Returns:
            float32 array of the same shape, rows of length 1; NaN where features are.
        """
        found = np.empty(features.shape, np.float32)
        for start in range(0, len(features), ROWS):
            rows = slice(start, start + ROWS)
            found[rows] = self.shrink(features[rows] - self.mean)
        return found

    def shrink(self, centred: np.ndarray) -> np.ndarray:
        """Shrinks the axes of centred features, and makes rows of length 1."""
        return unit_rows(centred - (centred @ (self.axes * (1 - self.gains))) @ self.axes.T)

    def class_cosines(self, features: np.ndarray) -> np.ndarray:
        """The cosine to the centre of every class: float32 array, shape `(photos, classes)`."""
        return self.unit(features) @ self.centres.T


def sharpened(cosines: np.ndarray) -> np.ndarray:
    """Cosines to class centres as class probabilities, float32, along the last axis."""
    powers = np.exp(SHARPNESS * (cosines - cosines.max(axis=-1, keepdims=True)))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def with_centres(probabilities: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """The mean of class probabilities and of what the class centres say.

    Args:
        probabilities: float array, shape `(photos, classes)`: of the softmax heads, the
            mean of all models.
        cosines: float array, shape `(models, photos, classes)`: of `class_cosines`.
    """
    return (probabilities + sharpened(cosines).mean(axis=0)) / 2


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays one."""
    # Not `norm`: that makes another array of all features.
    lengths = np.sqrt(np.einsum("ij,ij->i", features, features))
    return (features / np.maximum(lengths, TINY)[:, None]).astype(np.float32)


class SimilarityFit:
    """Sees the features of all training photos, batch by batch.

    Args:
        num_features: of a photo, 2048 for Xception.
        num_classes: of the training.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        self.counts = np.zeros(num_classes, int)
        self.sums = np.zeros((num_classes, num_features))
        self.products = np.zeros((num_features, num_features))
        self.waiting: list[np.ndarray] = []

    def add(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Takes features of photos, shape `(batch, features)`, and their classes in."""
        features = np.asarray(features, np.float64)
        np.add.at(self.counts, labels, 1)
        np.add.at(self.sums, labels, features)
        self.waiting.append(features)
        if sum(map(len, self.waiting)) >= ROWS_A_PRODUCT:
            self.multiply()

    def multiply(self) -> None:
        """Adds the products of what waits for it."""
        features = np.concatenate(self.waiting or [self.sums[:0]])
        self.products += features.T @ features
        self.waiting = []

    def result(self, model: str, votes: bool = False) -> Similarity:
        """The space fitted to what was seen; at least one photo.

        Args:
            model: SHA-256 of the model file that the features are of.
            votes: see `Similarity`.
        """
        self.multiply()
        present = np.maximum(self.counts, 1)[:, None]
        within = self.products - (self.sums / present).T @ self.sums
        within /= max(self.counts.sum() - (self.counts > 0).sum(), 1)
        variances, axes = np.linalg.eigh(within)
        variances, axes = np.maximum(variances[-NUM_AXES:], 0), axes[:, -NUM_AXES:]
        added = SHRINKAGE * max(np.trace(within) / len(within), TINY**2)
        mean = (self.sums.sum(axis=0) / self.counts.sum()).astype(np.float32)
        fitted = Similarity(
            model,
            mean,
            axes.astype(np.float32),
            np.sqrt(added / (variances + added)).astype(np.float32),
            centres=np.zeros((0, len(mean)), np.float32),
            votes=votes,
        )
        centred = (self.sums / present - mean) * (self.counts > 0)[:, None]
        return dataclasses.replace(fitted, centres=fitted.shrink(centred))


def write_similarity(folder: pathlib.Path, similarity: Similarity) -> None:
    """Writes `similarity.npz` beside a model, whole or not at all."""
    write_arrays(folder / SIMILARITY, vars(similarity))


def read_similarity(model_file: pathlib.Path) -> Similarity | None:
    """Reads what lies beside a model file.

    Returns:
        None if there is none, or it belongs to another model; a line says so.
    """
    path = model_file.with_name(SIMILARITY)
    names = ("mean", "axes", "gains", "centres")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            parts = {name: arrays[name] for name in names}
            found = Similarity(str(arrays["model"]), votes=bool(arrays["votes"]), **parts)
        num_features, num_axes = found.axes.shape
        shapes = [found.mean.shape, found.gains.shape, found.centres.shape[1:]]
        if shapes != [(num_features,), (num_axes,), (num_features,)]:
            raise ValueError("its parts do not belong together")
        if found.model == file_digest(model_file):
            return found
        problem = "of another model"
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a damaged archive leads to
        problem = f"damaged ({error})"
    print(
        f"note: {path}: {problem}, not used; photos are compared by the plain cosine",
        file=sys.stderr,
    )
    return None
