"""How fast beside timm? Steps of every stage on one device, side by side in one run.

    ours       an image passes the trunk once; stage 3 starts from stored activations
    two-pass   the plain port of `reference.py`: both images of a pair
    timm       timm's `legacy_xception` in PyTorch: both images of a pair in one call,
               the same layers frozen, torch.compile, channels_last

Each contender is a process of its own, so its memory is its own, and they take
turns, so a noisy machine hits all alike. Batches lie in memory: how fast
photos are read is a matter of `train_speed.py`. Ours and the plain port run on
Keras' backend; timm is skipped if it is not installed.

Run it:  KERAS_BACKEND=jax python -m benchmarks.timm_speed --batch-sizes 32 64 128 256 \\
             --precision float32 mixed_bfloat16
"""

import importlib
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import resource
import statistics
import time

import numpy as np

from pairs.command_line import Parser, positive_int, run
from pairs.files import write_text
from pairs.training.recipe import STAGES_2017

# Where each contender's steps are: module and function.
CONTENDERS = {
    "ours": ("benchmarks.keras_steps", "prepare_ours"),
    "two-pass": ("benchmarks.keras_steps", "prepare_two_pass"),
    "timm": ("benchmarks.timm_steps", "prepare_timm"),
}
PRECISIONS = ("float32", "mixed_bfloat16")
NUM_CLASSES = 100
NUM_BATCHES = 2  # different ones, in turn
# Floating-point operations a second of dense matrix products, from NVIDIA's data
# sheets; float32 as TF32, which both frameworks use for it. The first name that is
# part of the card's counts.
PEAKS = {
    "A100": {"float32": 156e12, "mixed_bfloat16": 312e12},
    "H100 PCIe": {"float32": 378e12, "mixed_bfloat16": 756e12},
    "H100 NVL": {"float32": 417e12, "mixed_bfloat16": 835e12},
    "H100": {"float32": 495e12, "mixed_bfloat16": 989e12},
    "H200": {"float32": 495e12, "mixed_bfloat16": 989e12},
}


def make_batches(batch_size, shape, dtype):
    """Random inputs and labels, for every contender the same.

    Returns:
        list of `(images, partner, labels)`: arrays of shape `(batch, *shape)`,
        `(batch,)` and `(batch,)`.
    """
    rng = np.random.default_rng(0)
    return [
        (
            rng.integers(0, 256, (batch_size, *shape)).astype(dtype),
            np.roll(np.arange(batch_size, dtype=np.int32), 1),
            rng.integers(0, NUM_CLASSES, batch_size).astype(np.int32),
        )
        for _ in range(NUM_BATCHES)
    ]


def work(connection, contender, *setting):
    """A contender's process: sets up, then trains whenever it is told to."""
    module, function = CONTENDERS[contender]
    module = importlib.import_module(module)
    train = getattr(module, function)(*setting)
    while connection.recv() == "train":
        start = time.perf_counter(), time.process_time()
        train()
        connection.send((time.perf_counter() - start[0], time.process_time() - start[1]))
    of_computer = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send(module.peak_memory() or of_computer)


def race(contenders, rounds, plan, batch_size, image_size, num_steps, precision):
    """Times contenders in turns.

    Args:
        contenders: list of keys of `CONTENDERS`.
        rounds: int, turns of each.
        plan, ...: as `keras_steps.prepare_ours` takes them.

    Returns:
        dict from contender to `{"pairs a second": float, "processor seconds a pair":
        float, "memory": bytes}`: medians, user and system of the computer's own
        processor, and the memory of the device or, on a CPU, of the process; to None where its
        process ended (out of memory, say: its own words are on standard error;
        all contenders share the device's memory).
    """
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    seconds = {contender: [] for contender in contenders}

    def ask(contender, *words):
        """The answer of a contender; None if it has ended."""
        try:
            for word in words:
                connections[contender].send(word)
            return connections[contender].recv()
        except (EOFError, OSError):
            return None

    for contender in contenders:
        connections[contender], other = context.Pipe()
        setting = (other, contender, plan, batch_size, image_size, num_steps, precision)
        processes.append(context.Process(target=work, args=setting, daemon=True))
        processes[-1].start()
        other.close()  # the process holds it now; should it end, that is seen here
    for contender in contenders:  # they compile in turn, undisturbed: XLA and cuDNN time kernels
        ask(contender, "train")
    for _ in range(rounds):
        for contender in contenders:
            seconds[contender].append(ask(contender, "train"))
    memory = {contender: ask(contender, "stop") for contender in contenders}
    for process in processes:
        process.join()  # the next race has the whole device again
    num_pairs = batch_size * num_steps
    return {
        contender: memory[contender]
        and {
            "pairs a second": num_pairs / statistics.median(clock for clock, _ in times),
            "processor seconds a pair": statistics.median(cpu for _, cpu in times) / num_pairs,
            "memory": memory[contender],
        }
        for contender, times in seconds.items()
    }


def operations_of_a_pair(trunk, cut):
    """What a pair of each stage takes at least, in floating-point operations.

    One image: its partner's feature is there already. A trained layer counts
    three times: forward, gradient of its input, gradient of its weights.

    Args:
        trunk: `trunks.build_trunk(...)`.
        cut: index of the last frozen layer in stages 2 and 3.

    Returns:
        dict from a stage's name to operations.
    """
    counts = [operations_of(layer) for layer in trunk.layers]
    frozen, trained = sum(counts[: cut + 1]), sum(counts[cut + 1 :])
    return {"heads": frozen + trained, "blocks": frozen + 3 * trained, "plain": 3 * trained}


def operations_of(layer):
    """Floating-point operations of a convolution on one image; 0 for any other layer."""
    if not hasattr(layer, "kernel_size"):
        return 0
    places = math.prod(layer.output.shape[1:3])
    channels, window = layer.input.shape[-1], math.prod(layer.kernel_size)
    if hasattr(layer, "depthwise_kernel"):
        return 2 * places * channels * (window + layer.filters)
    return 2 * places * channels * window * layer.filters


def share_of_peak(device, precision, operations_a_second):
    """Share of what a device can do at most; None where that is not known."""
    peaks = [peak[precision] for name, peak in PEAKS.items() if name in device]
    return operations_a_second / peaks[0] if peaks else None


def shown(result):
    """A contender's cell of the table."""
    if result is None:
        return "ended"
    share = result["share of peak"]
    percent = "" if share is None else f"; {100 * share:.0f} %"
    milliseconds = 1000 * result["processor seconds a pair"]
    processor = f"{milliseconds:.{0 if milliseconds >= 10 else 2}f} ms"
    return f"{result['pairs a second']:.1f} ({processor}, {result['memory'] / 1e9:.1f} GB{percent})"


def parse_args(argv=None):
    parser = Parser(description="Time training steps of ours, of the plain port, and of timm.")
    add = parser.add_argument
    add("--image-size", type=positive_int, default=299, help="pixels (default: %(default)s)")
    add("--batch-sizes", type=positive_int, nargs="+", default=[32], help="pairs (default: 32)")
    add("--precision", choices=PRECISIONS, nargs="+", default=["float32"], help="default: float32")
    stages = [stage.name for stage in STAGES_2017]
    add("--stages", choices=stages, nargs="+", default=stages, help="default: all")
    others = [contender for contender in CONTENDERS if contender != "ours"]
    add("--beside", choices=others, nargs="+", default=others, help="contenders (default: all)")
    add("--steps", type=positive_int, default=20, help="a round (default: %(default)s)")
    add("--rounds", type=positive_int, default=5, help="of each, in turn (default: %(default)s)")
    add("--json", type=pathlib.Path, metavar="FILE", help="write all numbers there")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    # Several processes share the device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    from pairs.devices import inventory as device
    from pairs.network.trunks import TRUNKS, build_trunk

    contenders = ["ours", *args.beside]
    if "timm" in contenders and not importlib.util.find_spec("timm"):
        contenders.remove("timm")
        print("timm is not installed and skipped (pip install timm)")
    runs_on = device.describe(device.take_inventory())
    trunk = build_trunk("xception", args.image_size, "none")
    operations = operations_of_a_pair(trunk, TRUNKS["xception"].cut(trunk))
    print(
        f"{runs_on}; {args.image_size} pixels; pairs a second (processor time "
        f"a pair, memory; share of peak)\n"
    )
    print(f"| stage | batch | precision | {' | '.join(contenders)} | ours times as fast |")
    print("|---" * (len(contenders) + 4) + "|")
    rows = []
    plans = [plan for plan in STAGES_2017 if plan.name in args.stages]
    for precision, batch_size, plan in itertools.product(args.precision, args.batch_sizes, plans):
        setting = (plan, batch_size, args.image_size, args.steps, precision)
        found = race(contenders, args.rounds, *setting)
        for result in filter(None, found.values()):
            needed = result["pairs a second"] * operations[plan.name]
            result["share of peak"] = share_of_peak(runs_on, precision, needed)
        ours = found["ours"]
        ratios = [
            f"{ours['pairs a second'] / other['pairs a second']:.2f}" if ours and other else "-"
            for other in list(found.values())[1:]
        ]
        cells = [plan.name, batch_size, precision, *map(shown, found.values()), ", ".join(ratios)]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        rows.append({"stage": plan.name, "batch": batch_size, "precision": precision, **found})
    if args.json:
        write_text(args.json, json.dumps({"device": runs_on, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
