"""The row that everybody has to beat, on features whose classes are known."""

import re

import numpy as np
import pytest
from conftest import SIZE, run_script


def make_features(seed, per_class=30):
    """Two informative features, on scales a million times apart, and one that says nothing."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], per_class)
    scales = np.array([0.001, 1000])
    centres = np.array([[0, 0], [4, 0], [0, 4]])
    informative = (centres[labels] + rng.normal(size=(len(labels), 2))) * scales
    return np.column_stack([informative, rng.normal(size=len(labels))]), labels


def test_it_tells_classes_apart_whatever_the_scales():
    from experiments.logistic import best_fit

    classifier, _ = best_fit(make_features(0), make_features(1))
    features, labels = make_features(2)
    # Of normal clouds that are four deviations apart the best rule gets about 4 % wrong.
    assert (classifier.predict(features) != labels).mean() < 0.1
    flipped = np.column_stack([-features[:, 0], features[:, 1:]])
    assert (classifier.predict(flipped) != labels).mean() > 0.3


@pytest.mark.slow
def test_the_command_judges_photos(data, tmp_path):
    flags = ["--data", data, "--test", data / "valid", "--pretrained", "none"]
    done = run_script("experiments.logistic", *flags, "--image-size", SIZE)
    assert done.returncode == 0, done.stderr
    found = re.search(r"error ([\d.]+) ± [\d.]+ \(6 photos\)", done.stdout)
    assert float(found[1]) * 6 == pytest.approx(round(float(found[1]) * 6), abs=1e-3)
