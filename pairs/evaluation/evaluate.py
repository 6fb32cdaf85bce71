"""Judges a model on photos whose class is known: numbers, tables, pictures.

metrics.json     everything that is printed
per_class.csv    precision, recall and F1 of every class
confusion.png    which classes are taken for which
reliability.png  how often a probability of 0.7 is right
"""

import dataclasses

import numpy as np

from pairs.command_line import UserError
from pairs.evaluation import metrics
from pairs.evaluation.predictor import Calibration, Predictions
from pairs.files import replacing, write_csv
from pairs.photos.read import Photos
from pairs.training.run_folder import write_json


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model says about photos of known class, and how right it is.

    Attributes:
        photos: `photo.Photos`, the readable ones.
        predictions: `Predictions` of them.
        calibrated: float64 array, shape `(photos, classes)`: probabilities with
            the fitted temperature.
        confusions: int array, shape `(classes, classes)`, true class by row.
        classes: `metrics.judge_classes(...)`.
        calibration: `Calibration` fitted on these photos.
        numbers: dict, what metrics.json holds.
    """

    photos: Photos
    predictions: Predictions
    calibrated: np.ndarray
    confusions: np.ndarray
    classes: dict
    calibration: Calibration
    numbers: dict


def evaluate(predictor, photos):
    """Predicts photos and compares.

    Args:
        predictor: `predictor.Predictor`.
        photos: `photo.Photos` with the predictor's typeids.

    Returns:
        `Evaluation`.

    Raises:
        UserError: none of the photos can be read.
    """
    predictions = predictor.predict(photos.paths)
    readable = np.flatnonzero(predictions.readable())
    if not len(readable):
        raise UserError(f"{photos.paths[0]}: neither this nor any other photo there can be read")
    photos, predictions = photos.take(readable), predictions.take(readable)
    labels, probabilities = photos.labels, predictions.probabilities
    error, top5_error = metrics.errors(probabilities, labels)
    temperature = metrics.fit_temperature(probabilities, labels)
    calibrated = metrics.apply_temperature(probabilities, temperature)
    numbers = {
        "photos": len(photos),
        "error": error.value,
        "error_standard_error": error.standard_error,
        "top5_error": top5_error.value,
        "top5_error_standard_error": top5_error.standard_error,
        "calibration_error": metrics.calibration_error(probabilities, labels),
        "temperature": temperature,
        "calibration_error_with_temperature": metrics.calibration_error(calibrated, labels),
    }
    if predictor.is_paired:
        numbers["pairs"] = judge_pairs(predictor, predictions.features, labels)
    threshold = numbers.get("pairs", {}).get("threshold")
    confusions = metrics.count_confusions(probabilities, labels)
    return Evaluation(
        photos,
        predictions,
        calibrated,
        confusions,
        metrics.judge_classes(confusions),
        Calibration(temperature, threshold, len(photos)),
        numbers,
    )


def judge_pairs(predictor, features, labels):
    """How well the pair head tells "same" from "different".

    Returns:
        dict: number of `pairs`, `roc_auc`; `missed` (share of same-class pairs
        called different) and `false` (share of others called the same) at
        probability 0.5; the `threshold` at which both are equal, and the
        `equal_error` there. None where there is only one kind of pairs.
    """
    first, second, same = metrics.sample_pairs(labels)
    if same.all() or not same.any():
        return {"pairs": len(same), "threshold": 0.5}
    scores = predictor.same_probabilities(features[first], features[second])
    threshold, equal = metrics.equal_error(scores, same)
    return {
        "pairs": len(same),
        "roc_auc": metrics.roc_auc(scores, same),
        "missed": float((scores[same] < 0.5).mean()),
        "false": float((scores[~same] >= 0.5).mean()),
        "threshold": threshold,
        "equal_error": equal,
    }


def print_evaluation(evaluation, names):
    """Prints the numbers, the worst classes and the most confused pairs.

    Args:
        names: dict from typeid to a name for people; may lack some.
    """
    numbers, classes = evaluation.numbers, evaluation.classes
    typeids = evaluation.photos.typeids

    def name(label):
        return printed_name(typeids[label], names)

    print(f"\n{'worst classes':<24} {'photos':>6} {'precision':>9} {'recall':>9} {'F1':>9}")
    for label in metrics.worst_classes(classes):
        values = " ".join(f"{classes[key][label]:9.3f}" for key in ("precision", "recall", "f1"))
        print(f"{name(label):<24} {classes['photos'][label]:>6} {values}")
    print("\nmost confused")
    for a, b, a_as_b, b_as_a in metrics.most_confused(evaluation.confusions):
        print(f"{name(a)} and {name(b)}: {a_as_b + b_as_a} photos ({a_as_b} and {b_as_a})")
    print(
        f"\ncalibration error {numbers['calibration_error']:.4f}, "
        f"{numbers['calibration_error_with_temperature']:.4f} with the temperature "
        f"{numbers['temperature']:.3f} fitted on these photos"
    )
    pairs = numbers.get("pairs", {})
    if "roc_auc" in pairs:
        print(
            f"same or different, {pairs['pairs']} pairs: ROC AUC {pairs['roc_auc']:.4f}; at 0.5, "
            f"{pairs['missed']:.4f} of the same missed, {pairs['false']:.4f} of the different "
            f"called same; equal errors of {pairs['equal_error']:.4f} at {pairs['threshold']:.4f}"
        )
    print(
        f"error {numbers['error']:.4f}, top-5 error {numbers['top5_error']:.4f} "
        f"({numbers['photos']} photos; standard errors {numbers['error_standard_error']:.4f}, "
        f"{numbers['top5_error_standard_error']:.4f})"
    )


def printed_name(typeid, names):
    """A class for people: its name, if there is one, and its typeid."""
    return f"{names[typeid]} ({typeid})" if typeid in names else typeid


def write_files(evaluation, names, folder):
    """Writes metrics.json, per_class.csv, confusion.png and reliability.png to a folder."""
    write_json(folder / "metrics.json", evaluation.numbers)
    write_per_class(evaluation, names, folder / "per_class.csv")
    with replacing(folder / "confusion.png") as temporary:
        draw_confusions(evaluation, temporary)
    with replacing(folder / "reliability.png") as temporary:
        draw_reliability(evaluation, temporary)


def write_per_class(evaluation, names, file):
    """Writes one line a class: typeid, name, photos, precision, recall, f1."""
    keys = ("photos", "precision", "recall", "f1")
    rows = [
        [typeid, names.get(typeid, ""), *(evaluation.classes[key][label] for key in keys)]
        for label, typeid in enumerate(evaluation.photos.typeids)
    ]
    write_csv(file, ["typeid", "name", *keys], rows)


def new_figure(width, height):
    """A Matplotlib figure and its axes, without pyplot, which would look for a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def draw_confusions(evaluation, path):
    """Draws the confusion matrix, rows scaled to shares, to a PNG."""
    confusions = evaluation.confusions
    num_classes = len(confusions)
    side = min(24, max(5, 2 + 0.28 * num_classes))
    figure, axes = new_figure(side + 1, side)
    shares = confusions / np.maximum(confusions.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if num_classes <= 40:
        for row, column in zip(*np.nonzero(confusions), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(confusions[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    # Typeids only: names in any script would need their fonts.
    size = 8 if num_classes <= 60 else 4
    # parse_math: a typeid may be `$5$`, which is no formula.
    names = {"labels": evaluation.photos.typeids, "fontsize": size, "parse_math": False}
    axes.set_xticks(range(num_classes), rotation=90, **names)
    axes.set_yticks(range(num_classes), **names)
    axes.set_xlabel("guessed typeid")
    axes.set_ylabel("true typeid")
    axes.set_title("photos, coloured by share of the true class")
    figure.colorbar(image, ax=axes, shrink=0.8)
    figure.savefig(path, dpi=110, format="png")


def draw_reliability(evaluation, path):
    """Draws accuracy against confidence, as given and with the temperature, to a PNG."""
    figure, axes = new_figure(5.5, 5)
    axes.plot([0, 1], [0, 1], ":", color="grey", label="perfect")
    for label, probabilities in (
        ("as given", evaluation.predictions.probabilities),
        (f"temperature {evaluation.calibration.temperature:.2f}", evaluation.calibrated),
    ):
        count, confidence, accuracy = metrics.bin_by_confidence(
            probabilities, evaluation.photos.labels
        )
        filled = count > 0
        error = metrics.calibration_error(probabilities, evaluation.photos.labels)
        (line,) = axes.plot(
            confidence[filled], accuracy[filled], "-", label=f"{label}: error {error:.3f}"
        )
        # The larger the dot, the more photos.
        sizes = 200 * count[filled] / count.sum()
        axes.scatter(confidence[filled], accuracy[filled], s=12 + sizes, color=line.get_color())
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability of the first guess")
    axes.set_ylabel("share that is right")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")
