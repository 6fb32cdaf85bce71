"""Applies a trained model to photos: class probabilities, features, pairs.

The model file brings its classes, image size, fit and scaling. A weights folder of
folds holds several: together they say the mean of what each would.
"""

import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from pairs.errors import UserError
from pairs.evaluation.calibration import Calibration, read_calibration
from pairs.evaluation.predictions import Predictions
from pairs.evaluation.same import PAIRS_AT_ONCE
from pairs.files import read_json
from pairs.network.similarity import (
    ROWS,
    Similarity,
    read_similarity,
    unit_rows,
    with_centres,
)
from pairs.network.trunks import TRUNKS
from pairs.network.weights_folder import CHECKPOINT, SETTINGS, SIMILARITY, model_files
from pairs.out_of_memory import memory_for
from pairs.photos.folds import fold_folder, fold_of_folder
from pairs.photos.read import AHEAD, read_ahead
from pairs.photos.views import read_views


class Predictor:
    """A trained model, or those of all folds, that turns photo files into predictions.

    Args:
        weights: folder that `train.py` wrote.
        batch_size: photos per forward pass.
        workers: threads that read photos.
        num_views: views of each photo whose predictions are averaged, 1 to
            `views.MAX_VIEWS`: as it is, mirrored, then five crops and their mirrors.
        head: whose probabilities: "mean" of the softmax heads, or one of them, see
            `parts.photo_model`; "all": of these and the class centres of `similarity`.
            None: "all" if the centres vote (`Similarity`), else "mean".
        models: loaded already; None loads those of `weights`.
        openvino: "float32" or "bfloat16": OpenVINO computes in that; None: Keras.

    Attributes:
        typeids: what the columns of probabilities stand for.
        image_size: side of the squares that the network sees, in pixels.
        fit: how its photos become squares.
        num_features: of a photo and model, 2048 for Xception.
        head: never None.
        most_frequent: the label with the most training photos.
        models: one, or one a fold.
        fold: the fold whose model this is, if it is one's alone.
        home: folder of the whole training.
        is_paired: whether the models can say "same" or "different".
        has_ended: whether its training has; else it is the model of a finished stage.
        lacks_centres: whether class centres had a say in its training, and are gone.
        is_plain: whether photos are seen as they are, by the heads of `head=None`.
        calibration: of these very model files, if there is one and `is_plain`.

    Raises:
        UserError: there is no model of ours in `weights`, those of its folds do not fit
            together, or nothing is known of its class centres.
    """

    def __init__(
        self,
        weights: str | pathlib.Path,
        batch_size: int = 32,
        workers: int = 2,
        num_views: int = 1,
        head: str | None = None,
        models: list[Any] | None = None,
        openvino: str | None = None,
    ) -> None:
        from pairs.network import files, frozen, parts  # Keras takes seconds to load

        self.weights = pathlib.Path(weights)
        self.fold = fold_of_folder(self.weights)
        self.home = self.weights.resolve().parent if self.fold else self.weights
        self.models = models or [files.load_model(path) for path in model_files(self.weights)]
        self.openvino = openvino
        if openvino:
            self.models = [frozen.in_float32(model) for model in self.models]
        classifier = self.models[0].get_layer("ctg_out_1")
        self.typeids = classifier.typeids
        self.fit = classifier.fit
        self.most_frequent = int(np.argmax(classifier.num_photos))
        self.is_paired = parts.is_paired(self.models[0])
        self.image_size = self.models[0].get_layer("trunk").input_shape[1]
        self.num_features = self.models[0].get_layer("trunk").output_shape[1]
        self.batch_size = batch_size
        self.workers = workers
        self.num_views = num_views
        votes = all(each is not None and each.votes for each in self.similarities)
        usual_head = "all" if votes else "mean"
        compares = parts.compares_all_pairs(self.models[0])
        self.lacks_centres = compares and not all(self.similarities)
        files_of_models = model_files(self.weights)
        self.has_ended = not any(path.with_name(CHECKPOINT).is_file() for path in files_of_models)
        if self.lacks_centres and head is None and self.has_ended:
            print(
                f"note: {weights}: without the {SIMILARITY} of its training the class centres have "
                f"no say: other probabilities, and more errors",
                file=sys.stderr,
            )
        self.head = head or usual_head
        self.is_plain = num_views == 1 and self.head == usual_head
        self.check_models()
        # Fitted on photos as they are, and on the usual heads: of nothing else.
        self.calibration = read_calibration(self.weights) if self.is_plain else Calibration()

    def check_models(self) -> None:
        """Raises a UserError if the models of the folds are not of one training."""
        for fold, model in enumerate(self.models, start=1):
            if (
                model.get_layer("ctg_out_1").typeids != self.typeids
                or model.get_layer("ctg_out_1").fit != self.fit
                or model.output.keys() != self.models[0].output.keys()
                or model.get_layer("trunk").input_shape[1] != self.image_size
            ):
                raise UserError(
                    f"{fold_folder(self.weights, fold)}: its model has other classes, heads, "
                    f"fit or another image size than that of fold 1; they must be of one training"
                )
        if self.head == "all" and not all(self.similarities):
            raise UserError(
                f"--head all: {self.weights} has no {SIMILARITY} of its model; leave --head out, "
                f"or train again"
            )

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Those of the training; empty if they are gone, or no longer what it wrote."""
        try:
            settings = read_json(self.home / SETTINGS)
        except UserError:
            return {}
        return settings if isinstance(settings, dict) else {}

    @functools.cached_property
    def flags(self) -> dict[str, Any]:
        """Those that the training was started with; empty if its settings are gone."""
        flags = self.settings.get("flags")
        return flags if isinstance(flags, dict) else {}

    @functools.cached_property
    def photo_model(self) -> Any:
        """`parts.photo_model` of all models; what the folds did not train, photos pass once."""
        from pairs.network import parts

        row = TRUNKS.get(str(self.flags.get("trunk"))) if len(self.models) > 1 else None
        cut = None
        if row:
            cut = parts.shared_cut(self.models, row.cut(self.models[0].get_layer("trunk")))
        return parts.photo_model(self.models, "mean" if self.head == "all" else self.head, cut)

    @functools.cached_property
    def forward(self) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """The forward pass of `photo_model`."""
        from pairs.network import frozen

        return frozen.forward(self.photo_model, self.openvino)

    @functools.cached_property
    def pair_heads(self) -> list[Any]:
        """`parts.pair_head` of each model."""
        from pairs.network import parts

        return [parts.pair_head(model) for model in self.models]

    @functools.cached_property
    def similarities(self) -> list[Similarity | None]:
        """What makes the features of each model comparable; None: nothing is known of it."""
        return [read_similarity(path) for path in model_files(self.weights)]

    @functools.cached_property
    def of_folds(self) -> list["Predictor"]:
        """The model of each fold alone."""
        return [
            Predictor(
                fold_folder(self.weights, fold),
                self.batch_size,
                self.workers,
                self.num_views,
                self.head,
                models=[model],
                openvino=self.openvino,
            )
            for fold, model in enumerate(self.models, start=1)
        ]

    def judge_of(self, fold: int) -> "Predictor":
        """The model of a fold; of photos that no fold has seen (0), that of the first."""
        return self.of_folds[max(fold - 1, 0)]

    def predict(
        self, paths: Sequence[str], keep_features: bool = True, quiet: bool = False
    ) -> Predictions:
        """Predicts photos; reports those that it cannot read.

        Args:
            paths: of the photos.
            keep_features: False leaves `features` empty, shape `(photos, 0)`: of the
                models of ten folds they take 80 kB per photo.
            quiet: nothing is reported: another model has had the same photos.
        """
        import keras

        from pairs.network import parts

        blank = np.zeros((self.num_views, self.image_size, self.image_size, 3), np.uint8)
        read = functools.partial(self.read_or_none, quiet=quiet)
        ahead = max(2, AHEAD // self.num_views)  # all views of a photo wait together
        photos = read_ahead(read, paths, self.workers, ahead)
        shown = iter(tqdm(photos, total=len(paths), unit=" photos", disable=None))
        width = self.num_features * len(self.models) if keep_features else 0
        # To trace the network takes TensorFlow longer than to run it once without. But then
        # the output of every layer stays in memory: nothing for more than one photo.
        ask = self.ask
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if len(paths) == self.num_views == 1 and on_tensorflow and not self.openvino:
            ask = functools.partial(self.ask, traced=False)
        probabilities = np.full((len(paths), len(self.typeids)), np.nan, np.float32)
        features = np.full((len(paths), width), np.nan, np.float32)
        likeness = np.full(len(paths), np.nan, np.float32) if all(self.similarities) else None
        first = 0
        while batch := list(itertools.islice(shown, self.batch_size)):
            if first and parts.uses_xla():  # which compiles each other length anew
                batch += [None] * (self.batch_size - len(batch))
            views = np.stack([blank if photo is None else photo for photo in batch], axis=1)
            found = [ask(images) for images in views]
            readable = [row for row, photo in enumerate(batch) if photo is not None]
            rows = np.array(readable, int) + first
            seen, guessed = (
                np.mean([of_view[name] for of_view in found], axis=0)[readable]
                for name in ("feature", "probabilities")
            )
            features[rows] = seen[:, :width]
            if likeness is not None:
                cosines = self.class_cosines(seen)
                likeness[rows] = cosines.mean(axis=0).max(axis=1)
                if self.head == "all":
                    guessed = with_centres(guessed, cosines)
            probabilities[rows] = guessed
            first += len(batch)
        return Predictions(list(paths), probabilities, features, likeness=likeness)

    def ask(self, images: np.ndarray, traced: bool = True) -> dict[str, np.ndarray]:
        """What `photo_model` says of some images; a line if memory runs out."""
        import keras

        with memory_for(len(images)):
            if traced:
                return self.forward(images)
            found = self.photo_model(images, training=False)
            return {name: keras.ops.convert_to_numpy(output) for name, output in found.items()}

    def unit(self, features: np.ndarray, folds: np.ndarray | None = None) -> np.ndarray:
        """Features as similarity sees them: the dot product of two is their cosine.

        Args:
            features: of `Predictions`. Those of several models side by side count the
                same: their cosine is the mean of each model's.
            folds: of `Predictions`, too.

        Returns:
            float32 array of the same shape, rows of length 1; NaN where features are.
        """
        if folds is not None:
            unit = np.empty(features.shape, np.float32)
            for fold in np.unique(folds):
                own = folds == fold
                unit[own] = self.judge_of(fold).unit(features[own])
            return unit
        of_models = np.split(features, len(self.models), axis=1)
        units = [
            similarity.unit(own) if similarity else unit_rows(own)
            for similarity, own in zip(self.similarities, of_models, strict=True)
        ]
        return units[0] if len(units) == 1 else np.hstack(units) / np.float32(len(units) ** 0.5)

    def make_unit(self, features: np.ndarray) -> np.ndarray:
        """`unit` in place: of many models side by side, features are what needs memory."""
        for start in range(0, len(features), ROWS):
            features[start : start + ROWS] = self.unit(features[start : start + ROWS])
        return features

    def class_cosines(self, features: np.ndarray) -> np.ndarray:
        """Cosines to each model's class centres, if it has them; `features` as in `unit`.

        Returns:
            float32 array, shape `(models, photos, classes)`.
        """
        of_models = np.split(features, len(self.models), axis=1)
        return np.array(
            [
                similarity.class_cosines(own)
                for similarity, own in zip(self.similarities, of_models, strict=True)
                if similarity
            ]
        )

    def read_or_none(self, path: str, quiet: bool) -> np.ndarray | None:
        """The views of a photo; None, and a line printed, if it cannot be read."""
        try:
            return read_views(path, self.image_size, self.num_views, self.fit)
        except UserError as error:
            if not quiet:
                print(f"{error}\n", end="", file=sys.stderr)  # whole: other threads print, too
            return None

    def same_probabilities(
        self, features: np.ndarray, pairs: np.ndarray, folds: np.ndarray | None = None
    ) -> np.ndarray:
        """Probability that two photos show one class, by the mean of all models' pair heads.

        Args:
            features: as in `unit`.
            pairs: int array, shape `(pairs, 2)`: which photos; of one fold, if there are folds.
            folds: of `Predictions`.

        Returns:
            float32 array, shape `(pairs,)`.
        """
        if folds is not None:
            scores, of_pair = np.empty(len(pairs), np.float32), folds[pairs[:, 0]]
            for fold in np.unique(of_pair):
                own = of_pair == fold
                scores[own] = self.judge_of(fold).same_probabilities(features, pairs[own])
            return scores
        same = np.zeros((len(self.models), len(pairs)), np.float32)
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            rows = slice(start, start + PAIRS_AT_ONCE)
            sides = [features[side] for side in pairs[rows].T]
            sides = [np.split(side, len(self.models), axis=1) for side in sides]
            for number, (head, *pair) in enumerate(zip(self.pair_heads, *sides, strict=True)):
                same[number, rows] = head.predict_on_batch(pair)[:, 1]
        return same.mean(axis=0)
