"""The flags of `predict.py`. Loads no Keras: `--help` and a wrong flag answer at once."""

import argparse
import os
import pathlib

from pairs.command_line import Parser, add_openvino_flag, add_workers_flag, positive_int
from pairs.errors import UserError
from pairs.evaluation import export
from pairs.files import check_can_be_made
from pairs.network.weights_folder import FILES, SETTINGS, model_files
from pairs.photos.find import PHOTO_SUFFIXES, SIDES, has_sides
from pairs.photos.folds import fold_of_folder
from pairs.photos.views import MAX_VIEWS

TEST, OUT = "data/test", "predict.txt"
# Each answers another question.
QUESTIONS = ("same", "evaluate", "pairs", "query", "export")
# Of models, of weights that a user brought, and of what is known of a training.
KEPT_SUFFIXES = (".keras", ".h5", ".json")
# Files that are read.
READ = ("names", "pairs")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses and checks the flags; a wrong one ends the process with one line."""
    parser = Parser(description="Predict, evaluate or compare photos; export the model.")
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="photos to classify, or one folder (as --test)")
    add(
        "--weights",
        action="append",
        metavar="DIR",
        help="folder that train.py wrote: one model, or folds, which are averaged; may be repeated "
        "to average several folders (default: weights)",
    )
    add(
        "--head",
        choices=("all", "mean", "first", "second"),
        help="probabilities to use: mean: of both softmax heads; all: the mean of these and the "
        "class centres; first, second: one head (default: all if trained on all pairs, else mean)",
    )
    add("--test", metavar="DIR", help=f"folder of photos, searched recursively (default: {TEST})")
    add(
        "--out",
        metavar="FILE",
        help=f"file to write: the submission (default: {OUT}), or the CSV of --pairs or --query",
    )
    add("--csv", metavar="FILE", help="also write a table of the likeliest classes")
    add("--names", metavar="FILE", help="names of the classes: typeid, tab, name on each line")
    add("--features", metavar="FILE", help="also write features and probabilities, as .npz")
    add("--same", action="store_true", help="say whether two photos show the same class")
    add(
        "--pairs",
        metavar="FILE",
        help="CSV of pairs, two paths on each line; their probabilities go to --out, as CSV",
    )
    add(
        "--query",
        metavar="DIR",
        help="find the most similar photos in --gallery for each photo; written to --out, as CSV",
    )
    add("--gallery", metavar="DIR", help="folder of photos that --query searches")
    add(
        "--new-classes",
        action="store_true",
        help="with --same, --pairs, --query: the photos show classes the model was not trained on",
    )
    add("--evaluate", metavar="DIR", help="evaluate the model on class folders, e.g. data/valid")
    add("--report", metavar="DIR", help="with --evaluate: folder to write pages and tables to")
    add(
        "--export",
        metavar="FILE",
        help="write the model for use without Keras: FILE.onnx, FILE.tflite, or a new folder, as "
        "SavedModel",
    )
    add(
        "--tta",
        type=positive_int,
        default=1,
        metavar="N",
        help=f"average N views of each photo; 2: with its mirror image, up to {MAX_VIEWS}: with "
        "crops (default: 1)",
    )
    add(
        "--batch-size", type=positive_int, default=32, help="photos per pass (default: %(default)s)"
    )
    add_workers_flag(parser)
    add_openvino_flag(parser, "the network")
    args = parser.parse_args(argv)
    if len(args.photos) == 1 and not asked(args) and os.path.isdir(args.photos[0]):
        if args.test:
            parser.error(f"{args.photos[0]} and --test {args.test}: one folder is predicted")
        args.test, args.photos = args.photos[0], []
    check_args(parser, args)
    args.weights = args.weights or ["weights"]
    if not (asked(args) or args.photos):
        args.test, args.out = args.test or TEST, args.out or OUT
    check_files(parser, args)
    return args


def asked(args: argparse.Namespace) -> list[str]:
    """The flags given of which each asks for something else than a submission."""
    return [f"--{name}" for name in QUESTIONS if getattr(args, name)]


def check_args(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses flags that do not go together: none may be given for nothing."""
    if args.tta > MAX_VIEWS:
        parser.error(f"--tta {args.tta}: at most {MAX_VIEWS} views")
    if args.same and len(args.photos) != 2:
        parser.error(f"--same: exactly 2 photos are needed, not {len(args.photos)}")
    if args.report and not args.evaluate:
        parser.error("--report: needs --evaluate DIR, photos whose class is known")
    questions = asked(args)
    if len(questions) > 1:
        parser.error(f"{' and '.join(questions)} cannot be combined; give one")
    other = args.test or (args.photos and not args.same and args.photos[0])
    if questions and other:
        parser.error(f"{questions[0]} and {other} cannot be combined; give one")
    for name in ("test", "csv", "features"):
        if getattr(args, name) and (args.photos or questions):
            parser.error(f"--{name}: needs a folder of photos to predict")
    if args.features and not args.features.endswith(".npz"):
        parser.error(f"--features {args.features}: a name that ends in .npz is needed")
    folders = [os.path.realpath(folder) for folder in args.weights or []]
    for folder, place in zip(args.weights or [], folders, strict=True):
        if folders.count(place) > 1:
            parser.error(f"--weights {folder}: given twice")
    check_answers(parser, args)
    if args.export:
        check_export(parser, args)
    if args.names and not (args.photos or args.evaluate or args.csv):
        parser.error("--names: the submission has typeids alone; with --csv names are written")


def check_answers(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses what does not fit the questions about pairs of photos."""
    about_pairs = args.same or args.pairs or args.query
    if (args.gallery is None) != (args.query is None):
        parser.error("--query and --gallery go together: photos, and the folder that is searched")
    if args.new_classes and not about_pairs:
        parser.error("--new-classes: goes with --same, --pairs or --query")
    if args.out and (args.photos or args.evaluate):
        parser.error("--out: needs a folder of photos to predict, --pairs or --query")
    if (args.pairs or args.query) and not args.out:
        parser.error(f"{asked(args)[0]}: --out FILE is needed, a CSV to write")
    if args.names and about_pairs:
        parser.error("--names: answers about pairs of photos name no class")
    if (args.features or about_pairs) and (args.head or len(args.weights or []) > 1):
        flag = "--features" if args.features else asked(args)[0]
        parser.error(f"{flag}: needs a single --weights, and no --head")
    if about_pairs and args.tta > 1:
        parser.error(f"{asked(args)[0]}: was calibrated without --tta; leave it out")


def check_export(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses what an export would ignore, and what stops it."""
    ignored = parser.given(args, besides=("export", "weights", "photos"))
    if ignored:
        parser.error(f"--export takes --weights alone, not {' or '.join(ignored)}")
    if len(args.weights or []) > 1:
        parser.error("--export: needs a single --weights")
    if reason := export.why_not(args.export):
        parser.error(f"--export {args.export}: {reason}")


def is_of_training(file: str, weights: list[str]) -> bool:
    """Whether a file is, by its place and name, one that belongs to a weights folder."""
    path = pathlib.Path(os.path.realpath(file))
    homes = {pathlib.Path(os.path.realpath(folder)) for folder in weights}
    homes |= {home.parent for home in homes if fold_of_folder(home)}
    is_kept = path.name in FILES or path.suffix in KEPT_SUFFIXES
    return is_kept and not homes.isdisjoint(path.parents)


def holds_photos(report: str, judged: str) -> bool:
    """Whether a report's pictures would be taken for photos by whoever looks there next."""
    whole, folder = (pathlib.Path(os.path.realpath(path)) for path in (report, judged))
    inside = [whole, *whole.parents]
    in_side = any(place.name in SIDES and has_sides(place.parent) for place in inside)
    if in_side or (folder in inside and not has_sides(folder)):
        return True  # it would be a class, or in one
    try:
        names = os.listdir(report)
    except OSError:  # it is not there yet
        return False
    are_photos = any(os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES for name in names)
    is_report = "index.html" in names  # with pictures of its own
    return whole == folder or (are_photos and not is_report)


def check_files(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses files that are not there or cannot be written, before TensorFlow loads."""
    for photo in args.photos:
        if not os.path.isfile(photo):
            is_folder = os.path.isdir(photo)
            what = "a folder; give one folder, or photos" if is_folder else "no such photo"
            parser.error(f"{photo}: {what}")
    for name in ("evaluate", "test", "query", "gallery"):
        folder = getattr(args, name)
        if folder and not os.path.isdir(folder):
            what = "a file; a folder is needed" if os.path.isfile(folder) else "no such folder"
            parser.error(f"--{name} {folder}: {what}")
        if folder and os.path.exists(os.path.join(folder, SETTINGS)):
            parser.error(f"--{name} {folder}: holds a training; a folder of photos is needed")
    if args.pairs and not os.path.isfile(args.pairs):
        what = "a folder; a CSV of pairs" if os.path.isdir(args.pairs) else "no such file; a CSV"
        parser.error(f"--pairs {args.pairs}: {what} is needed")
    check_report(parser, args)
    check_written(parser, args)
    if args.names and not os.path.isfile(args.names):
        parser.error(f"--names {args.names}: no such file")
    for weights in args.weights:
        try:
            model_files(pathlib.Path(weights))
        except UserError as error:
            parser.error(str(error))


def check_report(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses a place where a report cannot be, or would be taken for photos."""
    if not args.report:
        return
    if os.path.lexists(args.report) and not os.path.isdir(args.report):
        parser.error(f"--report {args.report}: a file; a folder is written")
    if holds_photos(args.report, args.evaluate):
        parser.error(f"--report {args.report}: among the photos; choose another folder")
    check_can_be_made("--report", args.report)


def check_written(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses names of files that cannot be written, or that something else has."""
    written = {
        name: getattr(args, name) for name in ("out", "csv", "features") if getattr(args, name)
    }
    if args.export:
        written["export"] = args.export.rstrip("/")
    for name, file in written.items():
        parent = os.path.dirname(file) or "."
        if not os.path.isdir(parent):
            parser.error(f"{file}: the folder {parent} does not exist; create it first")
        if os.path.exists(file) and not os.path.isfile(file):
            what = "a folder; a file is written" if os.path.isdir(file) else "not a regular file"
            parser.error(f"{file}: {what}; choose another name")
        if not os.access(parent, os.W_OK):
            parser.error(f"{file}: the folder {parent} is read-only; choose another one")
        if is_of_training(file, args.weights):
            parser.error(f"--{name} {file}: a file of the training; choose another name")
        if os.path.splitext(file)[1].lower() in PHOTO_SUFFIXES:
            parser.error(f"--{name} {file}: that is the name of a photo; choose another one")
        others = {other: path for other, path in written.items() if other < name}
        others |= {other: getattr(args, other) for other in READ if getattr(args, other)}
        for other, path in others.items():
            if os.path.realpath(path) == os.path.realpath(file):
                parser.error(f"--{other} {path} and --{name} {file}: two files are needed")
