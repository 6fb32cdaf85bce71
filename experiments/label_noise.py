"""Which ranking finds wrong labels? Plants some, then counts how many are found.

    plant    copies a raw folder to OUT/raw, a share of its photos under a wrong
             typeid, and writes OUT/planted.csv: image, typeid, true
    judge    reads planted.csv and the probabilities out of fold of a training on
             those photos, and ranks all photos by every candidate of `rankings.py`

Only planted labels count as found. Photos that were wrong or ambiguous before
anything was planted count as false alarms, however right the alarm: precision
is too low, for every candidate alike.

Run it:  python -m experiments.label_noise plant --raw data/raw --out data/noise --share 0.05
         python img2keras.py --raw data/noise/raw --out data/noise
         ... and a training in folds, which writes out_of_fold.csv ...
         python -m experiments.label_noise judge --planted data/noise/planted.csv \\
             --predictions out_of_fold.csv
"""

import collections
import csv
import io
import pathlib

import numpy as np

from experiments.rankings import RANKINGS
from pairs.command_line import Parser, run
from pairs.errors import UserError
from pairs.files import unguard_cell, write_csv
from pairs.photos.find import typeid_order
from pairs.photos.place import place_photo
from pairs.photos.raw import contest_name, read_raw

PREDICTIONS_HEADER = ["image", "typeid", "fold"]
PLANTED_HEADER = ["image", "typeid", "true"]


def read_table(path, header):
    """Reads a table as `write_csv` writes it; the apostrophe of a guarded cell is taken off.

    Args:
        path: of the CSV.
        header: the names that its first columns must have.

    Returns:
        `(rest, rows)`: the names of the other columns, and all rows.

    Raises:
        UserError: not there, another header, a row of another length, no rows.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    rows = [
        [unguard_cell(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))
    ]
    if not rows or rows[0][: len(header)] != header:
        raise UserError(f"{path}: columns {', '.join(header)} are expected first")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise UserError(f"{path}, row {number}: {len(row)} cells, not {len(rows[0])}")
    if len(rows) == 1:
        raise UserError(f"{path}: no rows below the header")
    return rows[0][len(header) :], rows[1:]


def read_predictions(path):
    """Reads probabilities out of fold.

    Args:
        path: CSV with the columns image, typeid, fold, and `p_TYPEID` for each class.

    Returns:
        `(images, labels, probabilities, typeids)`: file names; int array, shape
        `(photos,)`; float array, shape `(photos, classes)`; the classes.

    Raises:
        UserError: it is something else.
    """
    columns, rows = read_table(path, PREDICTIONS_HEADER)
    typeids = [column.removeprefix("p_") for column in columns]
    known = {typeid: label for label, typeid in enumerate(typeids)}
    try:
        labels = np.array([known[row[1]] for row in rows])
        probabilities = np.array([row[3:] for row in rows], np.float64)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: a class without a column, or no number: {error}") from error
    if len(typeids) < 2 or not np.isfinite(probabilities).all():
        raise UserError(f"{path}: probabilities of at least 2 classes are expected")
    return [row[0] for row in rows], labels, probabilities, typeids


def similar_classes(path):
    """For each class the one that it is most often confused with: dict of typeids."""
    _, labels, probabilities, typeids = read_predictions(path)
    partners = {}
    for label in np.unique(labels):
        means = probabilities[labels == label].mean(axis=0)
        means[label] = -1
        partners[typeids[label]] = typeids[int(means.argmax())]
    return partners


def plant(raw, out, share, seed, partners=None):
    """Copies photos, a share of them under a wrong typeid.

    Args:
        raw: `pathlib.Path` of a folder of raw photos.
        out: `pathlib.Path`; gets class folders in `raw/`, and `planted.csv`.
        share: of the photos that get a wrong label, in (0, 0.5].
        seed: chooses photos and labels.
        partners: dict from each typeid to the wrong one; None: any other.

    Returns:
        the rows of planted.csv: `[new file name, wrong typeid, true typeid]`.

    Raises:
        UserError: fewer than two classes, a class without partner, or `out/raw`
            is there already.
    """
    classes, _ = read_raw(raw)
    if len(classes) < 2:
        raise UserError(f"--raw {raw}: {len(classes)} classes of photos, 2 are needed")
    target = out / "raw"
    if target.exists():
        raise UserError(f"{target} is there already; remove it, or choose another --out")
    typeids = sorted(classes, key=typeid_order)
    for typeid in typeids:
        if partners is not None and partners.get(typeid) not in classes:
            raise UserError(f"--pairs-from: no class of --raw to confuse {typeid!r} with")
    photos = [(typeid, name) for typeid in typeids for name in classes[typeid]]
    names = {contest_name(name) for _, name in photos}
    rng = np.random.default_rng(seed)
    count = max(1, round(share * len(photos)))
    chosen = set(rng.choice(len(photos), count, replace=False).tolist())
    rows = []
    for index, (typeid, name) in enumerate(photos):
        label, new_name = typeid, contest_name(name)
        if index in chosen:
            others = [other for other in typeids if other != typeid]
            label = partners[typeid] if partners else others[rng.integers(len(others))]
            new_name = f"{label}_{new_name}"
            while new_name in names:
                new_name = f"{label}_{new_name}"
            names.add(new_name)
            rows.append([new_name, label, typeid])
        place_photo(raw / name, target / label / new_name, link=False)
    write_csv(out / "planted.csv", PLANTED_HEADER, rows)
    return rows


def judge(planted, images, labels, probabilities):
    """How well every candidate finds planted labels.

    Args:
        planted: dict from file name to wrong typeid.
        images, labels, probabilities: of `read_predictions`.

    Returns:
        dict from the candidate's name to a dict: `precision` and `recall` among as
        many photos as were planted (equal, unless planted photos have no
        prediction), `recall_twice` among twice as many, `average_precision`, and
        `worst`: `(typeid, found, planted)` of the label with the lowest recall.
    """
    is_planted = np.array([image in planted for image in images])
    count = len(planted)
    of_class = collections.Counter(planted.values())
    results = {}
    for name, score in RANKINGS.items():
        order = np.argsort(-score(probabilities, labels), kind="stable")
        hits = is_planted[order]
        ranks = np.flatnonzero(hits) + 1
        found = collections.Counter(planted[images[i]] for i in order[:count] if is_planted[i])
        worst = min(of_class, key=lambda typeid: (found[typeid] / of_class[typeid], typeid))
        results[name] = {
            "precision": hits[:count].mean(),
            "recall": hits[:count].sum() / count,
            "recall_twice": hits[: 2 * count].sum() / count,
            "average_precision": (np.arange(1, len(ranks) + 1) / ranks).sum() / count,
            "worst": (worst, found[worst], of_class[worst]),
        }
    return results


def print_results(results, planted, images, labels, probabilities):
    """Prints one line per candidate, and what ranking at random and first guesses would find."""
    count = len(planted)
    is_planted = np.array([image in planted for image in images])
    doubted = probabilities.argmax(axis=1) != labels
    print(
        f"{count} of {len(images)} labels are planted. The first guess is another class for "
        f"{doubted.sum()} photos, {(doubted & is_planted).sum()} of them planted"
    )
    if is_planted.sum() < count:
        print(f"{count - is_planted.sum()} planted photos have no prediction: counted as missed")
    print(
        f"{'ranking':<20} {f'precision@{count}':>14} {f'recall@{count}':>12} "
        f"{f'recall@{2 * count}':>12} {'average prec.':>14}  worst class"
    )
    for name, result in results.items():
        typeid, found, of_class = result["worst"]
        print(
            f"{name:<20} {result['precision']:>14.4f} {result['recall']:>12.4f} "
            f"{result['recall_twice']:>12.4f} {result['average_precision']:>14.4f}  "
            f"{typeid}: {found} of {of_class}"
        )
    chance = count / len(images)
    print(f"{'by chance':<20} {chance:>14.4f} {chance:>12.4f} {2 * chance:>12.4f}")


def parse_args(argv=None):
    parser = Parser(description="Plant wrong labels, and judge how well rankings find them.")
    steps = parser.add_subparsers(dest="step", required=True, metavar="plant|judge")
    add = steps.add_parser("plant", help="copy a folder with some wrong labels").add_argument
    add("--raw", type=pathlib.Path, default="data/raw", help="default: %(default)s")
    add("--out", type=pathlib.Path, default="data/noise", help="default: %(default)s")
    add("--share", type=float, default=0.05, help="of wrong labels (default: %(default)s)")
    add(
        "--kind",
        choices=("random", "similar"),
        default="random",
        help="any other class, or the one most often confused with (default: %(default)s)",
    )
    add("--pairs-from", type=pathlib.Path, metavar="FILE", help="out_of_fold.csv, for similar")
    add("--seed", type=int, default=0, help="chooses photos and labels (default: %(default)s)")
    add = steps.add_parser("judge", help="count what rankings find").add_argument
    add("--planted", type=pathlib.Path, default="data/noise/planted.csv", help="of plant")
    add("--predictions", type=pathlib.Path, required=True, help="out_of_fold.csv of a training")
    args = parser.parse_args(argv)
    if args.step == "plant" and not 0 < args.share <= 0.5:
        parser.error(f"--share {args.share}: more than 0, at most 0.5 is needed")
    if args.step == "plant" and (args.kind == "similar") != bool(args.pairs_from):
        parser.error("--pairs-from FILE goes with --kind similar, and the other way round")
    return args


def main():
    args = parse_args()
    if args.step == "plant":
        partners = similar_classes(args.pairs_from) if args.pairs_from else None
        rows = plant(args.raw, args.out, args.share, args.seed, partners)
        print(f"{args.out / 'raw'}: {len(rows)} wrong labels, listed in planted.csv beside it")
        return
    _, rows = read_table(args.planted, PLANTED_HEADER)
    planted = {image: typeid for image, typeid, _ in rows}
    images, labels, probabilities, typeids = read_predictions(args.predictions)
    labelled = dict(zip(images, (typeids[label] for label in labels), strict=True))
    for image, typeid in planted.items():
        if labelled.get(image, typeid) != typeid:
            raise UserError(
                f"{args.predictions}: {image!r} is {labelled[image]!r} there, {typeid!r} in "
                f"{args.planted}: they are not of the same photos"
            )
    if labelled.keys().isdisjoint(planted):
        raise UserError(f"{args.predictions}: none of the photos of {args.planted} is in it")
    results = judge(planted, images, labels, probabilities)
    print_results(results, planted, images, labels, probabilities)


if __name__ == "__main__":
    run(main)
