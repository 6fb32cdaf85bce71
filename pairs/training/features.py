"""What a trained model makes of photos: features, and what is kept of them beside it."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import keras
import numpy as np
from tqdm import tqdm

from pairs.files import file_digest
from pairs.network.frozen import forward
from pairs.network.held_out import HeldOut, write_held_out
from pairs.network.parts import compares_all_pairs, digest, split_trunk
from pairs.network.similarity import (
    Similarity,
    SimilarityFit,
    with_centres,
    write_similarity,
)
from pairs.training.activation_store import BATCH_SIZE, from_photos
from pairs.training.batches import KerasBatches
from pairs.training.run import Run
from pairs.training.scoring import Judgement


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model at the end of its training.

    Attributes:
        run: the training.
        model: `model.build_model(...)`.
        cut: where stored activations begin, see `parts.split`.
        file: the model file.
    """

    run: Run
    model: keras.Model
    cut: int | None
    file: pathlib.Path

    def fit_similarity(self, batches: KerasBatches) -> Similarity:
        """Fits the space in which photos are compared; `batches` are of the training photos.

        Where all pairs were compared, features are what was trained, and class centres vote.
        """
        photos = batches.pairs.photos
        num_features = self.model.get_layer("trunk").output_shape[1]
        fitted = SimilarityFit(num_features, len(photos.typeids))
        seen = 0
        with tqdm(total=len(photos), desc="features", unit=" photos", disable=None) as progress:
            for features in self.features(batches):
                fitted.add(features, photos.labels[seen : seen + len(features)])
                seen += len(features)
                progress.update(len(features))
        return fitted.result(file_digest(self.file), votes=compares_all_pairs(self.model))

    def features(self, batches: KerasBatches) -> Iterator[np.ndarray]:
        """Yields the trunk's feature of photos as they are: float32, shape `(batch, features)`."""
        photos = batches.pairs.photos
        below, upper = self.parts
        if batches.store:
            activations = batches.store.batches(range(len(photos)))
        else:
            size = below.input_shape[1]
            compute = forward(below, self.run.openvino)
            activations = from_photos(range(len(photos)), compute, photos, size, self.run.workers)
        for batch in activations:
            if upper is None:
                yield np.asarray(batch, np.float32)
                continue
            # Of one length: each other one would be compiled anew, which takes JAX long.
            padded = np.resize(batch, (BATCH_SIZE, *batch.shape[1:]))
            yield np.asarray(upper.predict_on_batch(padded), np.float32)[: len(batch)]

    @functools.cached_property
    def parts(self) -> tuple[keras.Model, keras.Model | None]:
        """`parts.split_trunk` of the model."""
        return split_trunk(self.model, self.cut)


def finish_model(
    trained: Trained, batches: KerasBatches, valid_batches: KerasBatches, judgement: Judgement
) -> Judgement:
    """Writes what belongs to a trained model: the space of its features, and what it holds out.

    Args:
        trained: a training's last model.
        batches, valid_batches: of its photos.
        judgement: of the softmax heads.

    Returns:
        the judgement of what `predict.py` will say.
    """
    run, similarity = trained.run, trained.fit_similarity(batches)
    write_similarity(run.folder, similarity)
    if not similarity.votes and run.pool is None:
        return judgement
    features = np.concatenate(list(trained.features(valid_batches)))
    probabilities = judgement.probabilities
    if similarity.votes:
        probabilities = with_centres(probabilities, similarity.class_cosines(features)[None])
    if run.pool is not None:
        digests = np.array(valid_batches.pairs.photos.digests)
        model = digest(trained.model.weights)
        write_held_out(run.folder, HeldOut(model, digests, probabilities, features))
    return dataclasses.replace(judgement, probabilities=probabilities)
