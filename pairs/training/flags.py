"""The flags of `train.py`. Loads no Keras: `--help` and a wrong flag answer at once."""

import argparse
import importlib.util
import os
import pathlib
from collections.abc import Callable

from pairs.command_line import Parser, add_openvino_flag, add_workers_flag, whole_number
from pairs.devices.cards import PRECISIONS
from pairs.network.trunks import TRUNKS
from pairs.photos.fit import FITS, SQUASH
from pairs.photos.folds import MOST_FOLDS
from pairs.training.recipe import RECIPES, Recipe

# One image of this size takes 12 GB in the blocks stage; a larger number is a slip.
MAX_IMAGE_SIZE = 2048
# Keras' `set_random_seed` takes 32 bits; a stage's seed is 10 times this, and its number.
MAX_SEED = 2**32 // 10 - 1


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses and checks the flags; a wrong one ends the process with one line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    smallest = TRUNKS[args.trunk].min_image_size
    largest = int(MAX_IMAGE_SIZE / RECIPES[args.recipe].image_scale)
    if not smallest <= args.image_size <= largest:
        parser.error(
            f"--image-size {args.image_size}: {args.trunk} needs at least {smallest} pixels, "
            f"--recipe {args.recipe} takes at most {largest}"
        )
    if args.batch_size < 2:
        parser.error(f"--batch-size {args.batch_size}: a pair needs at least 2 images")
    if args.folds is not None and not 2 <= args.folds <= MOST_FOLDS:
        parser.error(f"--folds {args.folds}: 2 to {MOST_FOLDS} are expected")
    if not 0 <= args.seed <= MAX_SEED:
        parser.error(f"--seed {args.seed}: 0 or more is needed, at most {MAX_SEED}")
    if args.openvino and args.precision != "float32":
        parser.error(f"--openvino and --precision {args.precision} cannot be combined; give one")
    for flag, folder in (("--weights", args.weights), ("--tensorboard", args.tensorboard)):
        if folder and os.path.exists(folder) and not os.path.isdir(folder):
            parser.error(f"{flag} {folder}: a file; a folder is needed")
    if args.pretrained not in ("imagenet", "none") and not pathlib.Path(args.pretrained).is_file():
        parser.error(f"--pretrained {args.pretrained}: no such file (or imagenet, or none)")
    if args.tensorboard and not importlib.util.find_spec("tensorboard"):
        parser.error("--tensorboard: TensorBoard is not installed; pip install tensorboard")
    ignored = parser.given(args, besides=("demo", "seed", "workers"))
    if args.demo and ignored:
        parser.error(f"--demo takes --seed and --workers alone, not {' or '.join(ignored)}")
    return args


def make_parser() -> Parser:
    """The flags and their defaults."""
    parser = Parser(
        description="Train on data/train, validate on data/valid, write weights/model.keras."
    )
    add_recipe_flags(parser)
    add_machine_flags(parser)
    return parser


def epochs_count(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    value = whole_number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} given, 0 (skip the stage) or more is needed")
    return value


def of_recipes(say: Callable[[Recipe], str]) -> str:
    """What is to be said of each recipe, for `--help`."""
    return ", ".join(f"{name}: {say(plan)}" for name, plan in RECIPES.items())


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """What is trained, and how: these decide the result."""
    add = parser.add_argument
    add("--data", default="data", help="folder with train/ and valid/ (default: %(default)s)")
    add("--weights", default="weights", help="folder for results (default: %(default)s)")
    add(
        "--trunk",
        choices=TRUNKS,
        default="xception",
        help="the pretrained network (default: %(default)s)",
    )
    add(
        "--loss",
        choices=("paired", "softmax"),
        default="paired",
        help="paired: two softmax heads and a pair head; softmax: one head (default: paired)",
    )
    add(
        "--pretrained",
        default="imagenet",
        metavar="imagenet|none|FILE",
        help="initial weights of the trunk; imagenet: looked for in --weights and its parent, else "
        "downloaded; none: random (default: %(default)s)",
    )
    add(
        "--recipe",
        choices=RECIPES,
        default="seed",
        help=f"training plan; {of_recipes(lambda plan: plan.what)} (default: %(default)s)",
    )
    add(
        "--image-size",
        type=int,
        default=299,
        help="side in pixels, multiplied by the recipe: "
        f"{of_recipes(lambda plan: f'{plan.image_scale:g}')} (default: %(default)s)",
    )
    add(
        "--fit",
        choices=FITS,
        default=SQUASH,
        help="how a photo becomes a square; squash: resize it, ignoring proportions; crop: keep "
        "its largest centred square; pad: add grey borders (default: %(default)s)",
    )
    add("--batch-size", type=int, default=32, help="images per step (default: %(default)s)")
    add(
        "--epochs",
        type=epochs_count,
        nargs="+",
        help="maximum epochs of each stage, 0 skips the stage (default: the recipe's; "
        f"{of_recipes(lambda plan: ' '.join(str(stage.epochs) for stage in plan.stages))})",
    )
    add(
        "--folds",
        type=int,
        metavar="K",
        help="train K models (2 to 10), each without one Kth of the photos in train/ and valid/; "
        "predict.py averages them",
    )
    add(
        "--balance",
        action="store_true",
        help="weight the losses of the softmax heads so that every class counts the same, both in "
        "training and in validation",
    )
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """What the machine does with it."""
    add = parser.add_argument
    add_workers_flag(parser)
    add(
        "--cache",
        choices=("float32", "float16", "off"),
        default="float32",
        help="store activations of the frozen layers in --weights during training; float16: in "
        "half the disk space of float32; off: recompute them every epoch (default: %(default)s)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="number format of activations; the mixed ones are faster on GPUs with compute "
        "capability 7.0 (float16) or 8.0 (bfloat16) and above, mixed_bfloat16 also on CPUs with "
        "bfloat16 hardware (default: %(default)s)",
    )
    add_openvino_flag(parser, "the frozen layers")
    add("--jit", action="store_true", help="compile with XLA: may be faster, needs more memory")
    add(
        "--distribute",
        action="store_true",
        help="train on all devices of this machine, or of the cluster that KERAS_DISTRIBUTION_... "
        "variables describe (JAX); --batch-size is the total over all devices",
    )
    add("--tensorboard", metavar="DIR", help="folder to write TensorBoard logs to")
    add(
        "--restart",
        action="store_true",
        help="start over; the old run moves to WEIGHTS/run-1, run-2, ...; omit it to resume",
    )
    add("--demo", action="store_true", help="draw a small data set, train, predict (5 minutes)")
