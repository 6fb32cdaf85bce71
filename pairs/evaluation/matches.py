"""Finds photos: for each query, the most similar photos of a gallery.

Where folders or names tell who is who, it also says how good the search is, as
Market-1501 counts it (`search.judge_ranking`).
"""

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
# Photos whose features are replaced at once.
ROWS = 8192


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
    queries = find_photos(query)
    files: dict[Hashable, str] = {}  # a file of several names is one photo
    for path in find_photos(gallery):
        files.setdefault(which_file(path), path)
    photos = list(files.values())
    place = {file: row for row, file in enumerate(files)}
    asked = {path: which_file(path) for path in queries}
    others = [path for path, file in asked.items() if file not in place]
    place |= {asked[path]: len(photos) + row for row, path in enumerate(others)}
    rows = np.array([place[asked[path]] for path in queries])

    predictions = predictor.predict([*photos, *others])
    readable = predictions.readable()
    for folder, own in ((gallery, readable[: len(photos)]), (query, readable[rows])):
        if not own.any():
            raise UserError(f"{printable(folder)}: no photo there can be read")
    unit = predictions.features
    for start in range(0, len(unit), ROWS):  # in place: they are what needs memory
        unit[start : start + ROWS] = predictor.unit(unit[start : start + ROWS])

    found, similarities = search.find_nearest(unit[: len(photos)], unit[rows], COUNT + 1)
    found[found == rows[:, None]] = -1  # the query itself
    probabilities = [
        answer(
            predictor,
            new_classes,
            cosine,
            same.dot_products(predictions.probabilities, np.column_stack([rows, match])),
        )
        for cosine, match in zip(similarities.T, found.T, strict=True)
    ]
    lines = []
    for row, path in enumerate(queries):
        matches = [column for column, match in enumerate(found[row]) if match >= 0][:COUNT]
        lines += [
            [
                path,
                rank,
                photos[found[row, column]],
                round(float(similarities[row, column]), 6),
                round(float(probabilities[column][row]), 6),
            ]
            for rank, column in enumerate(matches, start=1)
        ]
    write_csv(out, HEADER, lines)
    num_unreadable = int((~readable).sum())
    unreadable = f"; {num_unreadable} cannot be read" if num_unreadable else ""
    print(
        f"{out}: the most similar of {len(photos)} photos, for each of {len(queries)}"
        f"{unreadable}{predictor.calibration.remark(of_pairs=True)}"
    )
    searched = search.read_side(unit[: len(photos)], photos, gallery)
    if len(set(searched.identities) - {None}) < 2:  # IMG_0001.jpg, IMG_0002.jpg: nobody's names
        return
    ranking = search.judge_ranking(searched, search.read_side(unit[rows], queries, query))
    if ranking:
        recalls = ", ".join(f"recall@{count} {value}" for count, value in ranking.recalls.items())
        print(
            f"{recalls}, mean average precision {ranking.mean_average_precision} "
            f"({ranking.num_queries} queries)"
        )
