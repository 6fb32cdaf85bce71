"""`PairBatches`, from photos or from stored activations, as Keras wants them."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from pairs.devices.cluster import Cluster
from pairs.network.parts import ALL_PAIRS
from pairs.photos.read import Photos, read_ahead
from pairs.training.activation_store import ActivationStore

Batch = tuple[dict[str, np.ndarray], ...]


class Pairs(Protocol):
    """What a training asks of `pair_generator.PairBatches`; its docstrings say the rest."""

    photos: Photos
    batch_size: int
    epoch: int
    validation: bool

    def __len__(self) -> int: ...
    def indices(self, step: int) -> np.ndarray: ...
    def pairs(self, step: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]: ...
    def mirrored(self, step: int) -> np.ndarray: ...
    def images(self, step: int, rows: Sequence[int] | np.ndarray) -> np.ndarray: ...


class KerasBatches(keras.utils.PyDataset):
    """Hands `PairBatches` to Keras: read on threads, in order, a few batches ahead.

    The threads are ours. Keras' own (`OrderedEnqueuer` in
    keras/src/trainers/data_adapters/py_dataset_adapter.py) would keep what they
    have read for "the next run", and on JAX, on Torch and with
    `MirroredStrategy` Keras takes a batch to build the model before epoch 1
    (`_symbolic_build` in keras/src/trainers/trainer.py): from then on every
    epoch would begin with batches of the one before.

    Args:
        pairs: whose batches.
        heads: names of the outputs; decides which inputs and labels are passed.
        workers: threads.
        source: of activations, if any: a store of the same photos, and no photo is read; or
            the forward pass from images to them.
        devices: this process' part of every batch is handed on.
        padded: a short last batch is padded, with sample weights (several devices
            always need it). For XLA, which compiles the whole step anew for another
            length. In what `fit` prints of training, such a batch counts as a full one.
        balance: the softmax heads get sample weights, too: `balanced_weights` of the
            photos that they classify.
    """

    def __init__(
        self,
        pairs: Pairs,
        heads: list[str],
        workers: int,
        source: ActivationStore | Callable[[np.ndarray], np.ndarray] | None,
        devices: Cluster,
        padded: bool = False,
        balance: bool = False,
    ) -> None:
        super().__init__(workers=1)
        self.pairs = pairs
        self.heads = heads
        self.store = source if isinstance(source, ActivationStore) else None
        self.forward = None if isinstance(source, ActivationStore) else source
        # A row of a store is a megabyte, and its reading is all but free.
        self.threads = min(workers, 2) if self.store else workers
        self.devices = devices
        self.padded = bool(devices.engine) or (padded and len(pairs) > 1)
        self.class_weights = balanced_weights(pairs.photos.labels) if balance else None
        self.error: Exception | None = None
        self.lock = threading.Lock()
        self.ahead: Iterator[Batch] = iter(())
        self.next: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, step: int) -> Batch:
        """Batch `step` of the current epoch. In order it is fast, in any order it is right."""
        try:
            with self.lock:
                place = (self.pairs.epoch, step)
                if place != self.next:
                    self.ahead = self.read_from(step)
                self.next = (self.pairs.epoch, step + 1)
                return next(self.ahead)
        except Exception as error:
            self.error, self.next = error, None
            raise

    def read_from(self, step: int) -> Iterator[Batch]:
        """Yields the batches from a step on to the end of the epoch."""
        return read_ahead(self.batch, range(step, len(self)), self.threads, self.threads + 2)

    @functools.cached_property
    def for_keras(self) -> Any:
        """What `fit`, `evaluate` and `predict` take: on TensorFlow a `tf.data.Dataset`.

        Of a `PyDataset` Keras would make one that reads ahead, by itself, as
        many batches as half of the memory holds.
        """
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        signature = keras.tree.map_structure(
            lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), self.batch(0)
        )
        dataset = tf.data.Dataset.from_generator(
            lambda: (self[step] for step in range(len(self))), output_signature=signature
        )
        return dataset.apply(tf.data.experimental.assert_cardinality(len(self)))

    @contextlib.contextmanager
    def original_errors(self) -> Iterator[None]:
        """Raises what a batch raised, which TensorFlow hides in an error of its own."""
        self.error = None
        try:
            yield
        except Exception as error:
            if self.error is None or self.error is error:
                raise
            raise self.error from error

    def batch(self, step: int) -> Batch:
        """Inputs and labels of a step, for the heads that the model has.

        Padded or balanced, it has sample weights, too: 0 for padding.
        """
        indices, partner, labels = self.pairs.pairs(step)
        rows, weights = np.arange(len(indices)), None
        if self.padded:
            rows, partner, is_image = self.devices.spread(partner, self.pairs.batch_size)
            weights = np.where(is_image, self.image_weight(len(indices)), 0).astype(np.float32)
        if self.store:
            mirrored = self.pairs.mirrored(step)
            inputs = {"activation": self.store.read(indices[rows], mirrored[rows])}
        else:
            once, places = np.unique(rows, return_inverse=True)  # padding repeats an image
            images = self.pairs.images(step, once)
            inputs = {"img_1": images[places]}
            if self.forward:
                inputs = {"activation": self.forward(images)[places]}
        if "ctg_out_2" in self.heads:
            inputs["partner"] = partner
        targets = {head: labels[head][rows] for head in self.heads if head != ALL_PAIRS}
        if ALL_PAIRS in self.heads:
            targets[ALL_PAIRS] = labels["ctg_out_1"][rows]
            if weights is not None:
                targets[ALL_PAIRS] = np.where(weights > 0, targets[ALL_PAIRS], -1)
        if weights is None and self.class_weights is None:
            return inputs, targets
        if weights is None:
            weights = np.ones(len(rows), np.float32)
        return inputs, targets, {head: self.weigh(head, targets, weights) for head in self.heads}

    def weigh(self, head: str, targets: dict[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
        """Sample weights of a head: those of the images, times those of their classes.

        Whether two photos are of one class is a question of two answers, not of
        classes, and is weighed by neither: two photos of a class that is rare meet
        so rarely that a few pairs would outweigh all others.
        """
        if self.class_weights is None or head in ("bin_out", ALL_PAIRS):
            return weights
        return weights * self.class_weights[targets[head]]

    def image_weight(self, count: int) -> float:
        """Sample weight of the images of a padded batch that has `count` of them.

        It makes the mean over the padded batch, and so the gradient, the mean
        over the images. In validation, whose loss decides, see below.
        """
        if self.pairs.validation:
            return self.validation_weight
        return self.devices.padded_length(count, self.pairs.batch_size) / count

    @functools.cached_property
    def validation_weight(self) -> float:
        """The same weight for every photo, so that Keras' mean over all batches is theirs.

        Keras counts a batch by its padded length: the last one, of few photos,
        would count as a full one.
        """
        counts = [len(self.pairs.indices(step)) for step in range(len(self.pairs))]
        lengths = [self.devices.padded_length(count, self.pairs.batch_size) for count in counts]
        return sum(lengths) / sum(counts)


def balanced_weights(labels: np.ndarray) -> np.ndarray:
    """Weights by which every class counts the same, however many photos it has.

    Args:
        labels: int array, shape `(photos,)`.

    Returns:
        float32 array, shape `(classes,)`: inverse to the number of photos; the mean
        over all photos is 1.
    """
    counts = np.bincount(labels)
    return (len(labels) / np.count_nonzero(counts) / np.maximum(counts, 1)).astype(np.float32)
