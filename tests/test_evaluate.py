import numpy as np
import pytest
from PIL import Image

from pairs.evaluation import evaluate, figures, metrics
from pairs.evaluation.calibration import Calibration
from pairs.evaluation.predictions import Predictions
from pairs.photos.read import Photos


@pytest.fixture
def evaluation():
    """Of two classes whose typeids Matplotlib would take for formulas, one of them broken."""
    typeids = ["$^$", "$5$"]
    labels = np.array([0, 1, 1], np.int32)
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    paths = [f"{number}.jpg" for number in range(3)]
    confusions = metrics.count_confusions(probabilities, labels)
    return evaluate.Evaluation(
        Photos(paths, labels, typeids),
        Predictions(paths, probabilities, np.zeros((3, 4))),
        probabilities,
        confusions,
        metrics.judge_classes(confusions),
        Calibration(),
        {},
    )


def test_a_typeid_is_drawn_as_it_is_and_not_as_a_formula(evaluation, tmp_path):
    figures.draw_confusions(evaluation.confusions, ["$^$", "$5$"], tmp_path / "one.png")
    as_typeids = np.asarray(Image.open(tmp_path / "one.png"))
    # What a formula would look like:
    figures.draw_confusions(evaluation.confusions, ["$^$", "5"], tmp_path / "two.png")
    as_formula = np.asarray(Image.open(tmp_path / "two.png"))
    assert as_typeids.shape != as_formula.shape or (as_typeids != as_formula).any()


def test_names_in_the_table_of_classes_are_no_formulas(evaluation, tmp_path):
    evaluate.write_per_class(evaluation, {"$5$": "=1+1"}, tmp_path / "per_class.csv")
    assert "\n$5$,'=1+1,2," in (tmp_path / "per_class.csv").read_text()


def test_a_typeid_that_the_font_cannot_draw_is_its_label():
    assert figures.in_its_font(["pug", "\u85cf\u7352", "\u043f\u0451\u0441", "$5$"]) == [
        *("pug", "(no. 2)", "\u043f\u0451\u0441", "$5$")
    ]
