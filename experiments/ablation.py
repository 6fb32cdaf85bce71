"""The table: systems trained with several seeds and judged on test photos.

A row is `TRUNK-LOSS`, the 2017 recipe; `TRUNK-LOSS+tuned`, another recipe; or
either with `+VARIANT`, one thing changed (`variants.py`). Stopped, the same
command resumes. Flags of train.py go behind `--`.

    OUT/runs/ROW-seedN/   the runs, as train.py leaves them, and what they predict
    OUT/results.json, OUT/table.md

Every model is asked by its softmax heads, without class centres (`predict.py --head mean`).
`table.py` makes one table of several folds.

Run it:  python -m experiments.ablation --data data/folds/fold-1 \\
             --test data/folds/fold-1/test --seeds 3 --out results --epochs 8 6 4 \\
             -- --image-size 139
"""

import functools
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np

from experiments import table
from experiments.predictions import predict_photos
from experiments.variants import VARIANTS
from pairs.command_line import Parser, positive_int, run
from pairs.errors import UserError
from pairs.files import read_json, write_arrays, write_json, write_text
from pairs.network.trunks import TRUNKS
from pairs.photos.find import find_class_photos
from pairs.training.recipe import RECIPES

ROWS = tuple(f"{trunk}-{loss}" for trunk in TRUNKS for loss in ("softmax", "paired"))
OF_2017 = tuple(row for row in ROWS if row.startswith(("xception-", "inceptionv3-")))
ROOT = pathlib.Path(__file__).resolve().parent.parent
QUICK = "--image-size 75 --batch-size 6 --pretrained none"
QUICK_EPOCHS = ["1", "1", "1"]
QUICK_PHOTOS = 8  # of each class
PREDICTIONS = "test.npz"


def split_row(row):
    """The parts of a row's name: `(trunk, loss, recipe, variant)`; the last two may be "".

    Raises:
        UserError: no such row.
    """
    system, *changes = row.split("+")
    recipes = [change for change in changes if change in RECIPES]
    variants = [change for change in changes if change in VARIANTS]
    if (
        system not in ROWS
        or max(len(recipes), len(variants), len(changes) - 1) > 1
        or (len(recipes) + len(variants) < len(changes))
    ):
        raise UserError(
            f"--rows {row}: not TRUNK-LOSS+RECIPE+VARIANT with one of {', '.join(ROWS)}, then (or "
            f"not) one of {', '.join(RECIPES)} and one of {', '.join(VARIANTS)}"
        )
    return (*system.split("-"), "".join(recipes), "".join(variants))


def make_command(row, seed, folder, args):
    """The command of one run, as a list of words, from the project's folder."""
    trunk, loss, recipe, variant = split_row(row)
    script = ["-m", "experiments.variants", variant] if variant else ["train.py"]
    flags = ["--data", args.data, "--weights", folder, "--trunk", trunk, "--loss", loss]
    if trunk in args.pretrained:
        flags += ["--pretrained", args.pretrained[trunk]]
    if recipe:
        flags += ["--recipe", recipe]
    elif args.epochs:
        flags += ["--epochs", *args.epochs]
    return [*script, *map(str, flags), "--seed", str(seed), *args.train_flags]


def train_run(row, seed, args):
    """Trains one seed of a row and predicts the test photos, where not done yet.

    Returns:
        None, or the line that train.py ended with if the row cannot be trained.
    """
    folder = args.out / "runs" / f"{row}-seed{seed}"
    if (folder / PREDICTIONS).is_file():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    words = make_command(row, seed, folder.resolve(), args)
    print(f"\n{row}, seed {seed}: python {shlex.join(words)}", flush=True)
    before = sum(float(line.split(",")[2]) for line in lines_of(folder / "times.csv")[1:])
    start = time.perf_counter()
    with (folder / "train.txt").open("a") as output:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode == 2:
        return done.stderr.strip().splitlines()[-1]
    if done.returncode:
        raise UserError(f"{row}, seed {seed}: {shlex.join(words)} failed:\n{done.stderr}")
    seconds = before + time.perf_counter() - start
    write_json(folder / "seconds.json", round(seconds, 1))
    write_arrays(folder / PREDICTIONS, predict_stages(folder, args.test))
    stages, *_ = table.read_run(folder)
    errors = ", ".join(f"{name} {wrong.mean():.4f}" for name, wrong in stages.items())
    print(f"error on the test photos after {errors}; {seconds / 60:.1f} minutes", flush=True)
    return None


def lines_of(path):
    """The lines of a text file; none where it is not there."""
    return path.read_text().splitlines() if path.is_file() else []


def predict_stages(folder, test):
    """Predicts the test photos with the best epoch of every stage.

    Returns:
        dict: "labels", int32 array, and "names", `typeid/name`, of shape `(photos,)`,
        and float32 arrays of shape `(photos, classes)`, "STAGE first" and "STAGE second"
        (of a paired model), and with " mirrored" the last stage on mirrored photos.
    """
    from pairs.network import parts
    from pairs.network.files import load_model

    stages = [result["stage"] for result in read_json(folder / "results.json")]
    found = {}
    for stage in stages:
        model = load_model(folder / f"{stage}-best.keras")
        photos = find_class_photos(test, model.get_layer("ctg_out_1").typeids)
        found["labels"] = photos.labels
        found["names"] = [pathlib.Path(path).relative_to(test).as_posix() for path in photos.paths]
        views = ("", " mirrored") if stage == stages[-1] else ("",)
        size, fit = model.get_layer("trunk").input_shape[1], model.get_layer("ctg_out_1").fit
        predict = functools.partial(predict_views, *parts.split(model, None), stage, views)
        found.update(predict_photos(predict, photos, size, fit))
    return found


def predict_views(below, above, stage, views, photos):
    """What the heads of a model say of photos, as they are or mirrored: as `predict_stages`."""
    from pairs.network.parts import is_paired

    found = {}
    for view in views:
        pixels = photos[:, :, ::-1] if view else photos
        inputs = {"activation": below.predict_on_batch(pixels)}
        if is_paired(above):
            inputs["partner"] = np.arange(len(photos), dtype=np.int32)  # itself
        outputs = above.predict_on_batch(inputs)
        for head, name in (("ctg_out_1", "first"), ("ctg_out_2", "second")):
            if head in outputs:
                found[f"{stage} {name}{view}"] = outputs[head]
    return found


def few_photos(data, test, out):
    """Copies the first photos of every class; returns the new `(data, test)`."""
    few = out / "few"
    for source, target in ((data / "train", "train"), (data / "valid", "valid"), (test, "test")):
        photos = find_class_photos(source)
        for label, typeid in enumerate(photos.typeids):
            place = few / target / typeid
            place.mkdir(parents=True, exist_ok=True)
            for index in np.flatnonzero(photos.labels == label)[:QUICK_PHOTOS]:
                shutil.copy(photos.paths[index], place)
    return few, few / "test"


def training_facts(args):
    """What all trainings of a table have in common."""
    return {
        "epochs": args.epochs,
        "train flags": args.train_flags,
        "pretrained": {trunk: os.path.realpath(file) for trunk, file in args.pretrained.items()},
    }


def check_same_table(out, facts):
    """Refuses to put rows of other data or flags into one table.

    Args:
        out: folder of the table.
        facts: dict from a name to what all rows have in common.

    Raises:
        UserError: `out` holds a table of others.
    """
    old = read_json(out / "flags.json")
    for name, value in facts.items():
        if old and old.get(name) != value:
            raise UserError(
                f"--out {out} holds a table of other runs: {name} was {old.get(name)}, is now "
                f"{value}; choose another --out"
            )
    write_json(out / "flags.json", facts)


def pretrained_files(parser, items):
    """The files of `--pretrained TRUNK=FILE ...`: dict from trunk to absolute path."""
    files = dict(item.partition("=")[::2] for item in items)
    for trunk, file in files.items():
        if trunk not in TRUNKS or not pathlib.Path(file).is_file():
            parser.error(f"--pretrained {trunk}={file}: TRUNK=FILE of a file is needed")
    return {trunk: os.path.abspath(file) for trunk, file in files.items()}


def parse_args(argv=None):
    parser = Parser(
        description="Train the systems of the table with several seeds, and judge them."
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, default="data", help="with train/, valid/ (default: data)")
    add("--test", type=pathlib.Path, required=True, help="class folders to judge on")
    add("--seeds", type=positive_int, default=3, help="0, 1, ... (default: %(default)s)")
    add("--out", type=pathlib.Path, default="results", help="folder (default: %(default)s)")
    add("--rows", nargs="+", default=OF_2017, metavar="ROW", help=f"default: {' '.join(OF_2017)}")
    add("--against", metavar="ROW", help="compare with this row (default: softmax of the trunk)")
    add(
        "--pretrained",
        nargs="+",
        default=[],
        metavar="TRUNK=FILE",
        help="weights a trunk starts from (default: as train.py, from weights/ or downloaded)",
    )
    add("--epochs", nargs="+", help="of the 2017 recipe, as train.py's (default: the recipe's)")
    add("--quick", action="store_true", help=f"few photos, few epochs, {QUICK}")
    add("train_flags", nargs="*", metavar="-- FLAGS", help="of train.py, for every row")
    args = parser.parse_args(argv)
    args.pretrained = pretrained_files(parser, args.pretrained)
    return args


def main():
    args = parse_args()
    for row in args.rows:
        split_row(row)
    table.check_against(args.against, args.rows)
    args.data, args.test, args.out = (p.resolve() for p in (args.data, args.test, args.out))
    find_class_photos(args.test)  # a wrong folder is to be known before the night
    args.out.mkdir(parents=True, exist_ok=True)
    if args.quick:
        args.train_flags = [*QUICK.split(), *args.train_flags]
        args.epochs = args.epochs or QUICK_EPOCHS
        args.data, args.test = few_photos(args.data, args.test, args.out)
    places = {"data": str(args.data.resolve()), "test": str(args.test.resolve())}
    check_same_table(args.out, places | training_facts(args))
    failed = {}
    # Seed by seed: what is there after a part of the night is a whole table.
    for seed in range(args.seeds):
        for row in args.rows:
            if row not in failed and (line := train_run(row, seed, args)):
                failed[row] = line
                print(line, flush=True)
    commands = {row: make_command(row, "SEED", "weights", args) for row in args.rows}
    trainings = [(args.out, seed) for seed in range(args.seeds)]
    results = table.collect(trainings, args.rows, args.against, failed)
    for row in results["rows"]:
        row["command"] = f"python {shlex.join(commands[row['row']])}"
    write_json(args.out / "results.json", results)
    text = table.markdown(results)
    write_text(args.out / "table.md", text)
    print(text)


if __name__ == "__main__":
    run(main)
