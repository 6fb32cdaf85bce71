"""Against counting by hand, and against definitions written out in loops."""

import collections
import itertools
import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairs.evaluation import metrics


def random_predictions(num_photos=300, num_classes=7, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, size=num_photos)
    logits = rng.normal(size=(num_photos, num_classes)) + 2 * np.eye(num_classes)[labels]
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def test_errors_by_hand():
    probabilities = np.array(
        [[0.5, 0.2, 0.1, 0.1, 0.06, 0.04], [0.04, 0.5, 0.2, 0.1, 0.1, 0.06]] * 2
    )
    error, top5_error = metrics.errors(probabilities, np.array([0, 0, 5, 1]))
    # Right, sixth, sixth, right.
    assert (error.value, top5_error.value) == (0.5, 0.5)
    assert error.standard_error == pytest.approx(0.25)  # sqrt(0.5 * 0.5 / 4)
    error, top5_error = metrics.errors(probabilities, np.array([1, 2, 1, 2]))
    assert (error.value, top5_error.value) == (1, 0)


def test_class_tables_are_what_counting_gives():
    probabilities, labels = random_predictions()
    guesses = probabilities.argmax(axis=1)
    judged = metrics.judge_classes(metrics.count_confusions(probabilities, labels))
    for label in range(7):
        right = sum(g == label == t for g, t in zip(guesses, labels, strict=True))
        precision, recall = right / (guesses == label).sum(), right / (labels == label).sum()
        assert judged["precision"][label] == pytest.approx(precision)
        assert judged["recall"][label] == pytest.approx(recall)
        assert judged["f1"][label] == pytest.approx(2 * precision * recall / (precision + recall))
    worst = metrics.worst_classes(judged, 3)
    assert [judged["f1"][label] for label in worst] == sorted(judged["f1"])[:3]


def test_classes_without_photos_or_guesses_do_not_disturb():
    confusions = np.array([[0, 0, 0], [2, 1, 0], [3, 0, 0]])
    judged = metrics.judge_classes(confusions)
    assert math.isnan(judged["f1"][0])
    assert judged["precision"][2] == judged["f1"][2] == 0
    assert metrics.worst_classes(judged) == [2, 1]
    assert metrics.most_confused(confusions) == [(2, 0, 3, 0), (1, 0, 2, 0)]


def test_calibration_error_is_the_weighted_gap_of_the_bins():
    probabilities, labels = random_predictions()
    right = probabilities.argmax(axis=1) == labels
    confidence = probabilities.max(axis=1)
    expected = 0
    for number in range(15):
        inside = (confidence >= number / 15) & (confidence < (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert metrics.calibration_error(probabilities, labels) == pytest.approx(expected)
    certain = np.eye(4)[[0, 1, 2, 3]]
    assert metrics.calibration_error(certain, np.array([0, 1, 2, 0])) == pytest.approx(0.25)


@pytest.mark.parametrize("wrong", [0.4, 1.0, 3.0])
def test_the_fitted_temperature_undoes_a_known_one(wrong):
    """Labels are drawn from the very probabilities, which are then made too sure or unsure."""
    rng = np.random.default_rng(5)
    logits = 2 * rng.normal(size=(20_000, 6))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    distorted = true**wrong / (true**wrong).sum(axis=1, keepdims=True)
    temperature = metrics.fit_temperature(distorted, labels)
    assert temperature == pytest.approx(wrong, rel=0.03)
    calibrated = metrics.apply_temperature(distorted, temperature)
    np.testing.assert_allclose(calibrated, true, atol=0.02)
    assert metrics.calibration_error(calibrated, labels) < 0.015


def test_of_very_many_photos_some_of_every_class_fit_the_temperature(monkeypatch):
    """Photos come sorted by class, and a model may be too sure of some classes only."""
    rng = np.random.default_rng(5)
    logits = 2 * rng.normal(size=(40_000, 4))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > rng.random((40_000, 1))).argmax(axis=1)
    order = np.argsort(labels, kind="stable")
    labels, given = labels[order], true[order] ** np.where(labels[order] < 2, 0.5, 2)[:, None]
    given /= given.sum(axis=1, keepdims=True)
    of_all = metrics.fit_temperature(given, labels)
    monkeypatch.setattr(metrics, "MOST_FITTED", 20_000)  # 5,000 photos
    fitted = metrics.fit_temperature(given, labels)
    assert fitted == pytest.approx(of_all, rel=0.05)
    assert fitted != of_all


def test_a_model_that_is_always_right_gets_a_finite_temperature():
    unsure = np.eye(3)[np.arange(300) % 3] * 0.1 + 0.9 / 3
    right = np.arange(300) % 3
    assert 0.05 < metrics.fit_temperature(unsure, right) < 0.3
    assert 3 < metrics.fit_temperature(unsure, (right + 1) % 3) < 20


def test_few_photos_without_an_error_do_not_make_a_model_sure_of_everything():
    """A model that is calibrated as it is, judged on few photos: it must not be made worse."""

    def draw(num_photos, rng):
        logits = rng.normal(size=(num_photos, 20))
        logits[np.arange(num_photos), rng.integers(0, 20, num_photos)] += rng.gamma(
            6, 1.3, num_photos
        )
        true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels = (true.cumsum(axis=1) > rng.random((num_photos, 1))).argmax(axis=1)
        return true, labels

    def loss(probabilities, labels, temperature):
        scaled = metrics.apply_temperature(probabilities, temperature)
        return -np.log(scaled[np.arange(len(labels)), labels]).mean()

    many = draw(20_000, np.random.default_rng(0))
    few = [draw(40, np.random.default_rng(seed)) for seed in range(1, 40)]
    losses = [loss(*many, metrics.fit_temperature(*own)) for own in few]
    without_error = [(own[0].argmax(axis=1) == own[1]).all() for own in few]
    assert any(without_error)
    assert max(losses) < 1.35 * loss(*many, 1)


def test_where_no_photo_is_wrong_the_highest_share_is_about_three_of_them():
    assert metrics.highest_share(1000) == pytest.approx(3 / 1000, rel=0.01)
    rng = np.random.default_rng(0)
    share = metrics.highest_share(30)
    assert (rng.random((20_000, 30)) < share).any(axis=1).mean() == pytest.approx(0.95, abs=0.005)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30), st.integers(1, 12))
def test_sampled_pairs_are_balanced_and_each_is_there_once(labels, most):
    labels = np.array(labels)
    first, second = metrics.sample_pairs(labels, most).T
    same = labels[first] == labels[second]
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(first)
    assert (first < second).all()
    possible = list(itertools.combinations(labels.tolist(), 2))
    positives = min(most, sum(a == b for a, b in possible))
    assert same.sum() == positives
    assert (~same).sum() == min(positives, sum(a != b for a, b in possible))


def test_roc_auc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 20, size=60) / 20  # with ties
    positive = rng.random(60) < 0.4
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in scores[positive]
        for b in scores[~positive]
    ]
    assert metrics.roc_auc(scores, positive) == pytest.approx(np.mean(wins))
    assert math.isnan(metrics.roc_auc(scores, np.ones(60, bool)))


def test_at_the_threshold_of_equal_errors_both_are_equal():
    rng = np.random.default_rng(4)
    positive = rng.random(4000) < 0.5
    scores = rng.normal(size=4000) + positive
    threshold, error = metrics.equal_error(scores, positive)
    missed, false = (scores[positive] < threshold).mean(), (scores[~positive] >= threshold).mean()
    assert missed == pytest.approx(false, abs=0.002)
    assert error == pytest.approx((missed + false) / 2)
    assert threshold == pytest.approx(0.5, abs=0.1)  # halfway between the two normals


def test_where_scores_part_both_kinds_the_threshold_is_amid_them():
    scores, positive = np.array([0.1, 0.02, 0.95, 0.99], np.float32), np.array([0, 0, 1, 1], bool)
    threshold, error = metrics.equal_error(scores, positive)
    assert error == 0
    assert threshold == pytest.approx((0.1 + 0.95) / 2)
    assert metrics.equal_error(np.array([0.5, 0.5]), np.array([True, False]))[0] == 0.5


@given(st.integers(0, 10_000))
def test_errors_count_whose_class_is_not_ranked_first_or_among_the_first_five(seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 4, (30, 9)) / 10  # with ties
    labels = rng.integers(0, 9, 30)
    order = metrics.rank_classes(probabilities)
    assert (order[:, 0] == probabilities.argmax(axis=1)).all()
    missed = [label != row[0] for label, row in zip(labels, order, strict=True)]
    missed_all = [label not in row[:5] for label, row in zip(labels, order, strict=True)]
    error, top5_error = metrics.errors(probabilities, labels)
    assert error.value == pytest.approx(np.mean(missed))
    assert top5_error.value == pytest.approx(np.mean(missed_all))


def check_pairs(labels, most):
    first, second = metrics.sample_pairs(labels, most).T
    same = labels[first] == labels[second]
    assert same.sum() == (~same).sum() == most
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 2 * most
    return first, second, same


@pytest.mark.parametrize(
    ("counts", "most"), [((4000, 4000), 10_000), ((10_000, 1), 10_000), ((1_000_000, 3), 10_000)]
)
def test_sampling_pairs_takes_the_time_and_memory_of_the_pairs_asked_for(counts, most):
    labels = np.repeat(np.arange(len(counts)), counts)
    tracemalloc.start()
    start = time.process_time()
    check_pairs(labels, most)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All pairs of two classes of 4,000 are 16 million, 256 MB.
    assert peak < 20e6 + 80 * len(labels)
    assert seconds < 20


def test_every_pair_is_as_likely_to_be_sampled():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    seen = collections.Counter()
    for seed in range(3000):
        first, second = metrics.sample_pairs(labels, 2, seed).T
        seen.update(zip(first.tolist(), second.tolist(), strict=True))
    assert len(seen) == 21
    same = {pair: n for pair, n in seen.items() if labels[pair[0]] == labels[pair[1]]}
    different = {pair: n for pair, n in seen.items() if pair not in same}
    for counts in (same, different):  # 7 and 14 pairs, 2 of each kind drawn 3,000 times
        expected = 6000 / len(counts)
        assert max(abs(n - expected) for n in counts.values()) < 5 * expected**0.5


def test_equals_are_ranked_by_label_however_many_there_are():
    """NumPy's default sort keeps the order of equals only in short rows."""
    even = np.full((2, 100), 0.01)
    assert metrics.rank_classes(even).tolist() == 2 * [list(range(100))]
    classes = {"f1": np.full(100, 0.5), "photos": np.ones(100, int)}
    assert metrics.worst_classes(classes) == list(range(10))
    confusions = np.ones((30, 30), int)
    assert metrics.most_confused(confusions) == [(0, other, 1, 1) for other in range(1, 11)]


def test_a_class_of_one_photo_or_one_guess_counts_in_full():
    confusions = metrics.count_confusions(np.eye(3)[[0, 1, 1]], np.array([0, 1, 0]))
    assert confusions.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert confusions.dtype == int
    judged = metrics.judge_classes(np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0]]))
    assert judged["precision"][:2].tolist() == [1, 0]
    assert judged["recall"][:2].tolist() == [1, 0]
    assert judged["f1"][:2].tolist() == [1, 0]
    for key in ("precision", "recall", "f1"):
        assert judged[key].dtype == float
        assert math.isnan(judged[key][2])
    # Guessed but never there: no precision either, and no warning of a division.
    judged = metrics.judge_classes(np.array([[0, 1], [0, 0]]))
    assert math.isnan(judged["precision"][1])


def test_bins_are_of_equal_width_and_one_belongs_to_the_last():
    probabilities = np.array([[0.05, 0.95], [1.0, 0.0], [0.55, 0.45], [0.5, 0.5]])
    labels = np.array([1, 1, 0, 0])
    count, confidence, accuracy = metrics.bin_by_confidence(probabilities, labels, num_bins=10)
    assert count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert confidence[[5, 9]].tolist() == pytest.approx([0.525, 0.975])
    assert accuracy[[5, 9]].tolist() == [1.0, 0.5]
    assert metrics.calibration_error(probabilities, labels, num_bins=10) == pytest.approx(0.475)
    # Two bins of a half: 0.55 is right and 0.65 wrong, both in the upper one.
    close = np.array([[0.55, 0.45], [0.65, 0.35]])
    wide = metrics.calibration_error(close, np.array([0, 1]), num_bins=2)
    assert wide == pytest.approx(0.1)
    narrow = metrics.calibration_error(close, np.array([0, 1]), num_bins=10)
    assert narrow == pytest.approx((0.45 + 0.65) / 2)
    one = metrics.calibration_error(np.array([[0.8, 0.2]]), np.array([0]))
    assert one == pytest.approx(0.2)


def test_pairs_of_a_seed_are_always_the_same():
    labels = np.arange(400) % 4
    assert metrics.sample_pairs(labels).shape == (20_000, 2)
    np.testing.assert_array_equal(metrics.sample_pairs(labels), metrics.sample_pairs(labels))
    some, others = (metrics.sample_pairs(labels, 100, seed) for seed in (1, 2))
    assert (some != others).any()


def test_temperature_works_on_half_precision_and_on_certainty():
    sure = np.array([[1.0, 0.0], [0.5, 0.5]], np.float16)
    sharper = metrics.apply_temperature(sure, 0.05)
    np.testing.assert_allclose(sharper, [[1.0, 0.0], [0.5, 0.5]], atol=1e-200)
    assert metrics.apply_temperature(sure, 1.0).dtype == np.float64
