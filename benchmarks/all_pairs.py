"""What does a training step cost that compares all pairs of its batch?

Steps of the blocks stage on stored activations, the cheapest ones that there are:
with the 2017 pairs, one for each image, and with every pair of the batch. The
contenders take turns, in one process; medians. Processor time is that of all cores.

Run it:  python -m benchmarks.all_pairs --image-size 222 --batch-size 32
"""

import argparse
import json
import statistics
import time

from pairs.command_line import positive_int, run

TYPEIDS = [str(number) for number in range(60)]


def make_step(image_size, batch_size, all_pairs):
    """A function that takes one training step."""
    import keras
    import numpy as np

    from model import build_model
    from pairs.network.parts import split, unfreeze
    from pairs.network.trunks import TRUNKS, build_trunk
    from pairs.training.optimizer import compile_model

    trunk = build_trunk("xception", image_size, "none")
    model = build_model(trunk, TYPEIDS, all_pairs=all_pairs)
    cut = TRUNKS["xception"].cut(trunk)
    unfreeze(model, cut)
    below, above = split(model, cut, all_pairs)
    compile_model(above, keras.optimizers.SGD(1e-4, momentum=0.9))
    rng = np.random.default_rng(0)
    partner = rng.permutation(batch_size).astype(np.int32)
    activation = rng.random((batch_size, *below.output_shape[1:]), np.float32)
    inputs = {"activation": activation, "partner": partner}
    labels = rng.integers(0, len(TYPEIDS), batch_size)
    targets = {"ctg_out_1": labels, "ctg_out_2": labels[partner]}
    targets |= {"all_pairs": labels} if all_pairs else {"bin_out": labels == labels[partner]}
    return lambda: above.train_on_batch(inputs, targets)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Time steps with one pair an image, and with all.")
    add = parser.add_argument
    add("--image-size", type=positive_int, default=222, help="default: %(default)s")
    add("--batch-size", type=positive_int, default=32, help="default: %(default)s")
    add("--rounds", type=positive_int, default=40, help="default: %(default)s")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    contenders = {
        "one permutation": make_step(args.image_size, args.batch_size, all_pairs=False),
        "all pairs": make_step(args.image_size, args.batch_size, all_pairs=True),
    }
    seconds = {name: [] for name in contenders}
    for number in range(args.rounds + 2):  # two to warm up
        for name, step in contenders.items():
            begin = time.perf_counter(), time.process_time()
            step()
            if number >= 2:
                now = time.perf_counter(), time.process_time()
                seconds[name].append([b - a for a, b in zip(begin, now, strict=True)])
    found = {}
    for name, values in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        found[name] = {"seconds": round(wall, 4), "processor seconds": round(cpu, 4)}
    one, every = (found[name]["processor seconds"] for name in contenders)
    print(json.dumps({**found, "all over one": round(every / one, 3)}))


if __name__ == "__main__":
    run(main)
