"""How much faster than the plain port? Both measured side by side in one run.

Every contender trains, validates or reads the same photos; rounds are
interleaved and medians compared, so a noisy machine hits all alike. The
reference is `reference.py`; ours are the classes that `train.py` uses.

Run it:  python -m benchmarks.train_speed --data data/train --image-size 299 --batch-size 16
"""

import argparse
import functools
import json
import os
import pathlib
import tempfile
import time

import numpy as np

import img2keras
from benchmarks.bench_run import bench_run
from pairs.command_line import run
from pairs.demo import breeds
from pairs.errors import UserError

# Epochs over which the building of the store is spread.
EPOCHS = 10


def measure(contenders, rounds):
    """Times functions, interleaved, after one untimed call of each.

    Returns:
        dict from name to a float array, shape `(2,)`: median seconds on the clock and
        of the processor (user and system).
    """
    for warm_up in contenders.values():
        warm_up()
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = np.array([time.perf_counter(), time.process_time()])
            call()
            seconds[name].append([time.perf_counter(), time.process_time()] - start)
    return {name: np.median(values, axis=0) for name, values in seconds.items()}


def take_photos(data, count):
    """The first photos of every class in turn: `count` of them, as `Photos`."""
    from pairs.evaluation.suspects import one_of_each_first
    from pairs.photos.find import find_class_photos

    photos = find_class_photos(data)
    if len(photos) < count:
        raise UserError(f"{data}: {len(photos)} photos, {count} are needed")
    return photos.take(sorted(one_of_each_first(photos.labels.tolist())[:count]))


def link_photos(photos, folder):
    """Class folders of links to just these photos, for the stock generator; some may be empty."""
    for typeid in photos.typeids:
        pathlib.Path(folder, typeid).mkdir(parents=True)
    for path, label in zip(photos.paths, photos.labels, strict=True):
        target = pathlib.Path(folder, photos.typeids[label], pathlib.Path(path).name)
        target.symlink_to(pathlib.Path(path).resolve())
    return folder


def time_pipeline(photos, folder, args):
    """Seconds an image: stock and ours on one thread, ours on two."""
    import concurrent.futures

    from benchmarks import reference
    from pair_generator import PairBatches

    stock = reference.flow(folder, args.image_size, args.batch_size, augment=True)
    ours = PairBatches(photos, args.image_size, args.batch_size, seed=0, augment="affine")

    def read(threads):
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(ours.__getitem__, range(len(ours))))

    contenders = {
        "stock": lambda: [next(stock) for _ in range(len(stock))],
        "one": functools.partial(read, 1),
        "two": functools.partial(read, 2),
    }
    return {name: value / len(photos) for name, value in measure(contenders, args.rounds).items()}


class Ours:
    """One stage, set up as `train.py` does it."""

    def __init__(self, model, args, photos, number, scratch, openvino=None):
        from pair_generator import PairBatches
        from pairs.network.files import save_model
        from pairs.training import activation_store, stage
        from pairs.training.recipe import STAGES_2017

        plan = STAGES_2017[number - 1]
        machine = {"trunk": args.trunk, "workers": args.workers, "openvino": openvino}
        run = bench_run(scratch, [plan], args.image_size, args.batch_size, **machine)
        start_file = scratch / "start.keras"
        save_model(model, start_file)
        pairs = PairBatches(photos, args.image_size, args.batch_size, 0, plan.augment)
        valid = PairBatches(photos, args.image_size, args.batch_size, 0, validation=True)
        self.setup = stage.set_up(run, plan, pairs, valid, start_file)
        built = activation_store.ActivationStore(scratch / "built", len(photos))
        built.path.mkdir(exist_ok=True)
        below = self.setup.parts.below
        self.build = lambda: activation_store.build(run, built, [range(len(photos))], below, photos)

    def train(self):
        batches = self.setup.batches.for_keras
        self.setup.learner.fit(batches, shuffle=False, verbose=0)

    def validate(self):
        self.setup.judged.evaluate(self.setup.valid_batches.for_keras, verbose=0)


def time_stages(photos, folder, args, scratch):
    """Seconds a pair of every stage, of validation, and of a bare forward pass."""
    from benchmarks import reference
    from model import build_model
    from pairs.network.trunks import build_trunk

    plain, plain_trunk = reference.build(args.trunk, args.image_size, len(photos.typeids))
    trunk = build_trunk(args.trunk, args.image_size, "none")
    model = build_model(trunk, photos.typeids)
    seconds = {}
    for number in (1, 2, 3):
        reference.compile_stage(plain, plain_trunk, args.trunk, number)
        flow = reference.flow(folder, args.image_size, args.batch_size, augment=number < 3)
        ours = Ours(model, args, photos, number, scratch)
        contenders = {
            "reference": functools.partial(
                plain.fit, reference.pairs(flow), steps_per_epoch=len(flow), verbose=0
            ),
            "ours": ours.train,
        }
        if number == 1:
            contenders["forward"] = bare_forward(trunk, photos, args)
        if number == 2:
            fixed = reference.flow(folder, args.image_size, args.batch_size, augment=False)
            contenders["reference validation"] = functools.partial(
                plain.evaluate, reference.pairs(fixed), steps=len(fixed), verbose=0
            )
            contenders["validation"] = ours.validate
        if number == 3:
            contenders["build"] = ours.build
        found = measure(contenders, args.rounds)
        seconds |= {f"stage{number} {name}": value for name, value in found.items()}
    return {name: value / len(photos) for name, value in seconds.items()}


def bare_forward(trunk, photos, args):
    """The trunk alone over the photos, decoded beforehand."""
    from pairs.photos.read import read_photo

    images = np.stack([read_photo(path, args.image_size) for path in photos.paths])
    scaled = images / np.float32(127.5) - 1
    batches = np.array_split(scaled, range(args.batch_size, len(scaled), args.batch_size))
    # Not `predict` on one array: Keras' own slicing of it has taken half as long again.
    return lambda: [trunk.predict_on_batch(batch) for batch in batches]


def time_prediction(photos, args, scratch):
    """Seconds a photo: `predict.py` from files, and a bare forward pass."""
    from model import build_model
    from pairs.evaluation.predictor import Predictor
    from pairs.network.trunks import build_trunk

    trunk = build_trunk(args.trunk, args.image_size, "none")
    build_model(trunk, photos.typeids).save(scratch / "model.keras")
    predictor = Predictor(scratch, args.batch_size, args.workers)
    contenders = {
        "forward": bare_forward(trunk, photos, args),
        "predict": functools.partial(predictor.predict, photos.paths),
    }
    return {name: value / len(photos) for name, value in measure(contenders, args.rounds).items()}


def ratios(pipeline, stages, prediction):
    """The JSON: reference time over ours. Beside a bare forward pass: a stage's time, and
    the speed of prediction."""
    pipeline, stages, prediction = (
        {name: float(clock) for name, (clock, _) in seconds.items()}
        for seconds in (pipeline, stages, prediction)
    )
    build = stages["stage3 build"] / EPOCHS
    return {
        "stage1_ratio": stages["stage1 reference"] / stages["stage1 ours"],
        "stage2_ratio": stages["stage2 reference"] / stages["stage2 ours"],
        "stage3_ratio": stages["stage3 reference"] / stages["stage3 ours"],
        "stage3_with_build_ratio": stages["stage3 reference"] / (stages["stage3 ours"] + build),
        "validation_ratio": stages["stage2 reference validation"] / stages["stage2 validation"],
        "pipeline_ratio": pipeline["stock"] / pipeline["one"],
        "pipeline_scaling": pipeline["one"] / pipeline["two"],
        "stage1_over_forward": stages["stage1 ours"] / stages["stage1 forward"],
        "predict_over_forward": prediction["forward"] / prediction["predict"],
    }


def print_table(title, seconds):
    """Milliseconds, one contender a line."""
    print(f"\n{title}, ms on the clock and of the processor")
    for name, (clock, processor) in seconds.items():
        print(f"  {name:<28} {1000 * clock:9.1f} {1000 * processor:9.1f}")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Time ours against the plain port.")
    add = parser.add_argument
    add("--data", help="class folders (default: drawn photos, as in the demo)")
    add("--image-size", type=int, default=299, help="pixels (default: 299)")
    add("--batch-size", type=int, default=16, help="pairs a step (default: 16)")
    add("--steps", type=int, default=4, help="steps a round (default: 4)")
    add("--rounds", type=int, default=3, help="of each, in turn (default: 3)")
    add("--trunk", choices=("xception", "inceptionv3"), default="xception")
    add("--workers", type=int, default=os.cpu_count(), help="threads (default: all cores)")
    add("--json", metavar="FILE", help="write the ratios there")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        data = args.data
        if not data:
            breeds.draw_breeds(scratch / "raw", 24, seed=0)
            img2keras.sort_photos(scratch / "raw", scratch)
            data = scratch / "train"
        photos = take_photos(data, args.steps * args.batch_size)
        folder = link_photos(photos, scratch / "links")
        pipeline = time_pipeline(photos, folder, args)
        print_table("input pipeline, an image", pipeline)
        stages = time_stages(photos, folder, args, scratch)
        print_table("a pair", stages)
        prediction = time_prediction(photos, args, scratch)
        print_table("prediction, a photo", prediction)
    found = {name: round(value, 3) for name, value in ratios(pipeline, stages, prediction).items()}
    print("\n" + "\n".join(f"{name:<26} {value:6.2f}" for name, value in found.items()))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
