"""Trains the network of `model.py` on the class folders that `img2keras.py` wrote.

The 2017 recipe has three stages, each from the best weights of the one before
(`recipe.py`; `--recipe tuned` has two):

    heads   trunk frozen; the new heads learn                       Adam
    blocks  the trunk's last blocks join in                         SGD
    plain   the same, on photos as they are: augmentation off       SGD

    data/train, data/valid  ->  weights/model.keras   for predict.py
                                weights/log.csv       every epoch
                                weights/curves.png    the same, drawn

Stopped or killed, the same command goes on after the last finished epoch.

Run it:      python train.py --data data --weights weights
Or see it:   python train.py --demo
"""

import argparse
import contextlib
import importlib.util
import pathlib
import shlex

from img2keras import SIDES
from pairs.command_line import Parser, UserError, add_workers_flag, run, stop_at_once
from pairs.devices import cluster
from pairs.devices import inventory as device
from pairs.devices.inventory import PRECISIONS
from pairs.files import replacing
from pairs.photos.check import check_photos, photos_of, say_what_is_in_both, vanished
from pairs.photos.read import find_class_photos
from pairs.training import run_folder
from pairs.training.recipe import RECIPES, plan

# Smallest image side in pixels that the trunks accept (Keras' own limits), here
# so that a wrong --image-size is refused before TensorFlow loads.
MIN_IMAGE_SIZE = {"xception": 71, "inceptionv3": 75}
# One image of this size takes 12 GB in the blocks stage; a larger number is a slip.
MAX_IMAGE_SIZE = 2048
# NumPy's generators take 32 bits, and every stage makes a seed of its own from it.
MAX_SEED = 2**32 // 10 - max(map(len, RECIPES.values()))


def train(args):
    """Runs the stages, or goes on with the run that is in `--weights`.

    Args:
        args: as `parse_args` returns them.

    Returns:
        Path of the final model file.

    Raises:
        UserError: data or weights are missing or do not fit, the folder holds
            another run, or there is no cluster to join.
    """
    stages = plan(args.recipe, args.epochs)
    folder = pathlib.Path(args.weights)
    # A wrong folder is known before anything is written.
    listed = list_photos(args.data)
    devices = cluster.ALONE
    if args.distribute:
        devices = cluster.join(args.batch_size, args.precision)
    locked = run_folder.locked(folder) if devices.is_first else contextlib.nullcontext()
    with cluster.own_errors(devices), locked:
        # The others find what the first one leaves: every photo checked, a model to start from.
        with devices.first_goes_ahead():
            photos, valid = prepare(args, stages, folder, listed, devices)
        return run_stages(stages, args, photos, valid, devices)


def prepare(args, stages, folder, listed, devices):
    """Checks photos and settings, and builds the first model where it is not there.

    Args:
        args: as `parse_args` returns them.
        stages: list of `recipe.Stage`.
        folder: `pathlib.Path`, the weights folder.
        listed: `list_photos(args.data)`.
        devices: `cluster.Cluster`.

    Returns:
        `(photos, valid)`, as `photo.Photos`: all readable ones.
    """
    if args.restart and devices.is_first:
        run_folder.set_aside(folder)
    known = run_folder.read_photos(folder)
    sides, found = check_sides(args.data, listed, known, args.workers)
    if (folder / "settings.json").exists():
        sides, found = keep_vanished(args.data, sides, known, found)
    photos, valid = sides
    say_what_is_in_both(found["train"], found["valid"])
    unjudged = sorted(set(photos.labels) - set(valid.labels))
    if unjudged:
        some = photos.typeids[unjudged[0]]
        print(f"note: no validation photos of {len(unjudged)} classes, e.g. {some!r}")
    print(
        f"{len(photos.typeids)} classes, {len(photos)} photos to train, {len(valid)} to validate",
        flush=True,
    )
    # TensorFlow takes seconds to load: only once everything else is right.
    device.prepare(args.precision, args.distribute)
    from pairs.training import stage

    constants = stage.constants(devices)
    settings = run_folder.make_settings(args, stages, constants, photos.typeids, found)
    goes_on = run_folder.holds_run(folder, settings, known, found)
    if devices.is_first:
        if found != known:
            run_folder.write_photos(folder, found)
        if not goes_on:
            stage.build_first_model(args, photos, folder / "start.keras")
            draw_first_pairs(stages, args, photos, folder / "pairs.png")
            run_folder.write_settings(folder, settings)
    elif not goes_on:
        raise UserError(
            f"--weights {folder}: process {devices.process} does not find there what process 0 "
            f"wrote; all of them need the same shared folder"
        )
    return photos, valid


def list_photos(data):
    """The photos of both sides, `(train, valid)`, as `photo.Photos`."""
    photos = find_class_photos(pathlib.Path(data, SIDES[0]))
    return photos, find_class_photos(pathlib.Path(data, SIDES[1]), photos.typeids)


def check_sides(data, listed, known, workers):
    """Checks the photos of both sides; what is known of an earlier check is not read again.

    Args:
        data: folder with both sides.
        listed: `list_photos(data)`.
        known: `run_folder.read_photos(...)`.
        workers: threads that read photos.

    Returns:
        `(usable, found)`: a list of `photo.Photos`, one a side, and the new
        `known`.
    """
    usable, found = [], {}
    for side, photos in zip(SIDES, listed, strict=True):
        photos, found[side] = check_photos(photos, pathlib.Path(data, side), known[side], workers)
        usable.append(photos)
    return usable, found


def keep_vanished(data, sides, known, found):
    """Puts photos that vanished since the run began back into its lists.

    They would end a run that is not interrupted neither: others of their class
    take their place, see `Photos.open`.

    Args:
        data: folder with both sides.
        sides, found: of `check_sides`.
        known: what the run began with.

    Returns:
        `(sides, found)`, changed or as they were.
    """
    kept, kept_found = [], {}
    for side, photos in zip(SIDES, sides, strict=True):
        gone = vanished(known[side], found[side])
        if gone:
            print(f"note: {len(gone)} {side} photos have vanished since the run began: {gone[0]!r}")
            photos = photos_of(known[side], pathlib.Path(data, side), photos.typeids)
        kept.append(photos)
        kept_found[side] = known[side] if gone else found[side]
    return kept, kept_found


def draw_first_pairs(stages, args, photos, picture):
    """Draws the first pairs as the training sees them: is the augmentation sensible?"""
    from pair_generator import PairBatches, draw_pairs

    batches = PairBatches(photos, 160, min(16, args.batch_size), args.seed, stages[0].augment)
    with replacing(picture) as temporary:
        draw_pairs(batches[0], photos.typeids).save(temporary)
    print(f"the first pairs, drawn: {picture}")


def run_stages(stages, args, photos, valid, devices):
    """Trains whatever stages of the plan are not done; returns the model file."""
    from pairs.training.activation_store import remove_stores
    from pairs.training.checkpoint import read_checkpoint, remove_checkpoint
    from pairs.training.log import RunLog
    from pairs.training.stage import copy_file, model_files, run_stage

    folder = pathlib.Path(args.weights)
    model_file = folder / "start.keras"
    checkpoint = read_checkpoint(folder)
    log = RunLog(folder, stages, checkpoint.rows, checkpoint.seconds, devices.is_first)
    devices.wait_for_all()  # what was there is read, and may be written anew
    for stage in stages:
        if log.is_done(stage):
            print(f"stage {stage.name}: done already")
            model_file = model_files(folder, stage)[0]
        else:
            check_still_there(model_file)
            model_file = run_stage(stage, args, photos, valid, model_file, log, checkpoint, devices)
    if devices.is_first and not (folder / "model.keras").is_file():
        check_still_there(model_file)
        copy_file(model_file, folder / "model.keras")  # somebody deleted it
    devices.wait_for_all()  # nobody reads them any more
    if devices.is_first:
        remove_stores(folder)
        remove_checkpoint(folder)
    devices.wait_for_all()  # terabytes take time to delete, and JAX waits for 5 minutes at its end
    print_summary(args, log)
    return folder / "model.keras"


def check_still_there(model_file):
    """Raises a UserError where a model that the run made, and goes on from, was deleted."""
    if not model_file.is_file():
        raise UserError(
            f"{model_file}: gone, and the run goes on from it; bring it back, or --restart begins "
            f"anew and keeps what is left aside"
        )


def print_summary(args, log):
    """Prints how each stage ended, and what to type next."""
    from pairs.training.log import shown

    columns = [key for key in ("error", "same", "different") if key in log.results[-1]]
    print("\nstage   " + "".join(f"{column:>11}" for column in columns))
    for result in log.results:
        print(f"{result['stage']:<8}" + "".join(f"{shown(result[key]):>11}" for key in columns))
    quoted = {name: shlex.quote(getattr(args, name)) for name in ("data", "weights")}
    test = pathlib.Path(args.data, "test")
    test = shlex.quote(str(test)) if test.is_dir() else "FOLDER"
    print(
        f"next: python predict.py --weights {quoted['weights']} "
        f"--evaluate {quoted['data']}/valid --report report\n"
        f"then: python predict.py --weights {quoted['weights']} --test {test}"
    )


def epochs_count(text):
    """An argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} given, 0 (skip the stage) or more is needed")
    return value


def parse_args(argv=None):
    parser = Parser(
        description="Train on data/train, validate on data/valid, write weights/model.keras."
    )
    add = parser.add_argument
    add("--data", default="data", help="folder with train/ and valid/ (default: %(default)s)")
    add("--weights", default="weights", help="folder for results (default: %(default)s)")
    add("--trunk", choices=MIN_IMAGE_SIZE, default="xception", help="default: %(default)s")
    add(
        "--loss",
        choices=("paired", "softmax"),
        default="paired",
        help="paired: two softmax heads and same/different; softmax: one head (default: paired)",
    )
    add(
        "--pretrained",
        default="imagenet",
        metavar="imagenet|none|FILE",
        help="where the trunk starts; imagenet looks into --weights, then downloads "
        "(default: %(default)s)",
    )
    add(
        "--recipe",
        choices=RECIPES,
        default="seed",
        help="the plan of stages in recipe.py: seed is that of 2017 (default: %(default)s)",
    )
    add("--image-size", type=int, default=299, help="side in pixels (default: %(default)s)")
    add("--batch-size", type=int, default=32, help="images a step (default: %(default)s)")
    add(
        "--epochs",
        type=epochs_count,
        nargs="+",
        help="at most so many for each stage, 0 leaves it out (default: the recipe's, "
        "seed: 30 30 10)",
    )
    add("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    add_workers_flag(parser)
    add(
        "--cache",
        choices=("float32", "float16", "off"),
        default="float32",
        help="activations of what is frozen, stored in --weights while it trains: float32 changes "
        "no result, float16 takes half the disk (default: %(default)s)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of activations; mixed ones are faster from compute capability 7.0 (float16) or 8.0 "
        "(bfloat16) on (default: %(default)s)",
    )
    add("--jit", action="store_true", help="XLA: may be faster, takes more GPU memory")
    add(
        "--distribute",
        action="store_true",
        help="train on all devices of this machine, or of the cluster that KERAS_DISTRIBUTION_... "
        "names (JAX); --batch-size is that of all of them together",
    )
    add("--tensorboard", metavar="DIR", help="also write every epoch there for TensorBoard")
    add("--restart", action="store_true", help="begin anew; the run in --weights is kept aside")
    add("--demo", action="store_true", help="draw a small data set, train and predict: 5 minutes")
    args = parser.parse_args(argv)
    if not MIN_IMAGE_SIZE[args.trunk] <= args.image_size <= MAX_IMAGE_SIZE:
        parser.error(
            f"--image-size {args.image_size}: {args.trunk} needs at least "
            f"{MIN_IMAGE_SIZE[args.trunk]} pixels, at most {MAX_IMAGE_SIZE}"
        )
    if args.batch_size < 2:
        parser.error(f"--batch-size {args.batch_size}: a pair needs at least 2 images")
    if not 0 <= args.seed <= MAX_SEED:
        parser.error(f"--seed {args.seed}: 0 or more is needed, at most {MAX_SEED}")
    ignored = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(args).items()
        if args.demo
        and name not in ("demo", "seed", "workers")
        and value != parser.get_default(name)
    ]
    if ignored:
        parser.error(f"--demo takes --seed and --workers alone, not {' or '.join(ignored)}")
    if args.pretrained not in ("imagenet", "none") and not pathlib.Path(args.pretrained).is_file():
        parser.error(f"--pretrained {args.pretrained}: no such file (or imagenet, or none)")
    if args.tensorboard and not importlib.util.find_spec("tensorboard"):
        parser.error("--tensorboard: TensorBoard is not installed; pip install tensorboard")
    return args


def main():
    args = parse_args()
    if args.demo:
        stop_at_once("the next demo begins anew")
        from pairs.demo import demo

        demo.run_demo(args.seed, args.workers)
        return
    without = " without --restart" if args.restart else ""
    supervised = cluster.is_supervised()
    if not supervised:
        stop_at_once(f"run the same command again{without} to go on after the last finished epoch")
    if args.distribute and cluster.is_cluster() and not supervised:
        cluster.supervise()
    train(args)


if __name__ == "__main__":
    run(main)
