"""One page to look at after an evaluation: `index.html`, with everything in it.

No network is needed and none is asked: thumbnails are embedded, and the page
forbids itself anything else. Names of classes and files are data in it, never
markup. The page itself (layout, style, what a click does) is `report.html`.
"""

import base64
import html
import pathlib
from typing import Any

import numpy as np

from pairs.evaluation import metrics
from pairs.evaluation.calibration import class_scores
from pairs.evaluation.evaluate import Evaluation, printed_name, seen_in_words
from pairs.evaluation.figures import thumbnail
from pairs.evaluation.mistakes import (
    PHOTOS_OF_CLASS,
    confident_first,
    describe_mistakes,
    open_as_seen,
)
from pairs.evaluation.page import Markup, fill_template, script_json, table
from pairs.evaluation.predictor import Predictor
from pairs.evaluation.suspects import labels_to_check
from pairs.files import write_text
from pairs.network.weights_folder import CURVES, model_files
from pairs.photos.read import Photos, read_ahead

# Side in pixels. 2,000 thumbnails of 64 pixels take about 3 MB of the page.
THUMBNAIL = 64
# A browser needs 5 s for 250 classes, half a minute for 1,000.
MOST_IN_MATRIX = 250


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
        warning=html.escape(seen_in_words(numbers)),
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
        most_in_matrix=str(MOST_IN_MATRIX),
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
        return f"the nearest training photos (of {PHOTOS_OF_CLASS} of each true or guessed class)"
    return "the nearest of the photos that the same model has not seen"


def suspects_link(num_suspects: int | None) -> str:
    """The way to the page beside this one, if there is one."""
    if num_suspects is None:
        return ""
    return f'<a href="suspects.html">{labels_to_check(num_suspects)}</a>'


def describe_photos(evaluation: Evaluation, workers: int) -> list[dict[str, Any]]:
    """What the page needs of every photo, the most confident first; read by so many threads.

    `none` is the photo's place, from 1, among those that look like none of the
    classes, the most unlike first; 0 for all others.
    """
    photos, calibrated = evaluation.photos, evaluation.calibrated
    guesses = evaluation.predictions.probabilities.argmax(axis=1)
    scores = class_scores(evaluation.predictions.probabilities, evaluation.predictions.likeness)
    places = np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1
    places[~evaluation.calibration.shows_none(evaluation.predictions)] = 0
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
            f" Of {pairs['pairs']} pairs, which the answers were fitted on, at probability 0.5, "
            f"{pairs['missed']:.4f} of those of one class are missed and {pairs['false']:.4f} of "
            f"the others called the same; from {pairs['threshold']:.4f} on both errors are "
            f"{pairs['equal_error']:.4f}."
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
        [name.replace("_", " "), "not given" if value is None else value]
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
