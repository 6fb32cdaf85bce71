"""A trained model, turned on photos: class probabilities, features, pairs.

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

import numpy as np
from tqdm import tqdm

from pairs.command_line import UserError
from pairs.photos.check import file_digest
from pairs.photos.read import read_ahead, read_photo
from pairs.training.run_folder import write_json

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
        paths: list of str.
        probabilities: float32 array, shape `(photos, classes)`; rows sum to 1.
        features: float32 array, shape `(photos, 2048)`: the trunk's pooled feature.
    """

    paths: list
    probabilities: np.ndarray
    features: np.ndarray

    def readable(self):
        """bool array, shape `(photos,)`."""
        return ~np.isnan(self.probabilities).any(axis=1)

    def take(self, indices):
        """`Predictions` of some photos."""
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

    def checked(self):
        """Itself; raises a ValueError or TypeError where a file held something else."""
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}")
        if self.same_threshold is not None and not 0 <= self.same_threshold <= 1:
            raise ValueError(f"same_threshold {self.same_threshold}")
        if not isinstance(self.photos, int) or self.photos < 0:
            raise ValueError(f"photos {self.photos!r}")
        return self


def read_views(path, image_size, num_views):
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
        batch_size: photos a forward pass.
        workers: threads that read photos.
        num_views: views of each photo whose predictions are averaged, 1 to
            `MAX_VIEWS`: as it is, mirrored, then five crops and their mirrors.
        head: whose probabilities, see `model_parts.photo_model`.

    Attributes:
        typeids: list of str, what the columns of probabilities stand for.
        most_frequent: int, the label with the most training photos.
        is_paired: whether the model can say "same" or "different".
        calibration: `Calibration` of this very model file, if there is one.

    Raises:
        UserError: there is no model of ours in `weights`.
    """

    def __init__(self, weights, batch_size=32, workers=2, num_views=1, head="mean"):
        import model as network  # TensorFlow takes seconds to load
        from pairs.network import parts as model_parts

        self.weights = pathlib.Path(weights)
        self.model = model = network.load_model(self.weights / "model.keras")
        classifier = model.get_layer("ctg_out_1")
        self.typeids = classifier.typeids
        self.most_frequent = int(np.argmax(classifier.num_photos))
        self.is_paired = network.is_paired(model)
        self.photo_model = model_parts.photo_model(model, head)
        self.pair_head = model_parts.pair_head(model) if self.is_paired else None
        self.image_size = self.photo_model.input_shape[1]
        self.batch_size = batch_size
        self.workers = workers
        self.num_views = num_views
        self.is_plain = num_views == 1 and head == "mean"
        self.calibration = self.read_calibration()

    def predict(self, paths):
        """Predicts photos; names those that it cannot read.

        Args:
            paths: list of str.

        Returns:
            `Predictions`.
        """
        blank = np.zeros((self.num_views, self.image_size, self.image_size, 3), np.uint8)
        photos = read_ahead(self.read_or_none, paths, self.workers)
        shown = tqdm(photos, total=len(paths), unit=" photos", disable=None)
        probabilities, features, batch = [], [], []
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

    def read_or_none(self, path):
        """The views of a photo; None, and its name printed, where it cannot be read."""
        try:
            return read_views(path, self.image_size, self.num_views)
        except UserError as error:
            print(error, file=sys.stderr)
            return None

    @functools.cached_property
    def class_maps(self):
        """`model_parts.class_map_model`; only a report needs it."""
        from pairs.network import parts as model_parts

        return model_parts.class_map_model(self.model)

    def heat_maps(self, paths, labels):
        """Where in each photo a class was seen.

        Args:
            paths: list of str, readable photos.
            labels: int array, shape `(len(paths),)`: the class of each map.

        Returns:
            list of float arrays, shape `(rows, columns)`, in [0, 1].
        """
        maps = []
        for path, label in zip(paths, labels, strict=True):
            image = read_photo(path, self.image_size)[None]
            seen = np.asarray(self.class_maps.predict_on_batch(image))[0, ..., label]
            seen = np.maximum(seen, 0)
            maps.append(seen / max(seen.max(), 1e-12))
        return maps

    def same_probabilities(self, first, second):
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

    def model_digest(self):
        """SHA-256 of the model file, as hexadecimal digits."""
        return file_digest(self.weights / "model.keras")

    def write_calibration(self, calibration):
        """Stores what was fitted for this model file, beside it."""
        facts = {"model": self.model_digest(), **dataclasses.asdict(calibration)}
        write_json(self.weights / CALIBRATION, facts)
        self.calibration = calibration

    def read_calibration(self):
        """The stored `Calibration`; the neutral one if there is none for this file."""
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


class Ensemble:
    """Several models whose class probabilities are averaged.

    Features, pairs and heat maps are those of the first model. A calibration is
    used and stored by single models only, without further views.

    Args:
        predictors: list of `Predictor`, at least one.

    Attributes: as those of `Predictor`; `is_plain` if it is one model, one view,
        the mean of its heads.

    Raises:
        UserError: the models know different classes.
    """

    def __init__(self, predictors):
        self.predictors = predictors
        self.first = first = predictors[0]
        for other in predictors[1:]:
            if set(other.typeids) != set(first.typeids):
                raise UserError(
                    f"{first.weights} and {other.weights} know different classes: "
                    f"{len(first.typeids)} and {len(other.typeids)}"
                )
        self.weights = first.weights
        self.typeids = first.typeids
        self.most_frequent = first.most_frequent
        self.is_paired = first.is_paired
        self.is_plain = len(predictors) == 1 and first.is_plain
        self.calibration = first.calibration if self.is_plain else Calibration()

    def predict(self, paths):
        """As `Predictor.predict`."""
        all_predictions = [predictor.predict(paths) for predictor in self.predictors]
        # The same classes may stand in another order.
        columns = [
            [predictor.typeids.index(typeid) for typeid in self.typeids]
            for predictor in self.predictors
        ]
        probabilities = np.mean(
            [
                predictions.probabilities[:, column]
                for predictions, column in zip(all_predictions, columns, strict=True)
            ],
            axis=0,
        )
        return dataclasses.replace(all_predictions[0], probabilities=probabilities)

    def same_probabilities(self, first, second):
        """As `Predictor.same_probabilities`, of the first model."""
        return self.first.same_probabilities(first, second)

    def heat_maps(self, paths, labels):
        """As `Predictor.heat_maps`, of the first model."""
        return self.first.heat_maps(paths, labels)

    def write_calibration(self, calibration):
        """As `Predictor.write_calibration`; only for a plain single model."""
        self.first.write_calibration(calibration)
        self.calibration = calibration
