"""Who is asked about which photos, and what is stored and printed of that: wiring, with fakes."""

import argparse
import csv
import dataclasses
import re
import types

import numpy as np
import pytest
from PIL import Image

import predict
import train
from pairs.errors import UserError
from pairs.evaluation import calibration, evaluate, judge, same, unseen
from pairs.evaluation.calibration import Calibration
from pairs.evaluation.predictions import Predictions, average
from pairs.photos import check
from pairs.photos.check import Facts
from pairs.photos.duplicates import perceptual_hash
from pairs.photos.read import Photos
from pairs.training import out_of_fold

PATHS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def said(probabilities, **more):
    probabilities = np.array(probabilities, np.float32)
    features = np.zeros((len(probabilities), 1), np.float32)
    return Predictions(PATHS[: len(probabilities)], probabilities, features, **more)


def test_of_two_trainings_in_folds_each_is_asked_by_its_own_folds(monkeypatch):
    asked = []

    def predict_held_out(predictor, paths, digests, folds):
        asked.append((predictor.name, folds.tolist()))
        return said([[1, 0]] * 4)

    monkeypatch.setattr(unseen, "predict_held_out", predict_held_out)
    predictors = [types.SimpleNamespace(name=name, typeids=["2", "3"]) for name in "xy"]
    folds = [np.array([1, 1, 2, 2]), np.array([2, 1, 2, 1])]
    unseen.predict_together(predictors, PATHS, digests=PATHS, folds=folds)
    assert asked == [("x", [1, 1, 2, 2]), ("y", [2, 1, 2, 1])]


@pytest.mark.parametrize(
    ("num_trained_on", "words"),
    [([0, 3], "3 of these 4 .*model in y was"), ([0, None], "in y was"), ([0, 0], "several")],
)
def test_every_model_must_be_a_fair_judge(num_trained_on, words):
    predictors = [types.SimpleNamespace(weights=name) for name in "xy"]
    assert judge.why_not_fair(predictors[:1], [0], 4) is None
    assert re.search(words, judge.why_not_fair(predictors, num_trained_on, 4))


def test_the_mean_is_that_of_all_trainings():
    shares = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]
    columns = [["2", "3"], ["2", "3"], ["3", "2"]]
    found = average([said([each]) for each in shares], columns)
    np.testing.assert_allclose(found.probabilities, [[2.2 / 3, 0.8 / 3]], rtol=1e-6)
    assert found.num_trainings == 3


def test_labels_to_check_of_an_earlier_evaluation_are_gone(tmp_path, monkeypatch):
    for name in ("suspects.csv", "suspects.html"):
        (tmp_path / name).write_text("of another folder of photos")
    monkeypatch.setattr(judge, "write_files", lambda *_: None)
    monkeypatch.setattr(unseen, "find_training_photos", lambda _: None)
    monkeypatch.setattr("pairs.evaluation.report.write_report", lambda *_: None)
    evaluation = types.SimpleNamespace(predictions=said([[1, 0]]))
    judge.write_pages(evaluation, None, {}, tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_near_duplicates_are_those_that_the_training_has_found(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    shown = perceptual_hash(Image.fromarray(noise))
    photos = {"2/a.jpg": ("x", shown), "3/b.jpg": ("y", shown), "3/c.jpg": ("z", "")}
    facts = {
        name: Facts(1, 2, 3, digest, None, perceptual_hash)
        for name, (digest, perceptual_hash) in photos.items()
    }
    check.write_check(tmp_path, {"train": facts, "valid": {}})
    predictor = types.SimpleNamespace(home=tmp_path)
    assert unseen.find_near_duplicates(predictor, ["z", "x", None, "y"]) == [[1, 3]]


def test_missed_are_pairs_of_one_class_and_false_those_of_two():
    scores, is_same = (
        np.array([0.9, 0.1, 0.2, 0.3, 0.6]),
        np.array([True, True, False, False, False]),
    )
    found = evaluate.judge_pairs(scores, is_same)
    assert found["missed"] == pytest.approx(1 / 2)
    assert found["false"] == pytest.approx(1 / 3)


def test_which_class_is_taken_for_which(capsys):
    labels, guesses = np.array([0, 0, 0, 1, 1], np.int32), [1, 1, 0, 1, 0]
    probabilities = np.eye(2, dtype=np.float32)[guesses]
    photos = Photos(list("abcde"), labels, ["pug", "husky"])
    confusions = evaluate.metrics.count_confusions(probabilities, labels)
    shown = evaluate.Evaluation(
        photos,
        Predictions(photos.paths, probabilities, np.zeros((5, 1))),
        probabilities,
        confusions,
        evaluate.metrics.judge_classes(confusions),
        Calibration(),
        {
            **dict.fromkeys(("photos", "error", "top5_error", "calibration_error"), 0.5),
            **dict.fromkeys(("error_standard_error", "top5_error_standard_error"), 0.1),
            **{"temperature": 1.0, "calibration_error_with_temperature": 0.1},
            **{"pairs": {"pairs": 0}, "pairs_of_new_classes": {"pairs": 0}},
        },
    )
    evaluate.print_evaluation(shown, {})
    assert "pug taken for husky: 2, the other way: 1" in capsys.readouterr().out


def test_a_row_of_the_table_has_its_own_name_and_calibrated_probabilities(tmp_path):
    predictor = types.SimpleNamespace(typeids=["2", "3"], most_frequent=0)
    predictions = said([[0.2, 0.8], [0.8, 0.2]])
    fitted = Calibration(temperature=0.5)
    names = {"2": "pug", "3": "husky"}
    predict.write_table(predictor, predictions, fitted, names, tmp_path / "p.csv")
    rows = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()[1:]]
    sure = 0.8**2 / (0.8**2 + 0.2**2)
    for row, expected in zip(rows, (["a", "3", "husky"], ["b", "2", "pug"]), strict=True):
        assert row[:3] == expected
        assert float(row[5]) == pytest.approx(sure, abs=1e-6)


def test_what_is_printed_of_a_photo_is_calibrated(capsys):
    predictor = types.SimpleNamespace(typeids=["2", "3"])
    predict.print_guesses(predictor, said([[0.2, 0.8]]), Calibration(temperature=0.5), {})
    assert capsys.readouterr().out.splitlines()[1].split() == ["0.9412", "3"]


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """`train.finish_folds` on made-up answers; what it stores, and the pairs that it compares."""
    rng = np.random.default_rng(0)
    count = 400
    labels = np.sort(rng.integers(0, 4, count)).astype(np.int32)
    # Too sure by far: half of the guesses are wrong.
    guesses = np.where(rng.random(count) < 0.5, labels, rng.integers(0, 4, count))
    probabilities = (0.01 + 0.96 * np.eye(4)[guesses]).astype(np.float32)
    unit = rng.normal(size=(count, 8)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    pool = Photos([f"{n}.jpg" for n in range(count)], labels, list("abcd"))
    found = out_of_fold.OutOfFold(
        *(pool, 1 + np.arange(count) % 2, probabilities, unit),
        likeness=rng.uniform(0.2, 0.9, count).astype(np.float32),
    )
    compared, stored = [], []
    compare = same.compare

    def noted(*words):
        compared.append(compare(*words))
        return compared[-1]

    monkeypatch.setattr(same, "compare", noted)
    monkeypatch.setattr(out_of_fold, "gather", lambda *_: found)
    monkeypatch.setattr(out_of_fold, "write_results", lambda *_: None)
    monkeypatch.setattr(calibration, "read_calibration", lambda _: Calibration())
    monkeypatch.setattr(calibration, "write_calibration", lambda _, fitted: stored.append(fitted))
    train.finish_folds(tmp_path, pool)
    return found, compared[0], stored[0]


def test_folds_are_compared_within_a_fold_and_the_mean_is_not_softened_twice(finished):
    found, pairs, stored = finished
    assert (found.folds[pairs.photos[:, 0]] == found.folds[pairs.photos[:, 1]]).all()
    alone = calibration.fit_calibration(
        found.probabilities, found.photos.labels, found.likeness, pairs
    )
    assert alone.temperature > 1.5
    assert stored == dataclasses.replace(alone, temperature=1.0)


def test_of_the_photos_of_folds_a_twentieth_is_refused(finished):
    found, _, stored = finished
    refused = stored.shows_none(
        Predictions(found.photos.paths, found.probabilities, None, likeness=found.likeness)
    )
    assert refused.mean() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("folds", "kept"), [(None, 1.4), (np.array([1, 1, 2, 2]), 1.0)])
def test_only_the_mean_of_folds_gets_no_temperature_above_1(folds, kept, monkeypatch, capsys):
    predictor = types.SimpleNamespace(typeids=["2", "3", "4"], weights="w", is_plain=True)
    photos = Photos(PATHS, np.array([0, 0, 1, 1], np.int32), predictor.typeids)
    evaluation = types.SimpleNamespace(
        calibration=Calibration(temperature=1.4, photos=4),
        predictions=said([[1, 0, 0]] * 4, folds=folds),
        numbers={},
    )
    answers = {
        unseen: {
            "find_photos_to_judge": photos,
            "find_digests": PATHS,
            "find_folds": folds,
            "count_trained_on": 0,
            "predict_together": None,
        },
        judge: {"evaluate": evaluation, "print_evaluation": None},
    }
    for module, functions in answers.items():
        for name, answer in functions.items():
            monkeypatch.setattr(module, name, lambda *_, answer=answer, **__: answer)
    stored = []
    monkeypatch.setattr(judge, "store_calibration", lambda _, fitted: stored.append(fitted))
    judge.judge([predictor], "folder", {}, None, 1)
    assert stored[0].temperature == kept
    assert "classes without a photo to judge on: 1, e.g. '4'" in capsys.readouterr().out


def test_photos_that_cannot_be_read_are_not_judged():
    shares = [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [np.nan] * 2, [0.4, 0.6]]
    shares = np.array(shares, np.float32)
    photos = Photos(list("abcde"), np.array([0, 0, 1, 1, 1], np.int32), ["2", "3"])
    judge_of_pairs = types.SimpleNamespace(
        fit="squash", is_paired=False, unit=lambda features, folds: features
    )
    features = np.eye(5, dtype=np.float32)
    found = evaluate.evaluate(judge_of_pairs, photos, Predictions(photos.paths, shares, features))
    assert found.photos.paths == list("abce")
    assert (found.numbers["photos"], found.numbers["error"]) == (4, 0.25)
    assert found.classes["photos"].tolist() == [2, 2]
    none = Predictions(photos.paths, shares * np.nan, features)
    with pytest.raises(UserError, match="neither this nor any other photo"):
        evaluate.evaluate(judge_of_pairs, photos, none)


def test_of_many_classes_the_five_likeliest_are_told_and_none_of_an_unreadable_photo(
    tmp_path, capsys
):
    predictor = types.SimpleNamespace(typeids=list("abcdefg"), most_frequent=3)
    shares = [0.05, 0.3, 0.1, 0.25, 0.15, 0.12, 0.03]
    table = tmp_path / "p.csv"
    predict.write_table(predictor, said([shares, [np.nan] * 7]), Calibration(), {}, table)
    with table.open(newline="") as file:
        one, unreadable = csv.DictReader(file)
    assert [one[f"typeid_{place}"] for place in range(1, 6)] == list("bdefc")
    assert "typeid_6" not in one
    # The submission needs a class: the most frequent one.
    assert unreadable["typeid"] == "d"
    assert (unreadable["typeid_1"], unreadable["probability_5"]) == ("", "")
    predict.print_guesses(predictor, said([shares]), Calibration(), {})
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == list("bdefc")


def test_a_submission_says_where_several_photos_share_an_image_id(tmp_path, capsys):
    for name in ("test/x.jpg", "test/x.png", "test/sub/x.jpg", "test/y.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    predictor = types.SimpleNamespace(
        typeids=["2"],
        most_frequent=0,
        predict=lambda paths, *_, **__: Predictions(paths, np.ones((len(paths), 1)), None),
    )
    out = tmp_path / "predict.txt"
    flags = argparse.Namespace(test=str(tmp_path / "test"), out=out, csv=None, features=None)
    predict.predict_folder([predictor], flags, {})
    assert [line.split("\t")[1] for line in out.read_text().splitlines()] == ["x", "x", "x", "y"]
    assert "image ids that several photos share: 1, e.g. 'x'" in capsys.readouterr().out


def test_a_head_that_a_model_does_not_have_is_refused(tmp_path):
    facts = {"typeids": ["2"], "weights": tmp_path, "is_paired": False, "has_ended": True}
    softmax = types.SimpleNamespace(**facts)
    with pytest.raises(UserError, match=r"--head first: .* with --loss softmax: one head"):
        predict.check_models([softmax], argparse.Namespace(head="first"))
    predict.check_models([softmax], argparse.Namespace(head="mean"))


def test_names_are_read_from_what_a_windows_editor_writes(tmp_path):
    (tmp_path / "names.txt").write_bytes("\ufeff10\tPug\r\n2\tAlabai\r\n".encode())
    assert predict.read_names(tmp_path / "names.txt") == {"10": "Pug", "2": "Alabai"}
