"""One page to look at after an evaluation: `index.html`, with everything in it.

No network is needed and none is asked: thumbnails are embedded, and the page
forbids itself anything else. Names of classes and files are data in it, never
markup. The page itself (layout, style, what a click does) is `report.html`.
"""

import base64
import dataclasses
import html
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from pairs.errors import UserError
from pairs.evaluation import metrics
from pairs.evaluation.calibration import class_scores
from pairs.evaluation.evaluate import Evaluation, printed_name
from pairs.evaluation.figures import overlay, thumbnail
from pairs.evaluation.heat_maps import find_heat_maps
from pairs.evaluation.page import Markup, fill_template, script_json, table
from pairs.evaluation.predictor import Predictor
from pairs.evaluation.suspects import nearest
from pairs.files import write_text
from pairs.network.weights_folder import CURVES, model_files
from pairs.photos.read import Photos, open_photo, read_ahead

# Sides in pixels. 2,000 thumbnails of 64 pixels take about 3 MB of the page.
THUMBNAIL, CARD, NEIGHBOUR = 64, 176, 88
MISTAKES = 24


def write_report(
    evaluation: Evaluation,
    predictor: Predictor,
    trained_on: Photos | None,
    names: dict[str, str],
    folder: pathlib.Path,
    num_suspects: int | None = None,
) -> None:
    """Writes `folder/index.html`.

    Args:
        evaluation: what is reported.
        predictor: behind it; its weights folder tells of the run.
        trained_on: the photos of its training, if they are there.
        names: human-readable, by typeid.
        folder: holds the evaluation's pictures.
        num_suspects: labels to check in `folder/suspects.html`, which is linked
            then; None: there is no such page.
    """
    typeids = evaluation.photos.typeids
    classes = [printed_name(typeid, names) for typeid in typeids]
    data = {
        "classes": classes,
        "photos": describe_photos(evaluation, predictor.workers),
        "mistakes": describe_mistakes(evaluation, predictor, trained_on),
    }
    numbers = evaluation.numbers
    page = fill_template(
        "report.html",
        title=html.escape(f"{len(classes)} classes, error {numbers['error']:.4f}"),
        subtitle=html.escape(judged_in_words(evaluation, predictor)),
        near=html.escape(near_in_words(evaluation)),
        suspects=suspects_link(num_suspects),
        tiles=number_tiles(numbers),
        classes=class_table(evaluation, classes),
        confused=confused_table(evaluation, classes),
        trust=html.escape(trust_in_words(numbers)),
        reliability=embed(folder / "reliability.png", "Accuracy against confidence"),
        curves="".join(
            embed(path.with_name(CURVES), "Training curves")
            for path in model_files(predictor.weights)
        ),
        settings=settings_table(predictor.settings),
        data=script_json(data),
    )
    write_text(folder / "index.html", page)


def judged_in_words(evaluation: Evaluation, predictor: Predictor) -> str:
    """What was judged, by what, as a sentence."""
    count, num_models = len(evaluation.photos), len(predictor.models)
    folds, num_trainings = evaluation.predictions.folds, evaluation.predictions.num_trainings
    if num_trainings > 1:
        return f"{count} photos judged by the mean of {num_trainings} trainings"
    if folds is None:
        models = f"the mean of {num_models} models" if num_models > 1 else "the model"
        return f"{count} photos judged by {models} in {predictor.weights}"
    text = (
        f"{count} photos, each judged by the one of {num_models} models in {predictor.weights} "
        f"that has not seen it"
    )
    num_new = int((folds == 0).sum())
    return f"{text}; {num_new} that none of them has seen, by their mean" if num_new else text


def near_in_words(evaluation: Evaluation) -> str:
    """Which photos stand beside a mistake, as the end of a sentence."""
    if evaluation.predictions.folds is None:
        return "the nearest training photos"
    return "the nearest of the photos that the same model has not seen"


def suspects_link(num_suspects: int | None) -> str:
    """The way to the page beside this one, if there is one."""
    if num_suspects is None:
        return ""
    labels = "1 label" if num_suspects == 1 else f"{num_suspects} labels"
    return f'<a href="suspects.html">{labels} to check</a>'


def open_as_seen(photos: Photos, index: int, side: int) -> Image.Image:
    """A photo as the network saw it; grey if it cannot be read any more.

    Never `photos.open`: another photo would stand under its name.
    """
    try:
        return open_photo(photos.paths[index], side, photos.fit)
    except UserError:
        return Image.new("RGB", (side, side), "grey")


def describe_photos(evaluation: Evaluation, workers: int) -> list[dict[str, Any]]:
    """What the page needs of every photo, the most confident first; read by so many threads.

    `none` is the photo's place, from 1, among those that look like none of the
    classes, the most unlike first; 0 for all others.
    """
    photos, calibrated = evaluation.photos, evaluation.calibrated
    guesses = evaluation.predictions.probabilities.argmax(axis=1)
    scores = class_scores(evaluation.predictions.probabilities, evaluation.predictions.likeness)
    places = np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1
    places[scores >= evaluation.calibration.none_below] = 0
    order = confident_first(evaluation)

    def read(index):
        return thumbnail(open_as_seen(photos, index, THUMBNAIL * 2), THUMBNAIL)

    images = read_ahead(read, order, workers)
    return [
        {
            "label": int(photos.labels[index]),
            "guess": int(guesses[index]),
            "probability": round(float(calibrated[index, guesses[index]]), 4),
            "name": pathlib.Path(photos.paths[index]).name.encode("utf-8", "replace").decode(),
            "none": int(places[index]),
            "image": image,
        }
        for index, image in zip(order, images, strict=True)
    ]


def confident_first(evaluation: Evaluation) -> list[int]:
    """Indices of the photos, by the probability of their first guess."""
    return np.argsort(-evaluation.calibrated.max(axis=1), kind="stable").tolist()


def describe_mistakes(
    evaluation: Evaluation, predictor: Predictor, trained_on: Photos | None
) -> list[dict[str, Any]]:
    """The most confident mistakes, with their heat maps and nearest training photos."""
    photos, predictions = evaluation.photos, evaluation.predictions
    guesses = predictions.probabilities.argmax(axis=1)
    order = confident_first(evaluation)
    chosen = [index for index in order if guesses[index] != photos.labels[index]][:MISTAKES]
    if not chosen:
        return []
    paths = [photos.paths[index] for index in chosen]
    folds = predictions.folds
    own_folds = None if folds is None else folds[chosen]
    heats = find_heat_maps(predictor, paths, guesses[chosen], own_folds)
    if folds is None:
        neighbours = find_neighbours(predictor, predictions.features[chosen], trained_on)
    else:
        neighbours = find_held_out_neighbours(evaluation, folds, chosen)
    mistakes = []
    for index, heat, near in zip(chosen, heats, neighbours, strict=True):
        image = open_as_seen(photos, index, CARD)
        top = metrics.rank_classes(evaluation.calibrated[index : index + 1])[0, :3]
        mistakes.append(
            {
                "photo": order.index(index),
                "image": thumbnail(image, CARD),
                "heat": thumbnail(overlay(image, heat), CARD),
                "top": [[int(k), round(float(evaluation.calibrated[index, k]), 4)] for k in top],
                "near": near,
            }
        )
    return mistakes


def find_neighbours(
    predictor: Predictor, features: np.ndarray, photos: Photos | None
) -> list[list[dict[str, Any]]]:
    """The nearest training photos of some features.

    Args:
        predictor: whose features.
        features: float array, shape `(queries, features)`.
        photos: of the training; None: there are none to look at.

    Returns:
        for each feature at most `suspects.NEIGHBOURS` descriptions.
    """
    if photos is None:
        print("no training photos available: the report shows no neighbours")
        return [[] for _ in features]
    print(f"features of {len(photos)} training photos, for the nearest ones")
    trained = predictor.predict(photos.paths)
    near = [nearest(trained.features, feature, trained.readable()) for feature in features]
    shown = dataclasses.replace(photos, fit=predictor.fit)
    return [[describe_neighbour(shown, index) for index in indices] for indices in near]


def find_held_out_neighbours(
    evaluation: Evaluation, folds: np.ndarray, chosen: list[int]
) -> list[list[dict[str, Any]]]:
    """The nearest photos among those of the same fold, which its model has not seen either."""
    features, found = evaluation.predictions.features, []
    for index in chosen:
        others = folds == folds[index]
        others[index] = False
        near = nearest(features, features[index], others)
        found.append([describe_neighbour(evaluation.photos, other) for other in near])
    return found


def describe_neighbour(photos: Photos, index: int) -> dict[str, Any]:
    """What the page needs of a photo beside a mistake."""
    return {
        "label": int(photos.labels[index]),
        "name": pathlib.Path(photos.paths[index]).name,
        "image": thumbnail(open_as_seen(photos, index, NEIGHBOUR), NEIGHBOUR),
    }


def number_tiles(numbers: dict[str, Any]) -> str:
    """The few numbers that come first."""
    tiles = [
        ("error", numbers["error"], f"± {numbers['error_standard_error']:.4f}"),
        ("top-5 error", numbers["top5_error"], f"± {numbers['top5_error_standard_error']:.4f}"),
        (
            "calibration error",
            numbers["calibration_error_with_temperature"],
            f"{numbers['calibration_error']:.4f} before the temperature",
        ),
    ]
    pairs = numbers["pairs"]
    if "roc_auc" in pairs:
        words = f"equal errors {pairs['equal_error']:.4f}"
        tiles.append(("same or different, ROC AUC", pairs["roc_auc"], words))
    return "".join(
        f'<div class="tile"><span>{html.escape(name)}</span><b>{value:.4f}</b>'
        f"<span>{html.escape(words)}</span></div>"
        for name, value, words in tiles
    )


def trust_in_words(numbers: dict[str, Any]) -> str:
    """What the calibration and the pair numbers say, as sentences."""
    text = (
        f"The model's probabilities are off by {numbers['calibration_error']:.4f} on average "
        f"(expected calibration error), by {numbers['calibration_error_with_temperature']:.4f} "
        f"with the temperature {numbers['temperature']:.3f}, which was fitted on these very photos."
    )
    pairs = numbers["pairs"]
    if "roc_auc" in pairs:
        text += (
            f" Of {pairs['pairs']} pairs, at probability 0.5, {pairs['missed']:.4f} of those of "
            f"one class are missed and {pairs['false']:.4f} of the others called the same; from "
            f"{pairs['threshold']:.4f} on both errors are {pairs['equal_error']:.4f}."
        )
    return text


def class_table(evaluation: Evaluation, classes: list[str]) -> str:
    """Precision, recall and F1 of every class, the worst first."""
    judged = evaluation.classes
    rows = [
        [
            classes[label],
            judged["photos"][label],
            *(f"{judged[key][label]:.3f}" for key in ("precision", "recall", "f1")),
        ]
        for label in metrics.worst_classes(judged, len(classes))
    ]
    header = ["class", "photos", "precision", "recall", "F1"]
    return table(header, rows, numeric=range(1, 5))


def confused_table(evaluation: Evaluation, classes: list[str]) -> str:
    """The most confused pairs; a click shows the photos."""

    def button(row, column, count):
        if not count:
            return "0"
        label = html.escape(f"{count} of {classes[row]} guessed {classes[column]}")
        return Markup(
            f'<button class="text" data-cell="{row},{column}" aria-label="{label}">{count}</button>'
        )

    rows = [
        [classes[a], classes[b], button(a, b, a_as_b), button(b, a, b_as_a)]
        for a, b, a_as_b, b_as_a in metrics.most_confused(evaluation.confusions)
    ]
    header = ["one", "other", "one as other", "other as one"]
    return table(header, rows, numeric=(2, 3))


def settings_table(settings: dict[str, Any]) -> str:
    """Flags and versions of the run, if its settings are there."""
    rows = [
        [name.replace("_", " "), value]
        for part in ("flags", "versions", "photos")
        if isinstance(settings.get(part), dict)
        for name, value in settings[part].items()
    ]
    return (
        table(["setting", "value"], rows) if rows else "<p>No settings.json beside the model.</p>"
    )


def embed(picture: pathlib.Path, alt: str) -> str:
    """An `<img>` with a PNG in it, or nothing if there is none."""
    if not picture.is_file():
        return ""
    content = base64.b64encode(picture.read_bytes()).decode()
    return f'<p><img class="wide" alt="{alt}" src="data:image/png;base64,{content}"></p>'
