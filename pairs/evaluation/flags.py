"""The flags of `predict.py`. Loads no Keras: `--help` and a wrong flag answer at once."""

import argparse
import os
import pathlib

from pairs.command_line import Parser, add_workers_flag, positive_int
from pairs.errors import UserError
from pairs.evaluation.calibration import model_files
from pairs.evaluation.predictor import MAX_VIEWS

TEST, OUT = "data/test", "predict.txt"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses and checks the flags; a wrong one ends the process with one line."""
    parser = Parser(description="Predict photos: a submission, a table, or lines to read.")
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="photos to guess, or one folder (as --test)")
    add(
        "--weights",
        action="append",
        metavar="DIR",
        help="what train.py wrote, one model or folds; models are averaged, and several folders, "
        "too (default: weights)",
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
    add(
        "--batch-size", type=positive_int, default=32, help="photos per pass (default: %(default)s)"
    )
    add_workers_flag(parser)
    args = parser.parse_args(argv)
    check_args(parser, args)
    args.weights = args.weights or ["weights"]
    args.test, args.out = args.test or TEST, args.out or OUT
    check_files(parser, args)
    return args


def check_args(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses flags that do not go together: none may be given for nothing."""
    for name in ("test", "out", "csv", "names", "evaluate", "report"):
        if getattr(args, name) == "":
            parser.error(f"--{name}: an empty name was given")
    if len(args.photos) == 1 and os.path.isdir(args.photos[0]):
        if args.test:
            parser.error(f"{args.photos[0]} and --test {args.test}: one folder is predicted")
        args.test, args.photos = args.photos[0], []
    if args.tta > MAX_VIEWS:
        parser.error(f"--tta {args.tta}: at most {MAX_VIEWS} views")
    if args.same and len(args.photos) != 2:
        parser.error(f"--same: {len(args.photos)} photos given, exactly 2 are needed")
    if args.same and (args.names or args.head != "mean" or len(args.weights or []) > 1):
        parser.error("--same: one training's pair heads answer; no --names, --head, two --weights")
    if args.report and not args.evaluate:
        parser.error("--report: needs --evaluate DIR, photos whose class is known")
    if args.evaluate and (args.photos or args.test):
        other = args.test or args.photos[0]
        parser.error(f"--evaluate {args.evaluate} and {other} exclude each other; give one")
    for name in ("test", "out", "csv"):
        if getattr(args, name) and (args.photos or args.evaluate):
            parser.error(f"--{name}: needs a folder of photos to predict")
    if args.names and not (args.photos or args.evaluate or args.csv):
        parser.error("--names: the submission has typeids alone; with --csv names are written")


def check_files(parser: Parser, args: argparse.Namespace) -> None:
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
                parser.error(f"{file}: the folder {parent} does not exist; create it first")
            is_special = os.path.exists(file) and not os.path.isfile(file)
            if is_special or not os.access(parent, os.W_OK):
                parser.error(f"{file}: cannot be written")
        if args.csv and os.path.realpath(args.csv) == os.path.realpath(args.out):
            parser.error(f"--csv {args.csv} and --out {args.out}: two files are needed")
    if args.names and not os.path.isfile(args.names):
        parser.error(f"--names {args.names}: no such file")
    for weights in args.weights:
        try:
            model_files(pathlib.Path(weights))
        except UserError as error:
            parser.error(str(error))
