"""The loss over all pairs of a batch, against the same written out in loops."""

import math

import keras
import numpy as np
import pytest
from conftest import SIZE, SMALL_CUT

from model import build_model
from pairs.devices.cluster import ALONE
from pairs.network import parts
from pairs.network.files import load_model
from pairs.training.optimizer import AllPairsLoss, compile_model, make_metrics

TYPEIDS = ["2", "10", "pug"]
LABELS = [0, 0, 1, 2, 1, 1]


def made_up_answers(num_images, seed=0):
    """Probabilities of "same" for every pair: `(num_images, num_images)`."""
    return np.random.default_rng(seed).uniform(0.05, 0.95, size=(num_images, num_images))


def loss_of(same, labels, weights=None):
    """What Keras makes of the loss of a batch."""
    answers = np.stack([1 - same, same], axis=-1).astype(np.float32)
    return float(AllPairsLoss()(np.array(labels), answers, sample_weight=weights))


def by_hand(same, labels):
    """Both parts of the loss, pair by pair."""
    images = range(len(labels))
    kinds = {True: [], False: []}
    for a in images:
        for b in images:
            if a != b:
                is_same = labels[a] == labels[b]
                kinds[is_same].append(-math.log(same[a, b] if is_same else 1 - same[a, b]))
    balanced = sum(0.5 * sum(kind) / len(kind) for kind in kinds.values() if kind)
    contrasts = []
    for a in images:
        odds = {b: same[a, b] / (1 - same[a, b]) for b in images if b != a}
        partners = [b for b in odds if labels[b] == labels[a]]
        if partners:
            shares = [odds[b] / sum(odds.values()) for b in partners]
            contrasts.append(-sum(map(math.log, shares)) / len(shares))
    return balanced + (sum(contrasts) / len(contrasts) if contrasts else 0.0)


@pytest.mark.parametrize("labels", [LABELS, [0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 1], [0, 1, 1]])
def test_the_loss_is_that_of_the_pairs_one_by_one(labels):
    same = made_up_answers(len(labels))
    assert loss_of(same, labels) == pytest.approx(by_hand(same, labels), rel=1e-5)


def test_an_image_that_only_pads_the_batch_does_not_count():
    same = made_up_answers(9)
    padded = [*LABELS, -1, -1, -1]
    weights = np.array([1.5] * 6 + [0.0] * 3)  # as `KerasBatches` weighs a padded batch
    expected = by_hand(same[:6, :6], LABELS)
    assert loss_of(same, padded, weights) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_any_pair_has_no_loss():
    assert loss_of(made_up_answers(1), [0]) == 0


def test_sure_answers_give_a_finite_loss():
    labels = np.array(LABELS)
    right = (labels[:, None] == labels[None]).astype(float)
    # Three of the five images that have a partner have two, each of them half as likely.
    assert loss_of(right, LABELS) == pytest.approx(3 / 5 * math.log(2), abs=1e-3)
    assert 10 < loss_of(1 - right, LABELS) < 100


@pytest.fixture(scope="module")
def model(built_small_trunk):
    keras.utils.set_random_seed(1)
    return build_model(built_small_trunk, TYPEIDS, all_pairs=True)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).integers(0, 256, size=(6, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.mark.parametrize("cut", [None, SMALL_CUT])
def test_every_pair_of_a_batch_is_asked_as_two_images_are(model, images, cut):
    """Through the two-image model, which is saved, one pair after the other."""
    below, above = parts.split(model, cut, all_pairs=True)
    partner = np.zeros(6, np.int32)
    inputs = {"activation": below.predict_on_batch(images), "partner": partner}
    outputs = above.predict_on_batch(inputs)
    assert set(outputs) == {"ctg_out_1", "ctg_out_2", "all_pairs"}
    for a in range(6):
        alone = model.predict([images[[a] * 6], images], verbose=0)["bin_out"]
        np.testing.assert_allclose(outputs["all_pairs"][a], alone, atol=1e-5)


def test_before_training_the_pair_head_says_ten_times_the_cosine_less_six(model, images):
    feature = np.asarray(parts.photo_model([model]).predict_on_batch(images)["feature"], float)
    same = model.predict([images[:1], images[1:2]], verbose=0)["bin_out"][0, 1]
    one, other = feature[:2]
    cosine = one @ other / math.sqrt(one @ one) / math.sqrt(other @ other)
    assert math.log(same / (1 - same)) == pytest.approx(10 * cosine - 6, abs=1e-3)


def test_the_saved_model_has_the_same_three_outputs_and_loads_in_safe_mode(model, images, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert parts.compares_all_pairs(loaded)
    assert list(loaded.output) == ["ctg_out_1", "ctg_out_2", "bin_out"]
    expected = model.predict([images, images[::-1]], verbose=0)
    found = loaded.predict([images, images[::-1]], verbose=0)
    for head in expected:
        np.testing.assert_array_equal(found[head], expected[head])


def test_training_brings_photos_of_a_class_together(trunk, images):
    """What all of it is for; only the trunk's last blocks may move."""
    keras.utils.set_random_seed(1)
    model = build_model(trunk, TYPEIDS, all_pairs=True)
    parts.unfreeze(model, 105)
    below, above = parts.split(model, 105, all_pairs=True)
    compile_model(above, keras.optimizers.Adam(1e-3))
    above.optimizer.build(above.trainable_variables)
    make_metrics(above, ALONE)  # else the step is traced twice
    inputs = {
        "activation": below.predict_on_batch(images),
        "partner": np.arange(6, dtype=np.int32)[::-1].copy(),
    }
    labels = np.array(LABELS)
    targets = {"ctg_out_1": labels, "ctg_out_2": labels[::-1], "all_pairs": labels}
    same = labels[:, None] == labels[None]
    others = ~np.eye(6, dtype=bool)

    def gap():
        answers = above.predict_on_batch(inputs)["all_pairs"][..., 1]
        return answers[same & others].mean() - answers[~same].mean()

    before = gap()
    for _ in range(15):
        above.train_on_batch(inputs, targets)
    assert gap() > before + 0.2
