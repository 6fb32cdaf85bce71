"""A whole run, the plain port against ours: wall time and validation error.

Both train the three stages on the same photos for the same number of epochs,
from the same weights, one after the other, and validate after every epoch.

Run it:  python -m benchmarks.whole_run --data data --trunk inceptionv3 --pretrained FILE \\
             --image-size 139 --epochs 4 2 4
"""

import argparse
import json
import os
import pathlib
import tempfile
import time

from pairs.command_line import run


def train_reference(args, num_classes):
    """Trains the plain port; returns its error on the validation photos."""
    import keras

    from benchmarks import reference

    keras.utils.set_random_seed(args.seed)
    model, trunk = reference.build(args.trunk, args.image_size, num_classes, args.pretrained)

    def flow(side, augment=False):
        folder = pathlib.Path(args.data, side)
        return reference.flow(folder, args.image_size, args.batch_size, augment)

    for stage, epochs in enumerate(args.epochs, start=1):
        reference.compile_stage(model, trunk, args.trunk, stage)
        train, valid = flow("train", augment=stage < 3), flow("valid")
        model.fit(
            reference.pairs(train),
            steps_per_epoch=len(train),
            epochs=epochs,
            validation_data=reference.pairs(valid),
            validation_steps=len(valid),
            verbose=2,
        )
    valid = flow("valid")
    judged = model.evaluate(reference.pairs(valid), steps=len(valid), verbose=0, return_dict=True)
    return 1 - judged["ctg_out_1_accuracy"]


def train_ours(args, weights):
    """Trains with `train.py`'s own function; returns its validation error."""
    import train

    flags = f"--trunk {args.trunk} --pretrained {args.pretrained} --image-size {args.image_size} "
    flags += f"--batch-size {args.batch_size} --seed {args.seed} --epochs"
    words = [*flags.split(), *map(str, args.epochs), "--data", args.data, "--weights", weights]
    train.train(train.parse_args(words))
    return json.loads(pathlib.Path(weights, "results.json").read_text())[-1]["error"]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Time a whole run of the plain port and of ours.")
    add = parser.add_argument
    add("--data", default="data", help="folder with train/ and valid/ (default: %(default)s)")
    add("--trunk", choices=("xception", "inceptionv3"), default="xception")
    add("--pretrained", required=True, metavar="FILE", help="weights of the trunk")
    add("--image-size", type=int, default=139, help="pixels (default: %(default)s)")
    add("--batch-size", type=int, default=16, help="default: %(default)s")
    add("--epochs", type=int, nargs=3, default=[4, 2, 4], help="default: 4 2 4")
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main():
    args = parse_args()
    num_classes = len(os.listdir(pathlib.Path(args.data, "train")))
    start = time.perf_counter()
    plain_error = train_reference(args, num_classes)
    plain_seconds = time.perf_counter() - start
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as weights:
        our_error = train_ours(args, weights)
    our_seconds = time.perf_counter() - start
    print(f"reference: {plain_seconds:.0f} s, validation error {plain_error:.4f}")
    print(f"ours:      {our_seconds:.0f} s, validation error {our_error:.4f}")
    print(f"whole run: {plain_seconds / our_seconds:.2f} times as fast")


if __name__ == "__main__":
    run(main)
