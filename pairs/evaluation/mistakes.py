"""The most confident mistakes of an evaluation: where the network looked, and what is near.

For the report's page, see `report.py`.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from pairs.errors import UserError
from pairs.evaluation import metrics
from pairs.evaluation.evaluate import Evaluation
from pairs.evaluation.figures import overlay, thumbnail
from pairs.evaluation.heat_maps import find_heat_maps
from pairs.evaluation.predictor import Predictor
from pairs.evaluation.suspects import nearest
from pairs.photos.read import Photos, open_photo

# Sides in pixels.
CARD, NEIGHBOUR = 176, 88
MISTAKES = 24
# Training photos of a class among which the nearest of a mistake are sought.
PHOTOS_OF_CLASS = 50


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
        named = {*guesses[chosen].tolist(), *photos.labels[chosen].tolist()}
        some = None if trained_on is None else some_of_each(trained_on, sorted(named))
        neighbours = find_neighbours(predictor, predictions.features[chosen], some)
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


def some_of_each(photos: Photos, labels: list[int]) -> Photos:
    """Of some classes at most `PHOTOS_OF_CLASS` photos each, spread over all that there are."""
    chosen = []
    for label in labels:
        own = np.flatnonzero(photos.labels == label)
        places = np.linspace(0, len(own) - 1, min(len(own), PHOTOS_OF_CLASS))
        chosen += own[places.round().astype(int)].tolist()
    return photos.take(chosen)


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
    if not photos:
        data = predictor.flags.get("data", "data")
        print(
            f"no training photos in {data}, nor beside the weights: the report shows no neighbours"
        )
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


def confident_first(evaluation: Evaluation) -> list[int]:
    """Indices of the photos, by the probability of their first guess."""
    return np.argsort(-evaluation.calibrated.max(axis=1), kind="stable").tolist()


def open_as_seen(photos: Photos, index: int, side: int) -> Image.Image:
    """A photo as the network saw it; grey if it cannot be read any more.

    Never `photos.open`: another photo would stand under its name.
    """
    try:
        return open_photo(photos.paths[index], side, photos.fit)
    except UserError:
        return Image.new("RGB", (side, side), "grey")
