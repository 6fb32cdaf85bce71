"""Trains the network of `model.py` on the class folders that `img2keras.py` wrote.

The 2017 recipe has three stages, each from the best weights of the one before
(pairs/training/recipe.py; `--recipe tuned` has two):

    heads   trunk frozen; the new heads learn                       Adam
    blocks  the trunk's last blocks join in                         SGD
    plain   the same, on photos as they are: augmentation off       SGD

    data/train, data/valid  ->  weights/model.keras   for predict.py
                                weights/log.csv       every epoch
                                weights/curves.png    the same, drawn

If it is stopped or killed, the same command resumes after the last finished epoch.

Run it:      python train.py --data data --weights weights
Or see it:   python train.py --demo
"""

import contextlib
import pathlib
import shlex

import numpy as np

from pair_generator import PairBatches, note_on_pairs
from pairs.command_line import run, stop_at_once
from pairs.devices import cluster, inventory, supervisor
from pairs.errors import UserError
from pairs.files import replacing
from pairs.network import trunks
from pairs.photos.check import check_sides, keep_vanished, list_photos, warn_about_leakage
from pairs.photos.draw import draw_pairs
from pairs.photos.read import TRAIN, VALID
from pairs.training import recipe, run_folder
from pairs.training.flags import parse_args

# Batches whose mean makes the BatchNormalization statistics of a random trunk.
STATISTICS_BATCHES = 8


def train(args):
    """Runs the stages, or resumes the run that is in `--weights`.

    Args:
        args: as `parse_args` returns them; nothing below this file sees them.

    Returns:
        Path of the final model file.

    Raises:
        UserError: data or weights are missing or do not fit, the folder holds
            another run, or there is no cluster to join.
    """
    stages = recipe.plan(args.recipe, args.epochs)
    folder = pathlib.Path(args.weights)
    # A wrong folder is known before anything is written.
    listed = list_photos(args.data)
    devices = cluster.ALONE
    if args.distribute:
        devices = cluster.join(args.batch_size, args.precision)
    locked = run_folder.locked(folder) if devices.is_main_process else contextlib.nullcontext()
    with supervisor.one_line_errors(devices.num_processes), locked:
        # The others find what the main process leaves: photos checked, a model to start from.
        with devices.main_process_first():
            photos, valid = prepare(args, stages, folder, listed, devices)
        results = run_stages(make_run(args, stages, folder, devices), photos, valid)
    print_summary(args, results)
    return folder / "model.keras"


def prepare(args, stages, folder, listed, devices):
    """Checks photos and settings, and builds the first model if it is not there.

    Returns:
        `(photos, valid)`: all readable ones.
    """
    if args.restart and devices.is_main_process:
        run_folder.set_aside(folder)
    known = run_folder.read_check(folder)
    sides, found = check_sides(args.data, listed, known, args.workers)
    if (folder / "settings.json").exists():
        sides, found = keep_vanished(args.data, sides, known, found)
    photos, valid = sides
    warn_about_leakage(found[TRAIN], found[VALID])
    unjudged = sorted(set(photos.labels) - set(valid.labels))
    if unjudged:
        some = photos.typeids[unjudged[0]]
        print(f"note: no validation photos of {len(unjudged)} classes, e.g. {some!r}")
    print(
        f"{len(photos.typeids)} classes, {len(photos)} photos to train, {len(valid)} to validate",
        flush=True,
    )
    # Keras takes seconds to load: only once everything else is right.
    inventory.prepare(args.precision, args.distribute)
    settings = run_folder.make_settings(vars(args), stages, devices, photos.typeids, found)
    resumes = run_folder.holds_run(folder, settings, known, found)
    if devices.is_main_process:
        if found != known:
            run_folder.write_check(folder, found)
        if not resumes:
            build_first_model(args, photos, folder / "start.keras")
            draw_first_pairs(args, stages, photos, folder / "pairs.png")
            run_folder.write_settings(folder, settings)
    elif not resumes:
        raise UserError(
            f"--weights {folder}: process {devices.process} does not find there what process 0 "
            f"wrote; all of them need the same shared folder"
        )
    return photos, valid


def build_first_model(args, photos, start_file):
    """Builds the network with its starting weights and saves it to `start_file`."""
    import keras

    from model import build_model
    from pairs.network.files import draw_model, save_model

    keras.utils.set_random_seed(args.seed)
    trunk = trunks.build_trunk(args.trunk, args.image_size, args.pretrained, args.weights)
    if args.pretrained == "none":
        batches = PairBatches(photos, args.image_size, args.batch_size, args.seed)
        count = min(STATISTICS_BATCHES, len(batches))
        scale, offset = map(np.float32, trunks.INPUT_SCALE)
        images = (batches[step][0]["img_1"] * scale + offset for step in range(count))
        trunks.estimate_statistics(trunk, images)
    num_photos = np.bincount(photos.labels, minlength=len(photos.typeids)).tolist()
    model = build_model(trunk, photos.typeids, num_photos, paired=args.loss == "paired")
    save_model(model, start_file)
    picture = start_file.with_name("model.png")
    warning = draw_model(model, picture)
    print(warning or f"drawing of the model: {picture}")


def draw_first_pairs(args, stages, photos, picture):
    """Draws the first pairs as the training sees them: is the augmentation sensible?"""
    batches = PairBatches(photos, 160, min(16, args.batch_size), args.seed, stages[0].augment)
    with replacing(picture) as temporary:
        draw_pairs(batches[0], photos.typeids).save(temporary)
    print(f"drawing of the first pairs: {picture}")
    trained = PairBatches(photos, 160, args.batch_size, args.seed)
    if args.loss == "paired" and (note := note_on_pairs(trained)):
        print(note)


def make_run(args, stages, folder, devices):
    """What all stages share: a `Run`."""
    from pairs.training.checkpoint import read_checkpoint
    from pairs.training.log import RunLog
    from pairs.training.run import Run

    checkpoint = read_checkpoint(folder)
    log = RunLog(folder, stages, checkpoint.rows, checkpoint.seconds, devices.is_main_process)
    return Run(
        folder=folder,
        stages=stages,
        trunk=args.trunk,
        image_size=args.image_size,
        batch_size=args.batch_size,
        seed=args.seed,
        cache=args.cache,
        workers=args.workers,
        jit=args.jit,
        tensorboard=pathlib.Path(args.tensorboard) if args.tensorboard else None,
        devices=devices,
        log=log,
        checkpoint=checkpoint,
    )


def run_stages(run, photos, valid):
    """Trains the stages that are not done yet; returns what each of them ended with."""
    from pairs.training.activation_store import remove_stores
    from pairs.training.checkpoint import remove_checkpoint
    from pairs.training.stage import copy_file, model_files, run_stage

    model_file = run.folder / "start.keras"
    run.devices.barrier()  # what was there is read, and may be overwritten
    for stage in run.stages:
        if run.log.is_done(stage):
            print(f"stage {stage.name}: done already")
            model_file = model_files(run.folder, stage)[0]
            continue
        check_still_there(model_file)
        size, groups = run.image_size_of(stage), run.devices.num_groups
        pairs = PairBatches(
            photos, size, run.batch_size, run.seed_of(stage), stage.augment, num_groups=groups
        )
        valid_pairs = PairBatches(
            valid, size, run.batch_size, run.seed, validation=True, num_groups=groups
        )
        model_file = run_stage(run, stage, pairs, valid_pairs, model_file)
    final = run.folder / "model.keras"
    if run.devices.is_main_process and not final.is_file():  # somebody deleted it
        check_still_there(model_file)
        copy_file(model_file, final)
    run.devices.barrier()  # nobody reads them any more
    if run.devices.is_main_process:
        remove_stores(run.folder)
        remove_checkpoint(run.folder)
    # Terabytes take time to delete, and JAX waits for 5 minutes at its end.
    run.devices.barrier()
    return run.log.results


def check_still_there(model_file):
    """Raises a UserError if a model that the run made, and resumes from, was deleted."""
    if not model_file.is_file():
        raise UserError(
            f"{model_file}: gone, and the run resumes from it; restore it, or {run_folder.RESTART}"
        )


def print_summary(args, results):
    """Prints how each stage ended, and what to type next."""
    from pairs.training.log import shown

    columns = [key for key in ("error", "same", "different") if key in results[-1]]
    print("\nstage   " + "".join(f"{column:>11}" for column in columns))
    for result in results:
        print(f"{result['stage']:<8}" + "".join(f"{shown(result[key]):>11}" for key in columns))
    quoted = {name: shlex.quote(getattr(args, name)) for name in ("data", "weights")}
    test = pathlib.Path(args.data, "test")
    test = shlex.quote(str(test)) if test.is_dir() else "FOLDER"
    print(
        f"next: python predict.py --weights {quoted['weights']} "
        f"--evaluate {quoted['data']}/valid --report report\n"
        f"then: python predict.py --weights {quoted['weights']} --test {test}"
    )


def main():
    args = parse_args()
    if args.demo:
        stop_at_once("the next demo starts over")
        from pairs.demo import demo

        demo.run_demo(args.seed, args.workers)
        return
    without = " without --restart" if args.restart else ""
    supervised = supervisor.is_supervised()
    if not supervised:
        stop_at_once(f"run the same command again{without} to resume after the last finished epoch")
    if args.distribute and cluster.is_cluster() and not supervised:
        supervisor.supervise()
    train(args)


if __name__ == "__main__":
    run(main)
