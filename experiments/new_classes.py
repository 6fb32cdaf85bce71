"""What do features tell of classes that nobody trained on? And who notices such photos?

Every fourth class is left out of the training, and a third of the photos of the others
is kept to judge on. A system is a row of `ablation.py` (`TRUNK-LOSS+RECIPE+VARIANT`).

    OUT/leave-N/{train,valid,test,new}/typeid/    left out: the classes N, N + 4, ...
    OUT/runs/SYSTEM-leave-N-seed-S/               as train.py leaves it, and numbers.json

Printed for each system, mean and standard error over its runs:

    error               of the classes of the training
    plain, similarity   ROC AUC of "same class?" by the cosine of features, and by what
                        `pairs.network.similarity` makes of it; known and new classes
    recall@1            of both: is the most similar other photo of the same class?
    answer              ROC AUC of what --pairs says, of known classes
    pair head           ROC AUC of the pair head alone
    none                ROC AUC of known against new, by the largest probability, and by
                        what says "none of the classes"; the share of new ones refused

Run it:  python -m experiments.new_classes --raw data/raw --out new --leave-out 1 3 --seeds 2 \\
             --systems xception-paired+tuned xception-paired+tuned+all-pairs-0 \\
             --pretrained xception=FILE -- --image-size 139
"""

import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
from itertools import chain

import numpy as np

from experiments.ablation import (
    ROOT,
    check_same_table,
    make_command,
    pretrained_files,
    split_row,
    training_facts,
)
from experiments.folds import VALID_FRACTION, cut_class
from pairs.command_line import Parser, add_workers_flag, positive_int, run
from pairs.errors import UserError
from pairs.files import read_json, write_json
from pairs.photos.find import find_class_photos, typeid_order
from pairs.photos.place import place_photo
from pairs.photos.raw import contest_name, inspect_photos, read_raw, usable_classes
from pairs.photos.split import group_photos, split_class, under_two_typeids

# One class in so many is left out; one photo in so many of the others is judged on.
LEFT_OUT, JUDGED = 4, 3


def cut(raw, out, offset, workers):
    """Links the photos into `out`, all or none: train, valid, test and new.

    A photo under two typeids is none of them: it could be known and new.
    """
    unfinished = out.with_name(f".tmp-{out.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    classes, _ = read_raw(raw)
    inspected, _ = inspect_photos(raw, classes, workers)
    classes, _ = usable_classes(inspected)
    groups = group_photos(inspected)
    typeids = {name: typeid for typeid, names in classes.items() for name in names}
    in_two = under_two_typeids(typeids, groups)
    for place, typeid in enumerate(sorted(classes, key=typeid_order)):
        own = [name for name in classes[typeid] if groups[name] not in in_two]
        sides = {"new": own}
        if place % LEFT_OUT != offset:
            test, *others = cut_class(typeid, own, JUDGED, 0, groups)
            rest = [name for names in others for name in names]
            valid = split_class(typeid, rest, VALID_FRACTION, 0, groups)
            train = [name for name in rest if name not in valid]
            sides = {"train": train, "valid": valid, "test": test}
        for side, names in sides.items():
            for name in names:
                target = unfinished / side / typeid / contest_name(name)
                place_photo(raw / name, target, link=True)
    unfinished.rename(out)


def train(system, seed, folder, args):
    """Trains one system, or resumes its training."""
    words = make_command(system, seed, folder, args)
    print(f"python {shlex.join(words)}", flush=True)
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{shlex.join(words)} failed:\n{done.stderr}")


def judge(weights, data):
    """The numbers of one training: dict from name to float."""
    from pairs.evaluation import calibration, evaluate, metrics
    from pairs.evaluation.predictor import Predictor

    predictor = Predictor(weights)
    valid = find_class_photos(data / "valid", predictor.typeids)
    fitted_on = predictor.predict(valid.paths)
    compared = evaluate.compare_pairs(predictor, fitted_on, valid.labels)
    fitted = calibration.fit_calibration(
        fitted_on.probabilities, valid.labels, fitted_on.likeness, compared
    )
    numbers, surest, scores = {}, [], []
    for side, typeids in (("test", predictor.typeids), ("new", None)):
        photos = find_class_photos(data / side, typeids)
        found = predictor.predict(photos.paths)
        name = "known" if side == "test" else "new"
        numbers |= judge_pairs(predictor, fitted, found, photos, name)
        surest.append(found.probabilities.max(axis=1))
        scores.append(calibration.class_scores(found.probabilities, found.likeness))
        if side == "test":
            numbers["error"] = float((found.probabilities.argmax(axis=1) != photos.labels).mean())
    is_known = np.repeat([True, False], [len(scores[0]), len(scores[1])])
    numbers["none: largest p"] = metrics.roc_auc(np.concatenate(surest), is_known)
    numbers["none: score"] = metrics.roc_auc(np.concatenate(scores), is_known)
    for name, own in zip(("known", "new"), scores, strict=True):
        numbers[f"none: {name} refused"] = float((own < fitted.none_below).mean())
    return numbers


def judge_pairs(predictor, calibration, found, photos, name):
    """What every pair of some photos says about a model; `name` is part of the numbers' names."""
    from pairs.evaluation import metrics, same, search
    from pairs.network.similarity import unit_rows

    pairs = np.column_stack(np.triu_indices(len(photos), 1))
    is_same = photos.labels[pairs[:, 0]] == photos.labels[pairs[:, 1]]
    unit, plain = predictor.unit(found.features), unit_rows(found.features)
    cosine, agreement = (same.dot_products(rows, pairs) for rows in (unit, found.probabilities))
    identities, cameras = photos.labels.tolist(), [None] * len(photos)
    rankings = {}
    for key, rows in (("plain", plain), ("similarity", unit)):
        side = search.Side(rows, identities, cameras, photos.paths)
        rankings[key] = search.judge_ranking(side, side)
    scores = {
        "plain": same.dot_products(plain, pairs),
        "similarity": cosine,
        "answer": same.probability(calibration.same_known, cosine, agreement),
    }
    if predictor.is_paired:
        scores["pair head"] = predictor.same_probabilities(found.features, pairs)
    return {
        **{f"{key} recall@1, {name}": each.recalls[1].value for key, each in rankings.items()},
        **{f"{key}, {name}": metrics.roc_auc(value, is_same) for key, value in scores.items()},
    }


def print_table(results):
    """Prints mean and standard error of every number, one Markdown row a system.

    Args:
        results: dict from the system to the numbers of each of its runs.
    """
    names = list(dict.fromkeys(name for runs in results.values() for name in chain(*runs)))
    print("\n| system | runs |", " | ".join(names), "|\n|---|---|", "---|" * len(names))
    for system, runs in results.items():
        cells = []
        for name in names:
            values = [numbers[name] for numbers in runs if name in numbers]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
            cells.append(f"{statistics.mean(values):.4f}" if values else "")
            cells[-1] += f" ± {error:.4f}" if error is not None else ""
        print(f"| {system} | {len(runs)} |", " | ".join(cells), "|")


def parse_args(argv=None):
    parser = Parser(description="Leave classes out, and see what features tell of them.")
    add = parser.add_argument
    add("--raw", type=pathlib.Path, default="data/raw", help="default: %(default)s")
    add("--out", type=pathlib.Path, default="new_classes", help="default: %(default)s")
    add("--systems", nargs="+", default=["xception-paired+tuned"], help="default: %(default)s")
    add("--leave-out", nargs="+", type=int, choices=range(LEFT_OUT), default=[1], metavar="N")
    add("--seeds", type=positive_int, default=1, help="0, 1, ... (default: %(default)s)")
    add("--pretrained", nargs="+", default=[], metavar="TRUNK=FILE", help="as ablation.py's")
    add("--epochs", nargs="+", help="of the 2017 recipe, as train.py's")
    add_workers_flag(parser)
    add("train_flags", nargs="*", metavar="-- FLAGS", help="of train.py, for every system")
    args = parser.parse_args(argv)
    args.pretrained = pretrained_files(parser, args.pretrained)
    args.raw, args.out = args.raw.resolve(), args.out.resolve()
    return args


def main():
    args = parse_args()
    for system in args.systems:
        split_row(system)
    args.out.mkdir(parents=True, exist_ok=True)
    check_same_table(args.out, {"raw": str(args.raw)} | training_facts(args))
    results = {system: [] for system in args.systems}
    for offset in args.leave_out:
        args.data = args.out / f"leave-{offset}"
        if not args.data.is_dir():
            cut(args.raw, args.data, offset, args.workers)
        for seed in range(args.seeds):
            for system in args.systems:
                folder = args.out / "runs" / f"{system}-leave-{offset}-seed-{seed}"
                if not (folder / "numbers.json").is_file():
                    train(system, seed, folder, args)
                    write_json(folder / "numbers.json", judge(folder, args.data))
                results[system].append(read_json(folder / "numbers.json"))
    print_table({system: runs for system, runs in results.items() if runs})


if __name__ == "__main__":
    run(main)
