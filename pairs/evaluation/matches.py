"""Finds photos: for each query, the most similar photos of a gallery.

Where folders or names tell who is who, it also says how good the search is, as
Market-1501 counts it (`search.judge_ranking`).
"""

import dataclasses
from collections.abc import Hashable

import numpy as np

from pairs.errors import UserError
from pairs.evaluation import same, search
from pairs.evaluation.answers import answer
from pairs.evaluation.predictor import Predictor
from pairs.files import write_csv
from pairs.photos.find import find_photos, which_file
from pairs.photos.read import printable
from pairs.photos.skipped import print_skipped

# Matches of each query.
COUNT = 10
HEADER = ["query", "rank", "match", "similarity", "probability"]


@dataclasses.dataclass(frozen=True)
class Searched:
    """The photos of a search, each once: those of the gallery, then the other queries.

    Attributes:
        gallery: paths; a file of several names is there once.
        others: paths of the queries that are not in the gallery.
        queries: paths.
        rows: int array, shape `(queries,)`: where each query is among both.
    """

    gallery: list[str]
    others: list[str]
    queries: list[str]
    rows: np.ndarray


def write_matches(
    predictor: Predictor, query: str, gallery: str, out: str, new_classes: bool
) -> None:
    """Searches the photos of one folder in those of another; each passes the network once.

    Args:
        predictor: whose features are compared.
        query, gallery: folders of photos, nested or not; they may be the same one.
        out: CSV to write: `query,rank,match,similarity,probability`, the ten most
            similar photos of each query, its own file left out. The similarity is the
            cosine of what `Predictor.unit` makes of features.
        new_classes: see `answers.answer`.

    Raises:
        UserError: a folder holds no photo that can be read.
    """
    for folder in dict.fromkeys((query, gallery)):
        print_skipped(folder)
    searched = find_searched(query, gallery)
    rows, count = searched.rows, len(searched.gallery)
    predictions = predictor.predict([*searched.gallery, *searched.others])
    readable = predictions.readable()
    for folder, own in ((gallery, readable[:count]), (query, readable[rows])):
        if not own.any():
            raise UserError(f"{printable(folder)}: no photo there can be read")
    unit = predictor.make_unit(predictions.features)
    asked = take_rows(unit, rows)
    found, similarities = search.find_nearest(unit[:count], asked, COUNT + 1)
    found[found == rows[:, None]] = -1  # the query itself
    probabilities = np.transpose(
        [
            answer(
                predictor,
                new_classes,
                cosine,
                same.dot_products(predictions.probabilities, np.column_stack([rows, match])),
            )
            for cosine, match in zip(similarities.T, found.T, strict=True)
        ]
    )
    write_csv(out, HEADER, list_matches(searched, found, similarities, probabilities))
    num_unreadable = int((~readable).sum())
    unreadable = f"; {num_unreadable} cannot be read" if num_unreadable else ""
    print(
        f"{out}: the most similar of {count} photos, for each of {len(rows)}"
        f"{unreadable}{predictor.calibration.remark(of_pairs=True)}"
    )
    print_ranking(
        search.read_side(unit[:count], searched.gallery, gallery),
        search.read_side(asked, searched.queries, query),
    )


def find_searched(query: str, gallery: str) -> Searched:
    """Lists the photos of both folders. Args, Raises: of `write_matches`."""
    queries = find_photos(query)
    files: dict[Hashable, str] = {}
    for path in find_photos(gallery):
        files.setdefault(which_file(path), path)
    photos = list(files.values())
    place = {file: row for row, file in enumerate(files)}
    asked = {path: which_file(path) for path in queries}
    others = [path for path, file in asked.items() if file not in place]
    place |= {asked[path]: len(photos) + row for row, path in enumerate(others)}
    return Searched(photos, others, queries, np.array([place[asked[path]] for path in queries]))


def take_rows(unit: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of an array: no copy where they follow each other, as those of one folder do."""
    if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return unit[rows[0] : rows[0] + len(rows)]
    return unit[rows]


def list_matches(
    searched: Searched, found: np.ndarray, similarities: np.ndarray, probabilities: np.ndarray
) -> list[list[object]]:
    """The lines of the table.

    Args:
        searched: what was searched.
        found: int array, shape `(queries, COUNT + 1)`: of the gallery, the most similar
            first; -1: none.
        similarities, probabilities: of the same shape.
    """
    lines: list[list[object]] = []
    for row, path in enumerate(searched.queries):
        matches = [column for column, match in enumerate(found[row]) if match >= 0][:COUNT]
        lines += [
            [
                path,
                rank,
                searched.gallery[found[row, column]],
                round(float(similarities[row, column]), 6),
                round(float(probabilities[row, column]), 6),
            ]
            for rank, column in enumerate(matches, start=1)
        ]
    return lines


def print_ranking(gallery: search.Side, queries: search.Side) -> None:
    """Prints how good the search is, if folders or names say what photos show."""
    if len(set(gallery.identities) - {None}) < 2:  # IMG_0001.jpg, IMG_0002.jpg: nobody's names
        return
    ranking = search.judge_ranking(gallery, queries)
    if ranking:
        recalls = ", ".join(f"recall@{count} {value}" for count, value in ranking.recalls.items())
        print(
            f"{recalls}, mean average precision {ranking.mean_average_precision} "
            f"({ranking.num_queries} queries)"
        )
