"""`--balance`: losses and gradients against the same written out by hand."""

import collections

import keras
import numpy as np
import pytest
from conftest import SIZE

from model import build_model
from pair_generator import PairBatches
from pairs.devices.cluster import ALONE
from pairs.network import parts
from pairs.network.trunks import build_trunk
from pairs.photos.read import Photos
from pairs.training.batches import KerasBatches, balanced_weights
from pairs.training.optimizer import compile_model

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2], np.int32)


class Coloured(Photos):
    """Photos without files: noise, of another brightness for each class."""

    def open(self, index, image_size):
        rng = np.random.default_rng(index)
        pixels = rng.integers(0, 80, size=(image_size, image_size, 3)) + 60 * self.labels[index]
        return pixels.astype(np.uint8)


@pytest.fixture(scope="module")
def photos():
    return Coloured([f"{n}.jpg" for n in range(len(LABELS))], LABELS, ["a", "b", "c"])


def test_every_class_weighs_the_same_and_a_photo_1_on_average():
    labels = np.repeat([0, 1, 3], [12, 5, 3])  # none of class 2
    weights = balanced_weights(labels)
    assert weights[labels].mean() == pytest.approx(1)
    of_classes = np.bincount(labels, weights[labels])[[0, 1, 3]]
    np.testing.assert_allclose(of_classes, len(labels) / 3, rtol=1e-6)
    np.testing.assert_allclose(balanced_weights(np.repeat([0, 1], 7)), 1)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pair_output", ["bin_out", "all_pairs"])
def test_heads_are_weighed_by_their_own_image_and_pairs_are_not(photos, padded, pair_output):
    pairs = PairBatches(photos, SIZE, 4, seed=0)
    heads = ["ctg_out_1", "ctg_out_2", pair_output]
    plain = KerasBatches(pairs, heads, 1, None, ALONE, padded)
    balanced = KerasBatches(pairs, heads, 1, None, ALONE, padded, balance=True)
    by_class = len(LABELS) / 3 / np.bincount(LABELS)
    for step in range(len(pairs)):
        inputs, targets, *weights = plain[step]
        count = len(pairs.indices(step))
        before = weights[0] if padded else dict.fromkeys(heads, np.ones(count))
        found_inputs, found_targets, found = balanced[step]
        np.testing.assert_array_equal(found_inputs["img_1"], inputs["img_1"])
        first = LABELS[pairs.indices(step)]
        second = first[pairs.pairs(step)[1]]
        for head, labels in (("ctg_out_1", first), ("ctg_out_2", second)):
            expected = before[head][:count] * by_class[labels]
            np.testing.assert_allclose(found[head][:count], expected, rtol=1e-6)
            assert (found[head][count:] == 0).all()
        np.testing.assert_array_equal(found[pair_output], before[pair_output])
        np.testing.assert_array_equal(found_targets[pair_output], targets[pair_output])


@pytest.mark.parametrize("padded", [False, True])
def test_loss_and_gradient_are_those_of_the_weighted_loss(photos, padded):
    """Of a linear softmax on three numbers; the last batch is short."""

    class Numbers(PairBatches):
        def images(self, step, rows):
            numbers = np.random.default_rng(5).normal(size=(len(LABELS), 3)).astype(np.float32)
            return numbers[self.indices(step)[rows]]

    image = keras.Input((3,), name="img_1")
    head = keras.layers.Dense(3, activation="softmax", name="ctg_out_1")
    model = keras.Model({"img_1": image}, {"ctg_out_1": head(image)})
    compile_model(model, keras.optimizers.SGD(1.0))
    pairs = Numbers(photos, SIZE, 4, seed=0)
    batches = KerasBatches(pairs, ["ctg_out_1"], 1, None, ALONE, padded, balance=True)
    last = len(pairs) - 1
    kernel, bias = head.get_weights()
    numbers = pairs.images(last, np.arange(len(pairs.indices(last))))
    labels = LABELS[pairs.indices(last)]
    assert len(labels) < 4
    odds = np.exp(numbers @ kernel + bias)
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    weights = (len(LABELS) / 3 / np.bincount(LABELS))[labels]
    by_hand = -(weights * np.log(probabilities[np.arange(len(labels)), labels])).mean()
    slope = weights[:, None] * (probabilities - np.eye(3)[labels]) / len(labels)
    loss = model.train_on_batch(*batches[last], return_dict=True)["loss"]
    assert loss == pytest.approx(by_hand, rel=1e-5)
    np.testing.assert_allclose(kernel - head.get_weights()[0], numbers.T @ slope, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_validation_is_the_mean_over_classes(photos, padded, small_trunk):
    keras.utils.set_random_seed(0)
    trunk = build_trunk("xception", SIZE, "none")
    whole = parts.connect(*parts.split(build_model(trunk, photos.typeids), None))
    compile_model(whole, "sgd")
    pairs = PairBatches(photos, SIZE, 4, seed=0, validation=True)
    batches = KerasBatches(pairs, list(whole.output), 1, None, ALONE, padded, balance=True)
    losses, classes = collections.defaultdict(list), collections.defaultdict(list)
    for step in range(len(pairs)):
        inputs, labels = pairs[step]
        answers = whole.predict_on_batch(inputs)
        for head, right in labels.items():
            losses[head] += (-np.log(answers[head][np.arange(len(right)), right])).tolist()
            classes[head] += right.tolist()
    expected = 0.5 * np.mean(losses["bin_out"])
    for head in ("ctg_out_1", "ctg_out_2"):
        of_class = [np.equal(classes[head], label) for label in range(3)]
        expected += np.mean([np.array(losses[head])[own].mean() for own in of_class])
    found = whole.evaluate(batches.for_keras, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
