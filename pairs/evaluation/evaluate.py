"""Judges a model on photos whose class is known: numbers, tables, pictures.

metrics.json     the numbers that are printed
per_class.csv    precision, recall and F1 of every class
confusion.png    which classes are taken for which
reliability.png  how often a probability of 0.7 is right
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from pairs.errors import UserError
from pairs.evaluation import metrics, same
from pairs.evaluation.calibration import Calibration, fit_calibration
from pairs.evaluation.figures import draw_confusions, draw_reliability
from pairs.evaluation.predictions import Predictions
from pairs.evaluation.predictor import Predictor
from pairs.files import replacing, write_csv, write_json
from pairs.photos.read import Photos


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model says about photos of known class, and how right it is.

    Attributes:
        photos: the readable ones, opened as the model sees them.
        predictions: of them.
        calibrated: float64 array, shape `(photos, classes)`: probabilities with
            the fitted temperature.
        confusions: int array, shape `(classes, classes)`, true class by row.
        classes: `metrics.judge_classes(...)`.
        calibration: fitted on these photos.
        numbers: what metrics.json holds.
    """

    photos: Photos
    predictions: Predictions
    calibrated: np.ndarray
    confusions: np.ndarray
    classes: dict[str, np.ndarray]
    calibration: Calibration
    numbers: dict[str, Any]


def evaluate(predictor: Predictor, photos: Photos, predictions: Predictions) -> Evaluation:
    """Compares predictions with the classes of photos.

    Args:
        predictor: whose predictions they are.
        photos: with the predictor's typeids.
        predictions: of these photos.

    Raises:
        UserError: none of the photos can be read.
    """
    readable = np.flatnonzero(predictions.readable())
    if not len(readable):
        raise UserError(f"{photos.paths[0]}: neither this nor any other photo there can be read")
    photos = dataclasses.replace(photos.take(readable), fit=predictor.fit)
    predictions = predictions.take(readable)
    labels, probabilities = photos.labels, predictions.probabilities
    error, top5_error = metrics.errors(probabilities, labels)
    pairs = compare_pairs(predictor, predictions, labels)
    calibration = fit_calibration(probabilities, labels, predictions.likeness, pairs)
    calibrated = metrics.apply_temperature(probabilities, calibration.temperature)
    numbers: dict[str, Any] = {
        "photos": len(photos),
        "error": error.value,
        "error_standard_error": error.standard_error,
        "top5_error": top5_error.value,
        "top5_error_standard_error": top5_error.standard_error,
        "calibration_error": metrics.calibration_error(probabilities, labels),
        "temperature": calibration.temperature,
        "calibration_error_with_temperature": metrics.calibration_error(calibrated, labels),
    }
    answers = same.probability(calibration.same_known, pairs.cosine, pairs.agreement)
    numbers["pairs"] = judge_pairs(answers, pairs.same)
    if predictor.is_paired and "roc_auc" in numbers["pairs"]:
        scores = predictor.same_probabilities(predictions.features, pairs.photos, predictions.folds)
        numbers["pairs"]["pair_head_roc_auc"] = metrics.roc_auc(scores, pairs.same)
    numbers["pairs_of_new_classes"] = judge_pairs(*same.answer_for_left_out_classes(pairs))
    confusions = metrics.count_confusions(probabilities, labels)
    return Evaluation(
        photos,
        predictions,
        calibrated,
        confusions,
        metrics.judge_classes(confusions),
        calibration,
        numbers,
    )


def compare_pairs(predictor: Predictor, predictions: Predictions, labels: np.ndarray) -> same.Pairs:
    """Pairs of the photos, compared; of one fold, if each photo was judged by one fold's model."""
    unit = predictor.unit(predictions.features, predictions.folds)
    return same.compare(unit, predictions.probabilities, labels, predictions.folds)


def judge_pairs(scores: np.ndarray, is_same: np.ndarray) -> dict[str, Any]:
    """How well probabilities tell "same" from "different".

    Args:
        scores: float array, shape `(pairs,)`: the probability of "same".
        is_same: bool array, shape `(pairs,)`: whether they are of one class.

    Returns:
        number of `pairs`, `roc_auc`; `missed` (share of same-class pairs
        called different) and `false` (share of others called the same) at
        probability 0.5; the `threshold` at which both are equal, and the
        `equal_error` there. Where there is only one kind of pairs, `pairs` alone.
    """
    if is_same.all() or not is_same.any():
        return {"pairs": len(is_same)}
    threshold, equal = metrics.equal_error(scores, is_same)
    return {
        "pairs": len(is_same),
        "roc_auc": metrics.roc_auc(scores, is_same),
        "missed": float((scores[is_same] < 0.5).mean()),
        "false": float((scores[~is_same] >= 0.5).mean()),
        "threshold": threshold,
        "equal_error": equal,
    }


def print_evaluation(evaluation: Evaluation, names: dict[str, str]) -> None:
    """Prints the numbers, the worst classes and the most confused pairs.

    Args:
        evaluation: what is printed.
        names: human-readable, by typeid; may lack some.
    """
    numbers, classes = evaluation.numbers, evaluation.classes
    typeids = evaluation.photos.typeids

    def name(label):
        return printed_name(typeids[label], names)

    if warning := seen_in_words(numbers):
        print(f"\nwarning: {warning}")
    worst = metrics.worst_classes(classes)
    width = max(24, *(len(name(label)) for label in worst))
    print(f"\n{'worst classes':<{width}} {'photos':>6} {'precision':>9} {'recall':>9} {'F1':>9}")
    for label in worst:
        values = " ".join(f"{classes[key][label]:9.3f}" for key in ("precision", "recall", "f1"))
        print(f"{name(label):<{width}} {classes['photos'][label]:>6} {values}")
    print("\nmost confused")
    for a, b, a_as_b, b_as_a in metrics.most_confused(evaluation.confusions):
        print(f"{name(a)} taken for {name(b)}: {a_as_b}, the other way: {b_as_a}")
    print(
        f"\ncalibration error {numbers['calibration_error']:.4f}, "
        f"{numbers['calibration_error_with_temperature']:.4f} with the temperature "
        f"{numbers['temperature']:.3f} fitted on these photos"
    )
    pairs = numbers["pairs"]
    if "roc_auc" in pairs:
        print(
            f"same or different, fitted on these {pairs['pairs']} pairs: ROC AUC "
            f"{pairs['roc_auc']:.4f}; at 0.5, "
            f"{pairs['missed']:.4f} of the same missed, {pairs['false']:.4f} of the different "
            f"called same; at {pairs['threshold']:.4f} both error rates are "
            f"{pairs['equal_error']:.4f}"
        )
        if "pair_head_roc_auc" in pairs:
            print(f"the pair head alone: ROC AUC {pairs['pair_head_roc_auc']:.4f}")
    pairs = numbers["pairs_of_new_classes"]
    if "roc_auc" in pairs:
        print(
            f"the same with --new-classes, {pairs['pairs']} pairs of classes that its fit did not "
            f"see: ROC AUC {pairs['roc_auc']:.4f}, error {pairs['equal_error']:.4f} (the network "
            f"was trained on these classes; expect more errors on others)"
        )
    if not (numbers["error"] or warning):
        highest = metrics.highest_share(numbers["photos"])
        print(f"no photo was wrong: at 95 % confidence the error is below {highest:.4f}")
    print(
        f"error {numbers['error']:.4f}, top-5 error {numbers['top5_error']:.4f} "
        f"({numbers['photos']} photos; standard errors {numbers['error_standard_error']:.4f}, "
        f"{numbers['top5_error_standard_error']:.4f})"
    )


def seen_in_words(numbers: dict[str, Any]) -> str:
    """That the models were trained on some of the photos, as a sentence; "": they were not."""
    count = numbers.get("photos_trained_on")
    if not count:
        return ""
    return (
        f"{count} of these {numbers['photos']} photos were trained on: the error is too low, and "
        f"says nothing about new photos"
    )


def printed_name(typeid: str, names: dict[str, str]) -> str:
    """A class, human-readable: its name, if there is one, and its typeid."""
    return f"{names[typeid]} ({typeid})" if typeid in names else typeid


def write_files(evaluation: Evaluation, names: dict[str, str], folder: pathlib.Path) -> None:
    """Writes metrics.json, per_class.csv, confusion.png and reliability.png to a folder."""
    write_json(folder / "metrics.json", evaluation.numbers)
    write_per_class(evaluation, names, folder / "per_class.csv")
    with replacing(folder / "confusion.png") as temporary:
        draw_confusions(evaluation.confusions, evaluation.photos.typeids, temporary)
    with replacing(folder / "reliability.png") as temporary:
        curves = {
            "as given": evaluation.predictions.probabilities,
            f"temperature {evaluation.calibration.temperature:.2f}": evaluation.calibrated,
        }
        draw_reliability(curves, evaluation.photos.labels, temporary)


def write_per_class(evaluation: Evaluation, names: dict[str, str], file: pathlib.Path) -> None:
    """Writes one line per class: typeid, name, photos, precision, recall, f1."""
    keys = ("photos", "precision", "recall", "f1")
    rows = [
        [typeid, names.get(typeid, ""), *(evaluation.classes[key][label] for key in keys)]
        for label, typeid in enumerate(evaluation.photos.typeids)
    ]
    write_csv(file, ["typeid", "name", *keys], rows)
