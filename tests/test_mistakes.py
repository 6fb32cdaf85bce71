"""Which photos, maps and numbers a report shows: wiring, with fakes for networks."""

import re
import types

import numpy as np
import pytest
from conftest import make_photo

from pairs.errors import UserError
from pairs.evaluation import evaluate, heat_maps, metrics, mistakes, report
from pairs.evaluation.calibration import Calibration
from pairs.evaluation.predictions import Predictions
from pairs.photos.read import Photos

# No such files: a report shows them grey.
GONE = ["gone/a.jpg", "gone/b.jpg", "gone/c.jpg", "gone/d.jpg"]


def evaluation_of(labels, shares, calibrated=None, **more):
    photos = Photos(GONE[: len(labels)], np.array(labels, np.int32), ["2", "10", "11"])
    shares = np.array(shares)
    return evaluate.Evaluation(
        photos,
        Predictions(photos.paths, shares, np.zeros((len(labels), 1)), **more),
        shares if calibrated is None else calibrated,
        None,
        {},
        Calibration(none_below=0.45),
        {},
    )


def test_a_heat_map_is_of_the_class_that_is_asked_for_and_of_the_folds_own_model(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("pairs.network.parts.class_map_model", lambda model: model)
    models = [  # each says of one row, two places, two classes
        types.SimpleNamespace(predict_on_batch=lambda _, said=said: np.array([[said]], float))
        for said in ([[4, -1], [2, 3]], [[0, 1], [2, 1]])
    ]
    make_photo(tmp_path / "a.png", (9, 9, 9), 0)
    predictor = types.SimpleNamespace(models=models, image_size=9, fit="squash")
    found = heat_maps.find_heat_maps(
        predictor, [str(tmp_path / "a.png")] * 4, np.array([0, 1, 0, 0]), np.array([1, 1, 2, 0])
    )
    assert [each.tolist() for each in found] == [[[1, 0.5]], [[0, 1]], [[0, 1]], [[1, 1]]]

    def full(_):
        raise MemoryError

    models[0].predict_on_batch = full
    with pytest.raises(UserError, match="out of memory with one photo: end"):
        heat_maps.find_heat_maps(predictor, [str(tmp_path / "a.png")], np.array([0]))


def test_the_surest_mistakes_come_first_with_maps_of_the_class_that_was_said(monkeypatch):
    asked = []

    def find_heat_maps(predictor, paths, labels, folds):
        asked.append((paths, labels.tolist(), folds))
        return [np.zeros((2, 2))] * len(paths)

    monkeypatch.setattr(mistakes, "find_heat_maps", find_heat_maps)
    monkeypatch.setattr(mistakes, "find_neighbours", lambda _, features, some: [[]] * len(features))
    shares = [[0.95, 0.03, 0.02], [0.9, 0.06, 0.04], [0.005, 0.005, 0.99], [0.2, 0.6, 0.2]]
    found = mistakes.describe_mistakes(evaluation_of([0, 1, 0, 2], shares), None, None)
    assert asked == [([GONE[2], GONE[1], GONE[3]], [2, 0, 1], None)]
    assert [mistake["top"][0] for mistake in found] == [[2, 0.99], [0, 0.9], [1, 0.6]]
    # Of the gallery, which has all four by the probability of the class that was said.
    assert [mistake["photo"] for mistake in found] == [0, 2, 3]


def test_beside_a_mistake_stand_the_nearest_photos_of_its_own_fold(monkeypatch):
    monkeypatch.setattr(mistakes, "describe_neighbour", lambda _, index: index)
    features = np.array([[0], [0.1], [0.3], [0.2], [5], [9]])
    evaluation = types.SimpleNamespace(
        photos=None, predictions=types.SimpleNamespace(features=features)
    )
    folds = np.array([1, 2, 1, 1, 1, 1])
    assert mistakes.find_held_out_neighbours(evaluation, folds, [0]) == [[3, 2, 4]]


def test_a_number_of_the_most_confused_leads_to_its_own_cell():
    evaluation = types.SimpleNamespace(confusions=np.array([[5, 1], [2, 9]]))
    page = report.confused_table(evaluation, ["pug", "a<b"])
    cells = re.findall(r'data-cell="(\d),(\d)"[^>]*>(\d)<', page)
    assert cells == [("1", "0", "2"), ("0", "1", "1")]
    assert "a<b" not in page


def test_the_page_has_the_surest_photo_first_and_counts_the_most_unlike_from_one():
    shares = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
    sharper = metrics.apply_temperature(shares, 0.5)
    evaluation = evaluation_of([0, 1, 1], shares, sharper, likeness=np.array([0.9, 0.1, 0.5]))
    shown = report.describe_photos(evaluation, 1)
    keys = ("name", "label", "guess", "probability", "none")
    assert [tuple(photo[key] for key in keys) for photo in shown] == [
        ("b.jpg", 1, 0, 0.9878, 1),  # 0.9**2 / (0.9**2 + 0.1**2)
        ("c.jpg", 1, 1, 0.9412, 2),
        ("a.jpg", 0, 0, 0.6923, 0),
    ]
