"""Answers about pairs of photos: one class or two? And features, for whatever comes next."""

import itertools
import os
from collections.abc import Sequence

import numpy as np

from pairs.errors import UserError
from pairs.evaluation import same
from pairs.evaluation.predictions import Predictions
from pairs.evaluation.predictor import Predictor
from pairs.files import unguard_cell, write_arrays, write_csv
from pairs.photos.read import printable
from pairs.tables import DELIMITERS, read_text, split_rows

HEADER = ["first", "second"]


def answer(
    predictor: Predictor, new_classes: bool, cosine: np.ndarray, agreement: np.ndarray
) -> np.ndarray:
    """How probably pairs of photos are of one class.

    Args:
        predictor: whose calibration answers.
        new_classes: the photos show classes that the model was not trained on.
        cosine: float array, shape `(pairs,)`, of what `Predictor.unit` returns.
        agreement: float array, shape `(pairs,)`, of their class probabilities
            (`same.dot_products`).

    Returns:
        float array, shape `(pairs,)`; NaN where a photo could not be read.
    """
    calibration = predictor.calibration
    if new_classes:
        return same.probability(calibration.same_new, cosine)
    return same.probability(calibration.same_known, cosine, agreement)


def compare(
    predictor: Predictor, paths: Sequence[str], pairs: np.ndarray, new_classes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Compares photos, each of which passes the network once.

    Args:
        predictor, new_classes: see `answer`.
        paths: of the photos.
        pairs: int array, shape `(pairs, 2)`: which of them.

    Returns:
        `(cosine, probability)`: float arrays, shape `(pairs,)`; NaN where a photo
        could not be read.
    """
    predictions = predictor.predict(paths)
    cosine = same.dot_products(predictor.make_unit(predictions.features), pairs)
    agreement = same.dot_products(predictions.probabilities, pairs)
    return cosine, answer(predictor, new_classes, cosine, agreement)


def print_same(predictor: Predictor, paths: list[str], new_classes: bool) -> None:
    """Prints how probably two photos show one class."""
    (cosine,), (probability,) = compare(predictor, paths, np.array([[0, 1]]), new_classes)
    if np.isnan(probability):
        raise UserError("--same: both photos must be readable")
    if why := predictor.calibration.why_not_fitted(of_pairs=True):
        print(f"same {probability:.4f}, cosine {cosine:.4f} ({why})")
        return
    threshold = 0.5 if new_classes else predictor.calibration.same_threshold
    verdict = "the same class" if probability >= threshold else "two classes"
    threshold_and_remark = f"threshold {threshold:.4f}{predictor.calibration.remark(of_pairs=True)}"
    print(f"same {probability:.4f}, cosine {cosine:.4f}: {verdict} ({threshold_and_remark})")


def answer_pairs(predictor: Predictor, table: str, out: str, new_classes: bool) -> None:
    """Answers the pairs of a table; each photo passes the network once.

    Args:
        predictor: what answers.
        table: of `read_pairs`.
        out: CSV to write: `first,second,probability`, in the table's order; without
            a probability where a photo cannot be read.
        new_classes: see `answer`.

    Raises:
        UserError: see `read_pairs`; nothing is written then.
    """
    pairs = read_pairs(table)
    paths = list(dict.fromkeys(path for pair in pairs for path in pair[2:]))
    place = {path: index for index, path in enumerate(paths)}
    indices = np.array([[place[path] for path in pair[2:]] for pair in pairs])
    _, probabilities = compare(predictor, paths, indices, new_classes)
    rows = [
        [*pair[:2], "" if np.isnan(probability) else round(probability, 6)]
        for pair, probability in zip(pairs, probabilities.tolist(), strict=True)
    ]
    write_csv(out, [*HEADER, "probability"], rows)
    num_open = int(np.isnan(probabilities).sum())
    unanswered = f", {num_open} of them without an answer: not readable" if num_open else ""
    remark = predictor.calibration.remark(of_pairs=True)
    print(f"{out}: {len(pairs)} pairs of {len(paths)} photos{unanswered}{remark}")


def read_pairs(table: str) -> list[tuple[str, str, str, str]]:
    """Reads the pairs to answer.

    Args:
        table: a CSV with two paths on each line, as seen from here or from the
            table's own folder. A first line `first,second` is a header.

    Returns:
        list of `(first, second, path of first, path of second)`, the former as they
        are written, without the guard of `write_csv`, which writes them again.

    Raises:
        UserError: a line is something else, or names a photo that is not there.
    """
    begin = f"--pairs {printable(table)}"
    rows = split_pairs(table, begin)
    if rows and is_header(rows[0][1]):
        rows = rows[1:]
    if not rows:
        raise UserError(f"{begin}: no pairs there; two paths on each line are expected")
    pairs = []
    for line, cells in rows:
        if len(cells) != 2:
            raise UserError(
                f"{begin}, line {line}: {len(cells)} cells, two paths are expected; a path that "
                f"holds a comma must stand in quotes"
            )
        first, second = (find_photo(cell, table) for cell in cells)
        if first is None or second is None:
            cell = cells[0 if first is None else 1]
            raise UserError(f"{begin}, line {line}: {cell[:200]!r}: no such photo")
        pairs.append((first[0], second[0], first[1], second[1]))
    return pairs


def split_pairs(table: str, begin: str) -> list[tuple[int, list[str]]]:
    """The rows of a table, split where its first pair becomes two photos, or two cells at least.

    File names may hold the delimiters; a spreadsheet puts those in quotes that only
    the right delimiter understands.
    """
    text = read_text(table, begin)

    def make_sense(rows: list[tuple[int, list[str]]]) -> int:
        cells = next((cells for _, cells in rows if not is_header(cells)), HEADER)
        if len(cells) != 2:
            return 0
        return 1 + sum(find_photo(cell, table) is not None for cell in cells)

    def num_cells(rows: list[tuple[int, list[str]]]) -> int:
        return len(rows[0][1]) if rows else 0

    best: list[tuple[int, list[str]]] | None = None
    problem = None
    for skip_spaces, delimiter in itertools.product((False, True), DELIMITERS):
        try:
            rows = split_rows(text, delimiter, begin, skip_spaces)
        except UserError as error:
            problem = problem or error
            continue
        # One after another: each takes many times the memory of the text.
        readings = [rows] if best is None else [best, rows]
        best = max(readings, key=lambda rows: (make_sense(rows), num_cells(rows)))
    if problem and num_cells(best or []) < 2:
        raise problem
    return best or []


def is_header(cells: list[str]) -> bool:
    """Whether a row is `first,second`."""
    return [cell.strip().lower() for cell in cells] == HEADER


def find_photo(cell: str, table: str) -> tuple[str, str] | None:
    """The file that a cell names, as seen from here or from the table's folder, if there is one.

    Returns:
        `(cell, path)`, the cell as it is, or without its guard if only that is a file.
    """
    plain = unguard_cell(cell.strip())
    for name, spelled in ((cell, cell), (cell.strip(), cell), (plain, plain)):
        for path in (name, os.path.join(os.path.dirname(table), name)):
            if os.path.isfile(path):
                return spelled, path
    return None


def write_features(predictor: Predictor, predictions: Predictions, out: str) -> None:
    """Writes what similarity is computed from, as an .npz file, whole or not at all.

    Its arrays: `image`, paths, shape `(photos,)`; `feature`, float32, shape
    `(photos, features * models)`, of unit length; `probabilities`, float32, shape
    `(photos, classes)`; `typeids`, shape `(classes,)`. Rows of photos that could not
    be read are NaN. Those of `predictions` are of unit length afterwards, too.
    """
    arrays = {
        "image": np.array(predictions.paths),
        "feature": predictor.make_unit(predictions.features),
        "probabilities": predictions.probabilities,
        "typeids": np.array(predictor.typeids),
    }
    write_arrays(out, arrays)
