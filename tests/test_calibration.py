"""What is fitted beside a model, and which model files it belongs to."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest

from pairs.evaluation import calibration, same
from pairs.evaluation.calibration import Calibration, read_calibration, write_calibration
from pairs.evaluation.judge import store_calibration
from pairs.evaluation.predictions import Predictions

FITTED = Calibration(0.7, (3.0, 0.5, -1.0), (8.0, -2.5), 0.4, 0.3, 60)
WITH_SPACE = {"model.keras": b"a model", "similarity.npz": b"a space"}


@pytest.fixture
def weights(tmp_path):
    """A folder with files that pass for a model and its similarity."""
    for name, content in WITH_SPACE.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def judged_photos(num_photos=400, seed=0, likeness=True):
    """Predictions of made-up photos, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, size=num_photos)
    logits = rng.normal(size=(num_photos, 5)) + 2 * np.eye(5)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    features = rng.normal(size=(num_photos, 6)) + 2 * np.eye(6)[labels]
    unit = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    like = rng.uniform(0.2, 0.9, size=num_photos) if likeness else None
    names = [f"{number}.jpg" for number in range(num_photos)]
    return Predictions(names, probabilities, unit, likeness=like), labels


def fit(predictions, labels):
    pairs = same.compare(predictions.features, predictions.probabilities, labels, None)
    return calibration.fit_calibration(
        predictions.probabilities, labels, predictions.likeness, pairs
    )


@pytest.mark.parametrize("likeness", [True, False])
def test_one_in_twenty_of_the_photos_of_the_fit_shows_none_of_the_classes(likeness):
    predictions, labels = judged_photos(likeness=likeness)
    shows_none = fit(predictions, labels).shows_none(predictions)
    assert shows_none.dtype == bool
    assert shows_none.sum() == pytest.approx(20, abs=1)
    # Those of the least probable first guess, unless they are like a class.
    score = predictions.probabilities.max(axis=1) * (predictions.likeness if likeness else 1)
    assert score[shows_none].max() < score[~shows_none].min()


def test_of_an_unreadable_photo_nothing_is_said():
    predictions, labels = judged_photos()
    fitted = fit(predictions, labels)
    predictions.probabilities[3] = predictions.likeness[3] = np.nan
    assert not fitted.shows_none(predictions)[3]


def test_what_was_not_fitted_refuses_no_photo_however_unlike_the_classes_it_is():
    predictions, _ = judged_photos()
    predictions.likeness[:] = -0.9
    assert not Calibration().shows_none(predictions).any()
    assert Calibration(none_below=0.01, photos=9).shows_none(predictions).all()


def test_five_percent_of_photos_to_come_are_called_none_of_the_classes():
    predictions, labels = judged_photos()
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(300):
        chosen = rng.permutation(len(labels))
        some, others = predictions.take(chosen[:40]), predictions.take(chosen[40:])
        pairs = same.compare(some.features, some.probabilities, labels[chosen[:40]], None)
        fitted = calibration.fit_calibration(
            some.probabilities, labels[chosen[:40]], some.likeness, pairs
        )
        refused.append(fitted.shows_none(others).mean())
    assert np.mean(refused) == pytest.approx(0.05, abs=0.006)  # NumPy's own quantile: 0.071


def test_the_mean_of_several_models_is_not_made_less_sure_again():
    assert Calibration(temperature=1.4, photos=9).of_mean() == Calibration(photos=9)
    assert Calibration(temperature=0.8, photos=9).of_mean().temperature == 0.8


def test_both_kinds_of_pairs_are_wrong_equally_often_from_the_threshold_on():
    predictions, labels = judged_photos()
    fitted = fit(predictions, labels)
    pairs = same.compare(predictions.features, predictions.probabilities, labels, None)
    answers = same.probability(fitted.same_known, pairs.cosine, pairs.agreement)
    wrong = (answers >= fitted.same_threshold) != pairs.same
    assert wrong[pairs.same].mean() == pytest.approx(wrong[~pairs.same].mean(), abs=0.002)
    assert wrong.mean() < 0.25
    assert fitted.photos == 400


def test_probabilities_of_pairs_come_true_once_they_are_fitted():
    """In each fifth of the pairs, as many as predicted are of one class."""
    predictions, labels = judged_photos()
    fitted = fit(predictions, labels)
    pairs = same.compare(predictions.features, predictions.probabilities, labels, None)

    def worst_gap(answers):
        fifths = np.array_split(np.argsort(answers), 5)
        return max(abs(answers[own].mean() - pairs.same[own].mean()) for own in fifths)

    both = [
        same.probability(fitted.same_known, pairs.cosine, pairs.agreement),
        same.probability(fitted.same_new, pairs.cosine),
    ]
    neutral = [
        same.probability(Calibration.same_known, pairs.cosine, pairs.agreement),
        same.probability(Calibration.same_new, pairs.cosine),
    ]
    assert max(map(worst_gap, both)) < 0.06
    assert min(map(worst_gap, neutral)) > 0.12


def test_photos_of_one_class_alone_have_no_pairs_to_fit():
    predictions, labels = judged_photos(60)
    fitted = fit(predictions, np.zeros(60, int))
    assert fitted.photos == 60
    assert (fitted.same_known, fitted.same_new) == (Calibration.same_known, Calibration.same_new)
    assert fit(predictions, np.arange(60) % 5).same_known != Calibration.same_known
    pairs = same.compare(predictions.features, predictions.probabilities, np.arange(60), None)
    fitted = calibration.fit_calibration(
        predictions.probabilities, labels, predictions.likeness, pairs
    )
    assert (fitted.same_known, fitted.same_new) == (Calibration.same_known, Calibration.same_new)
    assert fitted.same_threshold == 0.5
    assert fitted.none_below > 0
    assert not fitted.remark()
    assert fitted.remark(of_pairs=True).endswith("no class had two of the photos that were judged")
    assert Calibration().remark(of_pairs=True) == Calibration().remark() != ""
    assert not FITTED.remark(of_pairs=True)


def test_what_is_written_is_read_back(weights):
    write_calibration(weights, FITTED)
    assert read_calibration(weights) == FITTED


def test_it_counts_no_more_once_one_of_its_files_changes_or_goes(weights, capsys):
    write_calibration(weights, FITTED)
    for name, content in WITH_SPACE.items():
        (weights / name).write_bytes(content + b", another")
        assert read_calibration(weights) == Calibration()
        (weights / name).write_bytes(content)
        assert read_calibration(weights) == FITTED
    (weights / "similarity.npz").unlink()
    assert read_calibration(weights) == Calibration()
    # And one that was fitted without it, once it is there.
    write_calibration(weights, FITTED)
    assert read_calibration(weights) == FITTED
    (weights / "similarity.npz").write_bytes(b"a space")
    assert read_calibration(weights) == Calibration()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": "hot"},
        {"temperature": [1]},
        {"temperature": 0},
        {"temperature": math.nan},
        {"same_threshold": "x"},
        {"same_threshold": 7},
        {"same_known": [1, 2]},
        {"same_known": [1, 2, math.nan]},
        {"same_known": "abc"},
        {"same_known": 3},
        {"same_new": [1, 2, 3]},
        {"same_new": [1, None]},
        {"same_new": [1, math.inf]},
        {"none_below": 1.5},
        {"none_below": math.nan},
        {"none_below": "low"},
        {"photos": "many"},
        {"photos": -1},
        {"unknown": 1},
    ],
)
def test_what_is_damaged_is_said_and_not_used(weights, changed, capsys):
    write_calibration(weights, FITTED)
    path = weights / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    assert read_calibration(weights) == Calibration()
    printed = capsys.readouterr().err
    assert "calibration.json: damaged" in printed
    assert len(printed.splitlines()) == 1


def test_a_calibration_of_more_photos_is_kept_and_of_as_many_replaced(weights):
    write_calibration(weights, FITTED)
    predictor = types.SimpleNamespace(weights=weights, calibration=FITTED)
    fewer = dataclasses.replace(FITTED, temperature=0.9, photos=59)
    assert "that of 60 photos is kept" in store_calibration(predictor, fewer)
    assert read_calibration(weights) == FITTED
    as_many = dataclasses.replace(FITTED, temperature=0.9)
    said = store_calibration(predictor, as_many)
    assert said == f"calibration of 60 photos stored in {weights}"
    assert read_calibration(weights) == as_many


def test_few_photos_are_remarked_on_and_a_full_disk_does_not_end_an_evaluation(weights):
    predictor = types.SimpleNamespace(weights=weights, calibration=Calibration())
    few = dataclasses.replace(FITTED, photos=49)
    assert store_calibration(predictor, few).endswith(
        "; so few fit it badly: train.py --folds has more"
    )
    (weights / "calibration.json").unlink()
    (weights / "calibration.json").mkdir()  # nothing can be written there
    assert store_calibration(predictor, FITTED).startswith("calibration not stored: ")
