"""Predicts the class of photos: the submission file, a table, or a line for people.

    python predict.py --weights weights --test data/test --out predict.txt
    python predict.py --weights weights photo.jpg          its five likeliest classes
    python predict.py --weights weights a.jpg b.jpg --same one class or two?
    python predict.py --weights weights --evaluate data/valid --report report

Probabilities are calibrated once `--evaluate` has been run on the validation
photos; that changes no first guess.
"""

import collections
import os
import pathlib
import re

import numpy as np

from pairs.command_line import Parser, UserError, add_workers_flag, positive_int, run
from pairs.devices import inventory as device
from pairs.evaluation.evaluate import evaluate, print_evaluation, printed_name, write_files
from pairs.evaluation.metrics import TOP, apply_temperature, rank_classes
from pairs.evaluation.predictor import MAX_VIEWS, Ensemble, Predictor
from pairs.files import write_csv, write_text
from pairs.photos.check import file_digest, readable
from pairs.photos.read import find_class_photos, find_photos, printable
from pairs.training.run_folder import read_photos

# Fewer than this, and a fitted temperature is mostly chance.
FEW_PHOTOS = 50
TEST, OUT = "data/test", "predict.txt"
# What a reader of the submission may take for the end of a line or of an id.
BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def write_submission(predictor, predictions, out):
    """Writes one line a photo, `typeid<TAB>image id`.

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


def write_table(predictor, predictions, names, file):
    """Writes a table: image id, typeid, name, and the likeliest classes with probabilities."""
    count = min(TOP, len(predictor.typeids))
    header = ["image_id", "typeid", "name"]
    for place in range(1, count + 1):
        header += [f"typeid_{place}", f"probability_{place}"]
    rows = []
    calibrated, readable = calibrate(predictor, predictions), predictions.readable()
    for row, label in enumerate(first_guesses(predictor, predictions)):
        typeid = predictor.typeids[label]
        cells = [image_id(predictions.paths[row]), typeid, names.get(typeid, "")]
        if readable[row]:
            for guess in rank_classes(calibrated[row : row + 1])[0, :count]:
                cells += [predictor.typeids[guess], f"{calibrated[row, guess]:.6f}"]
        rows.append(cells)
    write_csv(file, header, rows)


def calibrate(predictor, predictions):
    """The probabilities of predictions, with the stored temperature."""
    return apply_temperature(predictions.probabilities, predictor.calibration.temperature)


def print_guesses(predictor, predictions, names):
    """Prints the likeliest classes of each photo."""
    for path, probabilities in zip(
        predictions.paths, calibrate(predictor, predictions), strict=True
    ):
        if np.isnan(probabilities).any():
            continue  # named already
        print(printable(path))
        for label in rank_classes(probabilities[None])[0, :TOP]:
            print(f"  {probabilities[label]:.4f}  {printed_name(predictor.typeids[label], names)}")
    num_unreadable = int((~predictions.readable()).sum())
    if num_unreadable:
        raise UserError(f"{num_unreadable} of {len(predictions.paths)} photos cannot be read")


def print_same(predictor, predictions):
    """Prints how probably two photos show one class."""
    if not predictor.is_paired:
        raise UserError(
            f"--same: {predictor.weights} was trained with --loss softmax: no pair head"
        )
    if not predictions.readable().all():
        raise UserError("--same: both photos must be readable")
    first, second = predictions.features
    probability = predictor.same_probabilities(first[None], second[None])[0]
    threshold = predictor.calibration.same_threshold
    fitted = "" if predictor.calibration.photos else ", not fitted yet: see --evaluate"
    verdict = "the same class" if probability >= threshold else "two classes"
    print(
        f"same {probability:.4f}, squared distance {((first - second) ** 2).sum():.4f}: {verdict} "
        f"(from {threshold:.4f} on: the same{fitted})"
    )


def read_names(file):
    """Reads names of classes.

    Args:
        file: UTF-8 text, a line a class: typeid, tab, name. None: no names.

    Returns:
        dict from typeid to name.

    Raises:
        UserError: a line is something else; names the line.
    """
    if file is None:
        return {}
    names = {}
    try:
        lines = pathlib.Path(file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"--names {file}: not UTF-8 text ({error})") from error
    for number, line in enumerate(lines, start=1):
        typeid, tab, name = line.partition("\t")
        if line.strip() and not (tab and name.strip()):
            raise UserError(f"--names {file}, line {number}: typeid, tab, name are expected")
        names[typeid.strip()] = name.strip()
    return names


def predict_folder(predictor, args, names):
    """Writes the submission, and the table if asked for."""
    predictions = predictor.predict(find_photos(args.test))
    write_submission(predictor, predictions, args.out)
    if args.csv:
        write_table(predictor, predictions, names, args.csv)
    ids = collections.Counter(map(image_id, predictions.paths))
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        print(f"warning: {len(twice)} image ids stand for several photos, e.g. {twice[0]!r}")
    num_unreadable = int((~predictions.readable()).sum())
    unreadable = f", {num_unreadable} of them not readable" if num_unreadable else ""
    also = f", and as a table {args.csv}" if args.csv else ""
    print(f"{args.out}: {len(predictions.paths)} photos{unreadable}{also}")


def judge(predictor, args, names):
    """Prints how good the model is on photos of known class; stores the calibration."""
    from pairs.evaluation.report import write_report

    photos = find_class_photos(args.evaluate, predictor.typeids)
    evaluation = evaluate(predictor, photos)
    if args.report:
        folder = pathlib.Path(args.report)
        folder.mkdir(parents=True, exist_ok=True)
        write_files(evaluation, names, folder)
        write_report(evaluation, predictor, names, folder)
    print_evaluation(evaluation, names)
    print(store_calibration(predictor, evaluation))
    if args.report:
        print(f"the report: {folder / 'index.html'}")


def store_calibration(predictor, evaluation):
    """Stores what an evaluation fitted, where that is fair; says what was done."""
    if not predictor.is_plain:
        return "calibration not stored: it is of several models, of several views, or of one head"
    calibration = evaluation.calibration
    # By their bytes, not by their folder: that may have moved, or be named in another way.
    trained_on = set(readable(read_photos(predictor.weights)["train"]).values())
    num_known = sum(file_digest(path) in trained_on for path in evaluation.photos.paths)
    if num_known:
        return (
            f"calibration not stored: {num_known} of these {calibration.photos} photos are photos "
            f"that the model was trained on"
        )
    predictor.write_calibration(calibration)
    few = "; so few photos fit it badly" if calibration.photos < FEW_PHOTOS else ""
    return f"calibration of {calibration.photos} photos stored in {predictor.weights}{few}"


def parse_args():
    parser = Parser(description="Predict photos: a submission, a table, or lines for people.")
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="photos to guess, or one folder (as --test)")
    add(
        "--weights",
        action="append",
        metavar="DIR",
        help="folder with model.keras; given several times, the models are averaged "
        "(default: weights)",
    )
    add(
        "--head",
        choices=("mean", "first", "second"),
        default="mean",
        help="whose probabilities: of both softmax heads, or of one (default: mean)",
    )
    add("--test", metavar="DIR", help=f"folder of photos, nested or not (default: {TEST})")
    add("--out", metavar="FILE", help=f"submission file (default: {OUT})")
    add("--csv", metavar="FILE", help="also a table: likeliest classes with probabilities")
    add("--names", metavar="FILE", help="names of the classes: typeid, tab, name on each line")
    add("--same", action="store_true", help="do two photos show one class?")
    add("--evaluate", metavar="DIR", help="judge the model on these class folders instead")
    add("--report", metavar="DIR", help="with --evaluate: also write tables and pictures there")
    add(
        "--tta",
        type=positive_int,
        default=1,
        metavar="N",
        help=f"average N views of each photo, 2: mirrored, up to {MAX_VIEWS}: crops (default: 1)",
    )
    add("--batch-size", type=positive_int, default=32, help="photos a pass (default: %(default)s)")
    add_workers_flag(parser)
    args = parser.parse_args()
    check_args(parser, args)
    args.weights = args.weights or ["weights"]
    args.test, args.out = args.test or TEST, args.out or OUT
    check_files(parser, args)
    return args


def check_args(parser, args):
    """Refuses flags that do not go together: none may be given for nothing."""
    if len(args.photos) == 1 and os.path.isdir(args.photos[0]):
        if args.test:
            parser.error(f"{args.photos[0]} and --test {args.test}: one folder is predicted")
        args.test, args.photos = args.photos[0], []
    if args.tta > MAX_VIEWS:
        parser.error(f"--tta {args.tta}: at most {MAX_VIEWS} views")
    if args.same and len(args.photos) != 2:
        parser.error(f"--same: {len(args.photos)} photos given, 2 are needed")
    if args.same and (args.names or args.head != "mean" or len(args.weights or []) > 1):
        parser.error("--same: one model's pair head answers; no --names, --head, second --weights")
    if args.report and not args.evaluate:
        parser.error("--report: needs --evaluate DIR, photos whose class is known")
    if args.evaluate and (args.photos or args.test):
        other = args.test or args.photos[0]
        parser.error(f"--evaluate {args.evaluate} and {other}: judge the one or predict the other")
    for name in ("test", "out", "csv"):
        if getattr(args, name) and (args.photos or args.evaluate):
            parser.error(f"--{name}: needs a folder of photos to predict")


def check_files(parser, args):
    """Refuses files that are not there or cannot be written, before TensorFlow loads."""
    for photo in args.photos:
        if not os.path.isfile(photo):
            parser.error(f"{photo}: no such photo")
    if not args.photos:
        folder = args.evaluate or args.test
        if not os.path.isdir(folder):
            parser.error(f"{folder}: no such folder")
        for file in filter(None, (args.out, args.csv)):
            parent = os.path.dirname(file) or "."
            if not os.path.isdir(parent):
                parser.error(f"{file}: no folder {parent}")
            is_special = os.path.exists(file) and not os.path.isfile(file)
            if is_special or not os.access(parent, os.W_OK):
                parser.error(f"{file}: cannot be written")
        if args.csv and os.path.realpath(args.csv) == os.path.realpath(args.out):
            parser.error(f"--csv {args.csv} and --out {args.out}: two files are needed")
    if args.names and not os.path.isfile(args.names):
        parser.error(f"--names {args.names}: no such file")
    for weights in args.weights:
        model_file = pathlib.Path(weights, "model.keras")
        if not model_file.is_file():
            parser.error(f"{model_file}: no such model; python train.py makes one")


def main():
    args = parse_args()
    names = read_names(args.names)
    settings = (args.batch_size, args.workers, args.tta, args.head)
    device.prepare()
    predictor = Ensemble([Predictor(weights, *settings) for weights in args.weights])
    if args.evaluate:
        judge(predictor, args, names)
    elif args.same:
        print_same(predictor, predictor.predict(args.photos))
    elif args.photos:
        print_guesses(predictor, predictor.predict(args.photos), names)
    else:
        predict_folder(predictor, args, names)


if __name__ == "__main__":
    run(main)
