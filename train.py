"""Trains the network of `model.py` on the class folders that `img2keras.py` wrote.

The 2017 recipe has three stages, each from the best weights of the one before
(pairs/training/recipe.py; `--recipe tuned` and `--recipe night` have two):

    heads   trunk frozen; the new heads learn                       Adam
    blocks  the trunk's last blocks join in                         SGD
    plain   the same, on photos as they are: augmentation off       SGD

    data/train, data/valid  ->  weights/model.keras   for predict.py
                                weights/log.csv       every epoch
                                weights/curves.png    the same, drawn

With `--folds K`, K models in weights/fold-1, weights/fold-2, ..., and what each
says of the photos that it has not seen in weights/out_of_fold.csv.

If it is stopped or killed, the same command resumes after the last finished epoch.

Run it:      python train.py --data data --weights weights
Or see it:   python train.py --demo
"""

import contextlib
import dataclasses
import pathlib

import numpy as np

from pair_generator import PairBatches, note_on_pairs
from pairs.command_line import run, stop_at_once
from pairs.devices import cluster, inventory, supervisor
from pairs.errors import UserError
from pairs.files import check_can_be_made, read_json, replacing
from pairs.network import trunks, weights_folder
from pairs.photos.check import (
    as_it_began,
    check_sides,
    list_photos,
    read_check,
    write_check,
)
from pairs.photos.draw import draw_pairs
from pairs.photos.find import SIDES
from pairs.photos.folds import FOLDS, pool_sides, write_folds
from pairs.training import next_command, recipe, run_folder, splits, store_folder
from pairs.training.flags import parse_args
from pairs.training.settings import RESTART, make_settings

# Batches whose mean makes the BatchNormalization statistics of a random trunk. All its
# activations are in memory at once: of 32 photos at 299 pixels more than a card of 6 GB has.
STATISTICS_BATCHES = 8
STATISTICS_BATCH_SIZE = 8
# Of larger batches, so few steps an epoch are a slip.
MOST_USUAL, FEW_STEPS = 32, 8


def train(args):
    """Runs the stages, for each fold if there are folds, or resumes the run in `--weights`.

    Args:
        args: as `parse_args` returns them; nothing below this file sees them.

    Raises:
        UserError: data or weights are missing or do not fit, the folder holds
            another run, or there is no cluster to join.
    """
    stages = recipe.plan(args.recipe, args.epochs)
    folder = pathlib.Path(args.weights)
    # A wrong folder is known before anything is written.
    listed = list_photos(args.data)
    check_can_be_made("--weights", folder)
    devices = cluster.ALONE
    if args.distribute:
        devices = cluster.join(args.batch_size, args.precision)
    locked = run_folder.locked(folder) if devices.is_main_process else contextlib.nullcontext()
    with supervisor.one_line_errors(devices.num_processes), locked:
        if args.tensorboard and devices.is_main_process:
            check_can_be_made("--tensorboard", args.tensorboard)
        # The others find what the main process leaves: photos checked, a model to start from.
        with devices.main_process_first():
            fold_splits = begin_or_resume(args, stages, folder, listed, devices)
        runs = train_splits(args, stages, fold_splits, devices)
        if args.folds and devices.is_main_process:
            finish_folds(folder, fold_splits[0].pool)
        clean_up(folder, devices)
    if not args.folds:
        runs[0].log.print_results()
    next_command.print_next(args.data, args.weights, bool(args.folds))


def begin_or_resume(args, stages, folder, listed, devices):
    """Checks photos and settings; begins the run, unless it is there already.

    Returns:
        list of `Split`: one, or one a fold.
    """
    restarts = args.restart and devices.is_main_process
    sides, known, found = check_photos(args, folder, listed, restarts)
    photos = pool_sides(sides) if args.folds else sides[0]
    # Keras takes seconds to load: only once everything else is right.
    machine = inventory.prepare(args.precision, args.distribute, args.jit, args.openvino)
    settings = make_settings(vars(args), stages, devices, photos.typeids, found)
    run_folder.check_fold_folders(folder, args.folds or 0)
    if restarts:
        run_folder.check_restart(folder, settings)
    resumes = not restarts and run_folder.holds_run(folder, settings, known, found)
    if not (resumes or devices.is_main_process):
        raise UserError(
            f"--weights {folder}: process {devices.process} does not find there what process 0 "
            f"wrote; all of them need the same shared folder"
        )
    if devices.is_main_process and not restarts and found != known:
        write_check(folder, found)  # also for a start that fails: it took minutes
    if not resumes:
        begin_run(args, stages, folder, photos, found)
        if machine.gpus:
            from pairs.training import trial

            tried = make_run(args, stages, splits.Split(folder, *sides), devices, [])
            trial.try_stages(tried, num_photos=sum(map(len, sides)))
        run_folder.write_settings(folder, settings)
    if args.folds:
        return splits.split_folds(folder, photos, args.folds)
    return [splits.Split(folder, *sides)]


def check_photos(args, folder, listed, restarts):
    """The readable photos of both sides; what an earlier check knew of all, and what this found."""
    known = {side: {} for side in SIDES} if restarts else read_check(folder, RESTART)
    sides, found = check_sides(args.data, listed, known, args.workers)
    if not restarts and read_json(folder / weights_folder.SETTINGS, RESTART):
        sides, found = as_it_began(args.data, sides, known, found)
    sides = [dataclasses.replace(side, fit=args.fit) for side in sides]
    if not args.folds:  # folds are cut from both sides together: `cut_folds` counts them
        splits.check_sides_suffice(*sides)
    splits.print_counts(args.data, *sides, args.folds, found)
    return sides, known, found


def begin_run(args, stages, folder, photos, found):
    """Writes what a run begins with: its folds, if any, its first model and their drawings.

    An earlier run moves aside, with `--restart`: what fails before leaves it where it is.
    """
    from pairs.training.room import check_models_fit

    folds = splits.choose_folds(photos, found, args.folds, args.seed) if args.folds else None
    model = build_first_model(args, photos)
    check_models_fit(folder, stages, args.folds or 1, 4 * model.count_params())
    if args.restart:
        run_folder.set_aside(folder)
        write_check(folder, found)
    save_first_model(model, folder)
    draw_first_pairs(args, stages, photos, folder / weights_folder.PAIRS_PICTURE)
    if folds is None:
        (folder / FOLDS).unlink(missing_ok=True)  # of a start that failed
    else:
        write_folds(folder, photos, folds)


def build_first_model(args, photos):
    """Builds the network with its starting weights."""
    import keras

    from model import build_model

    keras.utils.set_random_seed(args.seed)
    trunk = trunks.build_trunk(args.trunk, args.image_size, args.pretrained, args.weights)
    if args.pretrained == "none":
        batch_size = min(args.batch_size, STATISTICS_BATCH_SIZE)
        batches = PairBatches(photos, args.image_size, batch_size, args.seed)
        count = min(STATISTICS_BATCHES, len(batches))
        scale, offset = map(np.float32, trunk.input_scale)
        images = (batches[step][0]["img_1"] * scale + offset for step in range(count))
        trunks.estimate_statistics(trunk, images)
    num_photos = np.bincount(photos.labels, minlength=len(photos.typeids)).tolist()
    heads = {"paired": args.loss == "paired", "all_pairs": recipe.RECIPES[args.recipe].all_pairs}
    return build_model(trunk, photos.typeids, num_photos, **heads, fit=photos.fit)


def save_first_model(model, folder):
    """Saves and draws the network before the first stage."""
    from pairs.network.files import draw_model, save_model

    save_model(model, folder / weights_folder.START)
    picture = folder / weights_folder.MODEL_PICTURE
    warning = draw_model(model, picture)
    print(warning or f"drawing of the model: {picture}")


def draw_first_pairs(args, stages, photos, picture):
    """Draws some pairs as the training draws them: is the augmentation sensible?"""
    batches = PairBatches(photos, 160, min(16, args.batch_size), args.seed, stages[0].augment)
    with replacing(picture) as temporary:
        draw_pairs(batches[0], photos.typeids).save(temporary)
    print(f"drawing of some pairs: {picture}")
    trained = PairBatches(photos, 160, args.batch_size, args.seed)
    if args.batch_size > MOST_USUAL and len(trained) < FEW_STEPS:
        print(
            f"note: --batch-size {args.batch_size}: an epoch of {len(photos)} photos has "
            f"{len(trained)} of them, and hardly anything is learned in so few steps; try 32"
        )
    all_pairs = recipe.RECIPES[args.recipe].all_pairs
    if args.loss == "paired" and not all_pairs and (note := note_on_pairs(trained)):
        print(note)


def train_splits(args, stages, fold_splits, devices):
    """Trains one model after another; returns the `Run` of each."""
    runs = []
    for number, split in enumerate(fold_splits, start=1):
        if args.folds:
            print(
                f"\nfold {number} of {args.folds}: {len(split.photos)} photos to train, "
                f"{len(split.valid)} held out",
                flush=True,
            )
        runs.append(make_run(args, stages, split, devices, runs))
        run_stages(runs[-1], split)
    return runs


def make_run(args, stages, split, devices, earlier):
    """What all stages of a model share: a `Run`. `earlier`: those of the folds before."""
    from pairs.training.checkpoint import read_checkpoint
    from pairs.training.log import RunLog
    from pairs.training.run import Run

    split.folder.mkdir(exist_ok=True)
    checkpoint = read_checkpoint(split.folder)
    log = RunLog(
        split.folder,
        stages,
        checkpoint.rows,
        checkpoint.seconds,
        devices.is_main_process,
        folds_done=[run.log.total_seconds() for run in earlier],
        folds_left=(args.folds or 1) - len(earlier) - 1,
    )
    board = None
    if args.tensorboard:
        board = pathlib.Path(args.tensorboard, split.folder.name if args.folds else "")
    return Run(
        folder=split.folder,
        start_file=pathlib.Path(args.weights, weights_folder.START),
        stages=stages,
        trunk=args.trunk,
        image_size=args.image_size,
        batch_size=args.batch_size,
        seed=args.seed,
        cache=args.cache,
        workers=args.workers,
        balance=args.balance,
        jit=args.jit,
        openvino=args.openvino,
        tensorboard=board,
        devices=devices,
        log=log,
        checkpoint=checkpoint,
        pool=split.pool,
    )


def run_stages(run, split):
    """Trains the stages that are not done yet."""
    from pairs.training.stage import copy_file, run_stage

    model_file = run.start_file
    run.devices.barrier()  # what was there is read, and may be overwritten
    for stage in run.stages:
        if run.log.is_done(stage):
            print(f"stage {stage.name}: done already")
            model_file = weights_folder.stage_files(run.folder, stage.name)[0]
            continue
        check_still_there(model_file)
        size, groups = run.image_size_of(stage), run.devices.num_groups
        pairs = PairBatches(
            split.photos, size, run.batch_size, run.seed_of(stage), stage.augment, num_groups=groups
        )
        valid_pairs = PairBatches(
            split.valid, size, run.batch_size, run.seed, validation=True, num_groups=groups
        )
        model_file = run_stage(run, stage, pairs, valid_pairs, model_file)
    final = run.folder / weights_folder.MODEL
    if run.devices.is_main_process and not final.is_file():  # somebody deleted it
        check_still_there(model_file)
        copy_file(model_file, final)
    if run.devices.is_main_process:
        (run.folder / weights_folder.CHECKPOINT).unlink(missing_ok=True)


def clean_up(folder, devices):
    """Deletes what only a training that resumes needs."""
    devices.barrier()  # nobody reads them any more
    if devices.is_main_process:
        store_folder.remove_activations(folder)
    # Terabytes take time to delete, and JAX waits for 5 minutes at its end.
    devices.barrier()


def check_still_there(model_file):
    """Raises a UserError if a model that the run made, and resumes from, was deleted."""
    if not model_file.is_file():
        raise UserError(
            f"{model_file}: gone, and the run resumes from it; restore it, or {RESTART}"
        )


def finish_folds(folder, pool):
    """Writes and prints what the models say of the photos that they have not seen."""
    from pairs.evaluation import calibration, same
    from pairs.training import out_of_fold

    found = out_of_fold.gather(folder, pool)
    out_of_fold.write_results(folder, found)
    pairs = same.compare(found.unit, found.probabilities, pool.labels, found.folds)
    of_each = calibration.fit_calibration(found.probabilities, pool.labels, found.likeness, pairs)
    fitted = of_each.of_mean()
    # An evaluation may have fitted it on more photos since.
    if calibration.read_calibration(folder).photos <= fitted.photos:
        calibration.write_calibration(folder, fitted)
    out_of_fold.print_results(found)


def main():
    args = parse_args()
    if args.demo:
        stop_at_once(lambda: "the next demo starts over")
        from pairs.demo import demo

        demo.run_demo(args.seed, args.workers)
        return
    if supervisor.is_supervised():
        supervisor.end_with_parent()
    else:
        began = next_command.settings_times(args.weights)
        stop_at_once(lambda: next_command.how_to_resume(args.weights, args.restart, began))
        if args.distribute and cluster.is_cluster():
            supervisor.supervise()
    train(args)


if __name__ == "__main__":
    run(main)
