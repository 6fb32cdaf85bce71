"""Applies a trained model to photos: class probabilities, features, pairs.

The model file brings its classes, image size and scaling. What `predict.py
--evaluate` fitted on the validation photos lies beside it in
`calibration.json`: a temperature for the probabilities, and the threshold from
which two photos are called the same.
"""

import dataclasses
import functools
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from pairs.errors import UserError
from pairs.files import file_digest, write_json
from pairs.photos.read import read_ahead, read_photo

CALIBRATION = "calibration.json"
# Side of a crop, as a share of the photo's.
CROP = 7 / 8
MAX_VIEWS = 12
# Pairs a pass of the pair head: 64 MB of float32 features each side.
PAIRS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says about photos. Rows of unreadable photos are NaN.

    Attributes:
        paths: of the photos.
        probabilities: float32 array, shape `(photos, classes)`; rows sum to 1.
        features: float32 array, shape `(photos, 2048)`: the trunk's pooled feature.
    """

    paths: list[str]
    probabilities: np.ndarray
    features: np.ndarray

    def readable(self) -> np.ndarray:
        """bool array, shape `(photos,)`."""
        return ~np.isnan(self.probabilities).any(axis=1)

    def take(self, indices: np.ndarray) -> "Predictions":
        """Those of some photos."""
        paths = [self.paths[index] for index in indices]
        return Predictions(paths, self.probabilities[indices], self.features[indices])


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was fitted on validation photos.

    Attributes:
        temperature: probabilities are `softmax(log(p) / temperature)`.
        same_threshold: probability of "same" from which both kinds of pairs are
            wrong equally often; None for a model without pair head.
        photos: how many photos it was fitted on; 0: not fitted.
    """

    temperature: float = 1.0
    same_threshold: float | None = 0.5
    photos: int = 0

    def checked(self) -> "Calibration":
        """Itself; raises a ValueError or TypeError if a file held something else."""
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}")
        if self.same_threshold is not None and not 0 <= self.same_threshold <= 1:
            raise ValueError(f"same_threshold {self.same_threshold}")
        if not isinstance(self.photos, int) or self.photos < 0:
            raise ValueError(f"photos {self.photos!r}")
        return self


def read_views(path: str, image_size: int, num_views: int) -> np.ndarray:
    """Reads views of a photo: whole, mirrored, then crops and their mirrors.

    Returns:
        uint8 array, shape `(num_views, image_size, image_size, 3)`.

    Raises:
        UserError: the photo cannot be read.
    """
    views = [read_photo(path, image_size)]
    if num_views > 2:
        large = read_photo(path, round(image_size / CROP))
        rest = len(large) - image_size
        # The middle, then the corners.
        for top, left in ((rest // 2, rest // 2), (0, 0), (0, rest), (rest, 0), (rest, rest)):
            views.append(large[top : top + image_size, left : left + image_size])
    both = [mirrored for view in views for mirrored in (view, view[:, ::-1])]
    return np.stack(both[:num_views])


class Predictor:
    """A trained model that turns photo files into predictions.

    Args:
        weights: folder that `train.py` wrote, with `model.keras` in it.
        batch_size: photos per forward pass.
        workers: threads that read photos.
        num_views: views of each photo whose predictions are averaged, 1 to
            `MAX_VIEWS`: as it is, mirrored, then five crops and their mirrors.
        head: whose probabilities, see `parts.photo_model`.

    Attributes:
        typeids: what the columns of probabilities stand for.
        most_frequent: the label with the most training photos.
        is_paired: whether the model can say "same" or "different".
        is_plain: whether photos are seen as they are, by the mean of the heads.
        calibration: of this very model file, if there is one and `is_plain`.

    Raises:
        UserError: there is no model of ours in `weights`.
    """

    def __init__(
        self,
        weights: str | pathlib.Path,
        batch_size: int = 32,
        workers: int = 2,
        num_views: int = 1,
        head: str = "mean",
    ) -> None:
        from pairs.network import files, parts  # Keras takes seconds to load

        self.weights = pathlib.Path(weights)
        self.model = model = files.load_model(self.weights / "model.keras")
        classifier = model.get_layer("ctg_out_1")
        self.typeids = classifier.typeids
        self.most_frequent = int(np.argmax(classifier.num_photos))
        self.is_paired = parts.is_paired(model)
        self.photo_model = parts.photo_model(model, head)
        self.pair_head: Any = parts.pair_head(model) if self.is_paired else None
        self.image_size = self.photo_model.input_shape[1]
        self.batch_size = batch_size
        self.workers = workers
        self.num_views = num_views
        self.is_plain = num_views == 1 and head == "mean"
        # Fitted on photos as they are, and on the mean of the heads: of nothing else.
        self.calibration = self.read_calibration() if self.is_plain else Calibration()

    def predict(self, paths: Sequence[str]) -> Predictions:
        """Predicts photos; reports those that it cannot read."""
        blank = np.zeros((self.num_views, self.image_size, self.image_size, 3), np.uint8)
        photos = read_ahead(self.read_or_none, paths, self.workers)
        shown = tqdm(photos, total=len(paths), unit=" photos", disable=None)
        probabilities: list[np.ndarray] = []
        features: list[np.ndarray] = []
        batch: list[np.ndarray | None] = []
        for number, photo in enumerate(shown, start=1):
            batch.append(photo)
            if len(batch) == self.batch_size or number == len(paths):
                views = np.stack([blank if photo is None else photo for photo in batch], axis=1)
                found = [self.photo_model.predict_on_batch(images) for images in views]
                unreadable = [photo is None for photo in batch]
                for rows, name in ((probabilities, "probabilities"), (features, "feature")):
                    values = np.mean([of_view[name] for of_view in found], axis=0)
                    values[unreadable] = np.nan
                    rows.append(values)
                batch = []
        return Predictions(list(paths), np.concatenate(probabilities), np.concatenate(features))

    def read_or_none(self, path: str) -> np.ndarray | None:
        """The views of a photo; None, and a line printed, if it cannot be read."""
        try:
            return read_views(path, self.image_size, self.num_views)
        except UserError as error:
            print(error, file=sys.stderr)
            return None

    @functools.cached_property
    def class_maps(self) -> Any:
        """`parts.class_map_model`; only a report needs it."""
        from pairs.network import parts

        return parts.class_map_model(self.model)

    def heat_maps(self, paths: Sequence[str], labels: np.ndarray) -> list[np.ndarray]:
        """Where in each photo a class was seen.

        Args:
            paths: readable photos.
            labels: int array, shape `(len(paths),)`: the class of each map.

        Returns:
            float arrays, shape `(rows, columns)`, in [0, 1].
        """
        maps = []
        for path, label in zip(paths, labels, strict=True):
            image = read_photo(path, self.image_size)[None]
            seen = np.asarray(self.class_maps.predict_on_batch(image))[0, ..., label]
            seen = np.maximum(seen, 0)
            maps.append(seen / max(seen.max(), 1e-12))
        return maps

    def same_probabilities(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Probability that two photos show one class.

        Args:
            first, second: float arrays, shape `(pairs, 2048)`: features.

        Returns:
            float32 array, shape `(pairs,)`.
        """
        parts = [
            np.asarray(
                self.pair_head.predict_on_batch(
                    [first[start : start + PAIRS_AT_ONCE], second[start : start + PAIRS_AT_ONCE]]
                )
            )[:, 1]
            for start in range(0, len(first), PAIRS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def model_digest(self) -> str:
        """SHA-256 of the model file, as hexadecimal digits."""
        return file_digest(self.weights / "model.keras")

    def write_calibration(self, calibration: Calibration) -> None:
        """Stores what was fitted for this model file, beside it."""
        facts = {"model": self.model_digest(), **dataclasses.asdict(calibration)}
        write_json(self.weights / CALIBRATION, facts)
        self.calibration = calibration

    def read_calibration(self) -> Calibration:
        """The stored one; the neutral one if there is none for this model file."""
        path = self.weights / CALIBRATION
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts.pop("model") == self.model_digest():
                return Calibration(**facts).checked()
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(
                f"{path}: damaged ({error}) and not used; --evaluate writes it anew",
                file=sys.stderr,
            )
        return Calibration()


def average(all_predictions: list[Predictions], typeids: list[list[str]]) -> Predictions:
    """Averages what several models say about the same photos.

    Args:
        all_predictions: of the same paths.
        typeids: for each model, what its columns stand for, the same classes in
            any order; the result has the columns of the first.

    Returns:
        the mean of the class probabilities; features are the first model's.
    """
    first = typeids[0]
    # The same classes may be in another order.
    probabilities = [
        predictions.probabilities[:, [own.index(name) for name in first]]
        for predictions, own in zip(all_predictions, typeids, strict=True)
    ]
    return dataclasses.replace(all_predictions[0], probabilities=np.mean(probabilities, axis=0))
