"""Predicts the class of photos: a submission, a table, or lines to read.

    python predict.py --weights weights --test data/test --out predict.txt
    python predict.py --weights weights photo.jpg          its five likeliest classes
    python predict.py --weights weights a.jpg b.jpg --same one class or two?
    python predict.py --weights weights --pairs pairs.csv --out answers.csv
    python predict.py --weights weights --query DIR --gallery DIR --out matches.csv
    python predict.py --weights weights --evaluate data/valid --report report
    python predict.py --weights weights --export model.onnx

Probabilities are calibrated once `--evaluate` has been run on the validation
photos; that changes no first guess. Of folds they are calibrated from the start,
`--evaluate data` judges each photo by the model that has not seen it, and
everything else is the mean of all models.
"""

import collections
import io
import pathlib
import re

import numpy as np

from pairs.command_line import run
from pairs.devices import inventory
from pairs.errors import UserError
from pairs.evaluation.answers import answer_pairs, print_same, write_features
from pairs.evaluation.calibration import Calibration
from pairs.evaluation.evaluate import printed_name
from pairs.evaluation.export import export
from pairs.evaluation.flags import parse_args
from pairs.evaluation.judge import judge
from pairs.evaluation.matches import write_matches
from pairs.evaluation.metrics import TOP, apply_temperature, rank_classes
from pairs.evaluation.predictor import Predictor
from pairs.evaluation.unseen import predict_together
from pairs.files import write_csv, write_text
from pairs.photos.find import TURNS_TEXT, find_photos
from pairs.photos.read import printable
from pairs.photos.skipped import print_skipped
from pairs.tables import read_text

# What a reader of the submission may take for the end of a line or of an id.
BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
# In a name they would move the cursor of a terminal, or turn a line around.
CONTROLS = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029{''.join(TURNS_TEXT)}]")


def write_submission(predictor, predictions, out):
    """Writes one line per photo, `typeid<TAB>image id`.

    The image id is the file name without its ending. A photo that cannot be
    read gets the most frequent class.
    """
    lines = [
        f"{predictor.typeids[label]}\t{image_id(path)}\n"
        for label, path in zip(
            first_guesses(predictor, predictions), predictions.paths, strict=True
        )
    ]
    write_text(out, "".join(lines))


def first_guesses(predictor, predictions):
    """int array, shape `(photos,)`: labels; the most frequent one for unreadable photos."""
    labels = predictions.probabilities.argmax(axis=1)
    return np.where(predictions.readable(), labels, predictor.most_frequent)


def image_id(path):
    """A file's name without its ending; what would break a line is escaped."""
    return BREAKS.sub(lambda found: repr(found[0])[1:-1], pathlib.Path(path).stem)


def write_table(predictor, predictions, calibration, names, file):
    """Writes a table of all photos.

    Its columns: image id, typeid, name, "none" if the photo shows none of the classes,
    and the likeliest classes with probabilities.
    """
    count = min(TOP, len(predictor.typeids))
    header = ["image_id", "typeid", "name", "none_of_these"]
    for place in range(1, count + 1):
        header += [f"typeid_{place}", f"probability_{place}"]
    rows = []
    readable = predictions.readable()
    shows_none = calibration.shows_none(predictions)
    for row, label in enumerate(first_guesses(predictor, predictions)):
        typeid = predictor.typeids[label]
        cells = [image_id(predictions.paths[row]), typeid, names.get(typeid, "")]
        cells.append("none" if shows_none[row] else "")
        if readable[row]:
            own = predictions.probabilities[row : row + 1]
            calibrated = apply_temperature(own, calibration.temperature)
            for guess in rank_classes(calibrated)[0, :count]:
                cells += [predictor.typeids[guess], f"{calibrated[0, guess]:.6f}"]
        rows.append(cells + [""] * (len(header) - len(cells)))
    write_csv(file, header, rows)


def print_guesses(predictor, predictions, calibration, names):
    """Prints the likeliest classes of each photo, or that it shows none of them."""
    calibrated = apply_temperature(predictions.probabilities, calibration.temperature)
    shows_none = calibration.shows_none(predictions)
    for path, probabilities, none in zip(predictions.paths, calibrated, shows_none, strict=True):
        if np.isnan(probabilities).any():
            continue  # reported already
        print(f"{printable(path)}{': none of the classes; what is nearest:' if none else ''}")
        for label in rank_classes(probabilities[None])[0, :TOP]:
            print(f"  {probabilities[label]:.4f}  {printed_name(predictor.typeids[label], names)}")
    if num_unreadable := predictions.num_unreadable():
        raise UserError(f"{num_unreadable} of {len(predictions.paths)} photos cannot be read")


def read_names(file):
    """Reads names of classes.

    Args:
        file: UTF-8 text, one line per class: typeid, tab, name. None: no names.

    Returns:
        dict from typeid to name.

    Raises:
        UserError: a line is something else, or names a typeid a second time; says which.
    """
    if file is None:
        return {}
    names = {}
    text = read_text(file, f"--names {printable(file)}")
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        typeid, _, name = (part.strip() for part in line.partition("\t"))
        name = CONTROLS.sub(lambda sign: sign[0].encode("unicode_escape").decode(), name)
        if not line.strip():
            continue
        if not (typeid and name):
            raise UserError(f"--names {file}, line {number}: typeid, tab, name are expected")
        if names.setdefault(typeid, name) != name:
            raise UserError(
                f"--names {file}, line {number}: {typeid!r} is {name!r} here, and "
                f"{names[typeid]!r} above"
            )
    return names


def check_models(predictors, args):
    """Raises a UserError if the models do not fit together or the flags, before any photo.

    Says which of them are not trained to the end.
    """
    first, *others = predictors
    for other in others:
        if set(other.typeids) != set(first.typeids):
            odd = sorted(set(other.typeids) ^ set(first.typeids))[0]
            raise UserError(
                f"{first.weights} and {other.weights} know different classes: "
                f"{len(first.typeids)} and {len(other.typeids)}, only one of them {odd!r}"
            )
    for predictor in predictors:
        if not predictor.has_ended:
            print(
                f"note: {predictor.weights}: the training has not ended; the model is that of its "
                f"last finished stage. Run the same train.py command again to finish it"
            )
        if args.head in ("first", "second") and not predictor.is_paired:
            raise UserError(
                f"--head {args.head}: {predictor.weights} was trained with --loss softmax: one head"
            )


def calibration_of(predictors):
    """The stored calibration; nobody fitted one of several trainings, views, or of one head."""
    first, *others = predictors
    if not others and first.is_plain:
        if not first.calibration.photos:
            print(
                "note: not calibrated yet, and whether a photo shows none of the classes is not "
                "known: see predict.py --evaluate"
            )
        return first.calibration
    print(
        "note: probabilities are as the model gives them: only those of a single --weights, "
        "without --tta and --head, can be calibrated; photos that show none of the classes are "
        "not recognized"
    )
    return Calibration()


def predict_folder(predictors, args, names):
    """Writes the submission, and the table if asked for."""
    predictor = predictors[0]
    print_skipped(args.test)
    predictions = predict_together(predictors, find_photos(args.test), bool(args.features))
    write_submission(predictor, predictions, args.out)
    if args.csv:
        write_table(predictor, predictions, calibration_of(predictors), names, args.csv)
    if args.features:
        write_features(predictor, predictions, args.features)
    ids = collections.Counter(map(image_id, predictions.paths))
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        print(f"warning: image ids that several photos share: {len(twice)}, e.g. {twice[0]!r}")
    num_unreadable = predictions.num_unreadable()
    unreadable = f", {num_unreadable} of them not readable" if num_unreadable else ""
    also = f", and as a table {args.csv}" if args.csv else ""
    also += f", and their features {args.features}" if args.features else ""
    print(f"{args.out}: {len(predictions.paths)} photos{unreadable}{also}")


def main():
    args = parse_args()
    names = read_names(args.names)
    inventory.prepare(openvino=args.openvino)
    predictors = [
        Predictor(
            weights,
            args.batch_size,
            args.workers,
            args.tta,
            args.head,
            openvino=args.openvino,
        )
        for weights in args.weights
    ]
    check_models(predictors, args)
    if args.names and (nameless := [each for each in predictors[0].typeids if each not in names]):
        num_classes = len(predictors[0].typeids)
        print(
            f"note: --names {printable(args.names)}: no name for {len(nameless)} of {num_classes} "
            f"classes, e.g. {nameless[0]!r}"
        )
    if args.evaluate:
        judge(predictors, args.evaluate, names, args.report, args.workers)
    elif args.export:
        export(predictors[0], args.export)
    elif args.same:
        print_same(predictors[0], args.photos, args.new_classes)
    elif args.pairs:
        answer_pairs(predictors[0], args.pairs, args.out, args.new_classes)
    elif args.query:
        write_matches(predictors[0], args.query, args.gallery, args.out, args.new_classes)
    elif args.photos:
        predictions = predict_together(predictors, args.photos, keep_features=False)
        print_guesses(predictors[0], predictions, calibration_of(predictors), names)
    else:
        predict_folder(predictors, args, names)


if __name__ == "__main__":
    run(main)
