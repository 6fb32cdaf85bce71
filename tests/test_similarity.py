"""Against the normalization of within-class covariance by an inverse, on made-up features."""

import dataclasses
import hashlib
import math
import os

import numpy as np
import pytest

from pairs.evaluation import metrics
from pairs.network import similarity
from pairs.network.similarity import SimilarityFit, read_similarity, write_similarity

CLASSES, FEATURES = 5, 12


def made_up(num_photos=150, seed=0, num_classes=CLASSES):
    """Features of photos that vary more in some directions than in others, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, size=num_photos)
    mixed = np.random.default_rng(99).normal(size=(FEATURES, FEATURES)) * np.arange(1, FEATURES + 1)
    centres = 8 * np.random.default_rng(98).normal(size=(num_classes, FEATURES))
    features = 3 + centres[labels] + rng.normal(size=(num_photos, FEATURES)) @ mixed
    return features.astype(np.float32), labels


def fit(features, labels, batch=7, num_classes=CLASSES):
    """Fitted batch by batch."""
    fitted = SimilarityFit(features.shape[1], num_classes)
    for start in range(0, len(features), batch):
        fitted.add(features[start : start + batch], labels[start : start + batch])
    return fitted.result("of a model")


def covariance_within(features, labels):
    """Photo by photo: the mean product of differences to the class mean."""
    total, freedom = np.zeros((features.shape[1],) * 2), 0
    for label in set(labels.tolist()):
        own = features[labels == label].astype(np.float64)
        for difference in own - own.mean(axis=0):
            total += np.outer(difference, difference)
        freedom += len(own) - 1
    return total / freedom


def expected_cosines(features, labels, first, second):
    """Cosines of Cholesky-whitened features: a root of another inverse, turned, is as good."""
    within = covariance_within(features, labels)
    added = similarity.SHRINKAGE * np.trace(within) / len(within)
    root = np.linalg.cholesky(np.linalg.inv(within + added * np.eye(len(within))))
    mean = features.astype(np.float64).mean(axis=0)
    one, other = (first - mean) @ root, (second - mean) @ root
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    return one @ other.T / lengths


def cosines(fitted, first, second):
    return fitted.unit(first) @ fitted.unit(second).T


def assert_alike(one, other):
    """Two fits say the same; the sign of an axis is nobody's choice."""
    features = made_up(seed=7)[0]
    np.testing.assert_allclose(one.unit(features), other.unit(features), atol=1e-5)
    np.testing.assert_allclose(one.centres, other.centres, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_inverse_square_root_of_the_covariance_within_classes(seed):
    features, labels = made_up(seed=seed)
    others, _ = made_up(40, seed=seed + 50)
    found = cosines(fit(features, labels), others, features)
    np.testing.assert_allclose(
        found, expected_cosines(features, labels, others, features), atol=1e-4
    )
    # Not what a plain cosine says.
    plain = similarity.unit_rows(others) @ similarity.unit_rows(features).T
    assert np.abs(found - plain).max() > 0.3


def test_of_many_directions_those_are_shrunk_in_which_photos_of_a_class_vary_most(monkeypatch):
    """The other directions stay as they are. Found by singular values of differences."""
    monkeypatch.setattr(similarity, "NUM_AXES", 3)
    features, labels = made_up()
    others, _ = made_up(40, seed=50)
    class_means = np.stack([features[labels == label].mean(axis=0) for label in range(CLASSES)])
    _, values, axes = np.linalg.svd((features - class_means[labels]).astype(np.float64))
    variances = values**2 / (len(features) - CLASSES)
    added = similarity.SHRINKAGE * variances.mean()
    gains = np.ones(FEATURES)
    gains[:3] = (added / (added + variances[:3])) ** 0.5
    seen = (others - features.mean(axis=0)) @ axes.T * gains
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    np.testing.assert_allclose(
        cosines(fit(features, labels), others, others), seen @ seen.T, atol=1e-4
    )


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_batches_and_the_order_of_photos_change_nothing(batch, monkeypatch):
    features, labels = made_up(600)
    monkeypatch.setattr(similarity, "ROWS_A_PRODUCT", 50)
    order = np.random.default_rng(1).permutation(600)
    assert_alike(fit(features[order], labels[order], batch), fit(features, labels, 600))


def test_the_centre_of_a_class_is_where_its_photos_are():
    features, labels = made_up()
    fitted = fit(features, labels)
    means = np.stack([features[labels == label].mean(axis=0) for label in range(CLASSES)])
    np.testing.assert_allclose(fitted.centres, fitted.unit(means), atol=1e-4)
    np.testing.assert_allclose(
        fitted.class_cosines(features[:9]),
        expected_cosines(features, labels, features[:9], means),
        atol=1e-4,
    )


def test_the_likelier_a_class_the_nearer_its_centre():
    features, labels = made_up()
    fitted = fit(features, labels)
    found = similarity.sharpened(fitted.class_cosines(features))
    assert found.dtype == np.float32
    for row, cosines in zip(found[:20], fitted.class_cosines(features).tolist(), strict=False):
        # Against the best class, each tenth of the cosine divides the odds by e to the third.
        odds = [math.exp(-3 * (max(cosines) - cosine) / 0.1) for cosine in cosines]
        np.testing.assert_allclose(row, np.array(odds) / sum(odds), rtol=1e-3)


def test_what_differs_within_classes_counts_less_than_what_tells_them_apart():
    """Photos of classes that the fit has never seen, told apart in spite of loud noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), 20)
    features = rng.normal(size=(1200, 40))
    features[:, :10] += 2 * rng.normal(size=(60, 10))[labels]
    features[:, 10:13] *= 10  # light and background
    features = features @ np.linalg.qr(rng.normal(size=(40, 40)))[0] + 20
    features = features.astype(np.float32)
    new = labels >= 30
    fitted = fit(features[~new], labels[~new], num_classes=30)
    first, second = metrics.sample_pairs(labels[new], 3000).T
    same = labels[new][first] == labels[new][second]
    areas = []
    for unit in (similarity.unit_rows(features[new]), fitted.unit(features[new])):
        scores = (unit[first] * unit[second]).sum(axis=1)
        areas.append(metrics.roc_auc(scores, same))
    assert areas[0] < 0.6
    assert areas[1] > 0.75


def test_rows_have_length_1_and_those_of_unreadable_photos_are_nan():
    features, labels = made_up()
    fitted = fit(features, labels)
    assert (features < 0).any()
    asked = np.concatenate([features[:5], -features[:5], np.zeros((1, FEATURES), np.float32)])
    asked = np.concatenate([asked, np.full((2, FEATURES), np.nan, np.float32)])
    found = fitted.unit(asked)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found[:-2], axis=1), 1, atol=1e-5)
    assert np.isnan(found[-2:]).all()
    assert fitted.unit(asked[:0]).shape == (0, FEATURES)
    plain = similarity.unit_rows(asked)
    np.testing.assert_allclose(np.linalg.norm(plain[:10], axis=1), 1, atol=1e-5)
    assert (plain[10] == 0).all()
    assert np.isnan(plain[-2:]).all()


def test_a_photo_at_the_mean_of_all_is_like_nothing():
    features, labels = made_up()
    fitted = fit(features, labels)
    assert np.isfinite(fitted.unit(fitted.mean[None])).all()
    np.testing.assert_allclose(fitted.class_cosines(fitted.mean[None]), 0, atol=1e-6)


def test_blocks_of_rows_change_nothing(monkeypatch):
    features, labels = made_up()
    fitted = fit(features, labels)
    whole = fitted.unit(features)
    monkeypatch.setattr(similarity, "ROWS", 11)
    np.testing.assert_allclose(fitted.unit(features), whole, atol=1e-6)


def test_a_class_without_photos_is_like_no_photo_and_changes_nothing():
    features, labels = made_up()
    fitted = fit(features, labels, num_classes=CLASSES + 2)
    assert (fitted.centres[CLASSES:] == 0).all()
    assert (fitted.class_cosines(features)[:, CLASSES:] == 0).all()
    expected = fit(features, labels)
    assert_alike(dataclasses.replace(fitted, centres=fitted.centres[:CLASSES]), expected)


@pytest.mark.parametrize("num_photos", [1, CLASSES])
def test_with_one_photo_a_class_nothing_is_shrunk(num_photos):
    features = made_up()[0]
    fitted = fit(features[:num_photos], np.arange(num_photos))
    centred = features[20:30] - features[:num_photos].mean(axis=0)
    np.testing.assert_allclose(
        fitted.unit(features[20:30]), similarity.unit_rows(centred), atol=1e-5
    )
    assert np.isfinite(fitted.centres).all()


class Trap:
    """Makes a folder when it is unpacked."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def beside_a_model(tmp_path):
    """A model file, and a similarity that was fitted for it."""
    model = tmp_path / "model.keras"
    model.write_bytes(b"a model")
    fitted = dataclasses.replace(
        fit(*made_up()), model=hashlib.sha256(model.read_bytes()).hexdigest()
    )
    write_similarity(tmp_path, fitted)
    return model, fitted


def test_what_is_written_is_read_back(beside_a_model, capsys):
    model, fitted = beside_a_model
    found = read_similarity(model)
    assert found.model == fitted.model
    for name in ("mean", "axes", "gains", "centres"):
        np.testing.assert_array_equal(getattr(found, name), getattr(fitted, name))
        assert getattr(found, name).dtype == np.float32
    features = made_up(seed=3)[0]
    np.testing.assert_array_equal(found.unit(features), fitted.unit(features))
    assert found.votes is False
    write_similarity(model.parent, dataclasses.replace(fitted, votes=True))
    assert read_similarity(model).votes is True
    assert capsys.readouterr().err == ""


def test_of_another_model_it_is_not_used_and_that_is_said(beside_a_model, capsys):
    model, _ = beside_a_model
    model.write_bytes(b"another model")
    assert read_similarity(model) is None
    assert "similarity.npz: of another model, not used" in capsys.readouterr().err


def test_without_a_file_nothing_is_said(beside_a_model, capsys):
    model, _ = beside_a_model
    (model.parent / "similarity.npz").unlink()
    assert read_similarity(model) is None
    assert capsys.readouterr().err == ""


def test_a_damaged_file_is_said_and_not_used(beside_a_model, capsys):
    model, fitted = beside_a_model
    path = model.parent / "similarity.npz"
    whole = path.read_bytes()

    def assert_damaged():
        assert read_similarity(model) is None
        printed = capsys.readouterr().err
        assert "similarity.npz: damaged" in printed
        assert len(printed.splitlines()) == 1

    for content in (b"", b"<html>", whole[: len(whole) // 2], whole[:200] + whole[300:]):
        path.write_bytes(content)
        assert_damaged()
    for name in ("mean", "gains", "centres"):
        short = getattr(fitted, name)[..., :-1]
        write_similarity(model.parent, dataclasses.replace(fitted, **{name: short}))
        assert_damaged()
    arrays = dataclasses.asdict(fitted)
    del arrays["gains"]
    np.savez(path, **arrays)
    assert_damaged()
    # Objects could run anything: they are not unpacked.
    trap = Trap(model.with_name("sprung"))
    np.savez(path, **{**arrays, "gains": np.array([trap], object)})
    assert_damaged()
    assert not trap.path.exists()
