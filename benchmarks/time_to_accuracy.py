"""Error against processor time: ours beside the common alternatives.

    seed, tuned, night
            `train.py --recipe ...`; a point after every stage
    tuned-openvino, tuned-bfloat16, night-bfloat16
            the same with `--openvino bfloat16`, with `--precision mixed_bfloat16`
    keras   the transfer-learning guide of keras.io: the trunk frozen, then all of it
            at 1e-5 (`keras_guide.py`)
    timm    everything trained, as timm's documentation suggests (`timm_training.py`);
            skipped if timm is not installed

All start from the same Xception weights, train on the same photos and are judged
on the same test photos; each runs alone, in a process of its own. Time is
processor time, user and system, and judging does not count. Of ours it is that of
the whole command, from checking the photos to validation and checkpoints after every epoch;
of the others that of training alone.

Run it:  python -m benchmarks.time_to_accuracy --data data/folds/fold-1 \\
             --test data/folds/fold-1/test --pretrained FILE --out times
"""

import importlib
import importlib.util
import multiprocessing
import pathlib
import resource
import tempfile

import numpy as np

from experiments.predictions import predict_photos
from pairs.command_line import Parser, positive_int, run
from pairs.errors import UserError
from pairs.evaluation.figures import new_figure
from pairs.files import read_json, replacing, write_json
from pairs.photos.find import find_class_photos
from pairs.training.recipe import RECIPES

# The flags of ours. Bfloat16 pays where the CPU multiplies it in hardware (AVX512_BF16, AMX).
OURS = {recipe: ("--recipe", recipe) for recipe in RECIPES} | {
    "tuned-openvino": ("--recipe", "tuned", "--openvino", "bfloat16"),
    "tuned-bfloat16": ("--recipe", "tuned", "--precision", "mixed_bfloat16"),
    "night-bfloat16": ("--recipe", "night", "--precision", "mixed_bfloat16"),
}
# Where each other contender's training is: module and function.
OTHERS = {
    "keras": ("benchmarks.keras_guide", "train"),
    "timm": ("benchmarks.timm_training", "train"),
}
# Odd at every strided layer, so that timm's symmetric padding is Keras'.
IMAGE_SIZE = 135
BATCH_SIZE = 32
# What all contenders of a drawing share.
SETTINGS = ("data", "test", "pretrained", "image_size", "seed")


def processor_seconds():
    """User and system seconds of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def train_ours(contender, args):
    """Trains by `train.py`; a point for the best epoch of every stage.

    Returns:
        list of `(name, seconds, error)`.
    """
    import train
    from pairs.evaluation.predictor import Predictor
    from pairs.training import stage

    done, run_stage = [], stage.run_stage

    def timed(run, plan, *others):
        best = run_stage(run, plan, *others)
        done.append((plan.name, processor_seconds(), best))
        return best

    stage.run_stage = timed
    typeids = find_class_photos(pathlib.Path(args.data, "train")).typeids
    start = processor_seconds()
    with tempfile.TemporaryDirectory() as folder:
        flags = [*OURS[contender], "--data", args.data, "--weights", folder]
        flags += ["--pretrained", args.pretrained, "--image-size", args.image_size]
        flags += ["--batch-size", BATCH_SIZE, "--workers", 2, "--seed", args.seed]
        if contender == "seed":
            flags += ["--epochs", *args.epochs_2017]
        train.train(train.parse_args(list(map(str, flags))))
        test = find_class_photos(args.test, typeids)
        classes = [classes_of(best, test) for _, _, best in done[:-1]]
        finished = Predictor(folder).predict(test.paths)  # as predict.py asks it, without flags
        classes.append(finished.probabilities.argmax(axis=1))
    return [
        (name, seconds - start, float((said != test.labels).mean()))
        for (name, seconds, _), said in zip(done, classes, strict=True)
    ]


def classes_of(model_file, photos):
    """The class that the softmax heads of a model of ours say of every photo: int array."""
    from pairs.network.files import load_model
    from pairs.network.parts import photo_model

    model = photo_model([load_model(model_file)])
    found = predict_photos(model.predict_on_batch, photos, model.input_shape[1])
    return found["probabilities"].argmax(axis=1)


def work(connection, contender, args):
    """A contender's process: trains and sends its points."""
    if contender in OTHERS:
        module, function = OTHERS[contender]
        points = getattr(importlib.import_module(module), function)(args)
    else:
        points = train_ours(contender, args)
    connection.send(points)


def train_alone(contender, args):
    """Trains a contender in a process of its own; returns its points."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=work, args=(its, contender, args))
    process.start()
    its.close()
    try:
        return ours.recv()
    except EOFError as error:
        raise UserError(f"{contender} ended without a result; see its output above") from error
    finally:
        process.join()


def draw(found, num_photos, path):
    """Draws error against processor time, with standard errors."""
    figure, axes = new_figure(8, 4.5)
    for contender, points in found.items():
        _, seconds, errors = zip(*points, strict=True)
        errors = np.array(errors)
        deviations = np.sqrt(errors * (1 - errors) / num_photos)
        axes.errorbar(seconds, errors, deviations, marker="o", capsize=3, label=contender)
    axes.set_xlabel("processor time of the training, seconds")
    axes.set_ylabel(f"error on {num_photos} test photos (bars: standard error)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the lines, not on them
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def parse_args(argv=None):
    parser = Parser(description="Error against processor time of ours, keras.io's way and timm.")
    add = parser.add_argument
    contenders = [*OURS, *OTHERS]
    add("--data", default="data", help="with train/ and valid/ (default: %(default)s)")
    add("--test", required=True, help="class folders to judge on")
    add("--pretrained", required=True, metavar="FILE", help="weights of Xception")
    add("--out", type=pathlib.Path, default="times", help="folder (default: %(default)s)")
    usual = [*RECIPES, *OTHERS]
    add(
        "--contenders",
        nargs="+",
        choices=contenders,
        default=usual,
        help=f"default: {' '.join(usual)}",
    )
    add("--image-size", type=positive_int, default=IMAGE_SIZE, help="default: %(default)s")
    add("--seed", type=int, default=0, help="default: 0")
    add("--epochs-2017", type=int, nargs=3, default=[12, 8, 5], help="default: 12 8 5")
    add("--keras-epochs", type=int, nargs=2, default=[15, 9], help="default: 15 9")
    add("--timm-epochs", type=positive_int, default=12, help="default: %(default)s")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    num_photos = len(find_class_photos(args.test))
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "times.json"
    # A contender that was timed earlier is drawn beside the others.
    settings = {name: str(getattr(args, name)) for name in SETTINGS}
    known = read_json(file, "choose another --out") or {"settings": settings, "points": {}}
    if known["settings"] != settings:
        raise UserError(f"{file}: timed with {known['settings']}; choose another --out")
    found = known["points"]
    for contender in args.contenders:
        if contender == "timm" and not importlib.util.find_spec("timm"):
            print("timm is not installed and skipped (pip install torch torchvision timm)")
            continue
        found[contender] = train_alone(contender, args)
        write_json(file, known)
        for name, seconds, error in found[contender]:
            print(f"{contender:<14} {name:<12} {seconds:7.0f} s   error {error:.4f}", flush=True)
    draw(found, num_photos, args.out / "times.png")
    print(f"drawing: {args.out / 'times.png'}")


if __name__ == "__main__":
    run(main)
