"""Which batch size fits the card? Memory of every stage, estimated and measured.

The estimate adds up float32 tensors: weights, optimizer slots, gradients, the
activations that the backward pass keeps (what is trained), and the largest
ones that live at once in what is only passed through (what is frozen). On a
GPU (of TensorFlow or JAX) the measured peak of a few steps stands beside it; each
stage and batch size runs in a process of its own.

Run it:  python -m benchmarks.memory --image-size 299
"""

import argparse
import concurrent.futures
import math
import multiprocessing
import os

from pairs.command_line import run
from pairs.network.trunks import TRUNKS
from pairs.training.recipe import Stage

# The driver's and the libraries' own share of a card, and convolution workspace.
OVERHEAD = 600e6
STEPS = 2  # trained to measure the peak
# What trains, and whether what is frozen is read from disk.
STAGES = {
    "heads": (None, False),
    "blocks": ("blocks", False),
    "plain": ("blocks", True),
}


def bytes_of(tensor):
    """Bytes of one image's share of a float32 tensor."""
    return 4 * math.prod(tensor.shape[1:])


def estimate(trunk, cut, batch_size, num_classes=100, stored=False):
    """Peak bytes of a training step.

    Args:
        trunk: a trunk of `trunks.build_trunk`.
        cut: index of the last frozen operation; None, all of them are.
        batch_size: images a step.
        num_classes: of the two softmax heads.
        stored: the frozen part is read from disk (last stage).
    """
    layers = trunk.operations
    weights = 4 * sum(math.prod(weight.shape) for weight in trunk.weights)
    trained = layers[cut + 1 :] if cut else []
    learned = [weight for layer in trained for weight in getattr(layer, "weights", [])]
    slots = 4 * sum(math.prod(weight.shape) for weight in learned)
    slots += 4 * 2 * trunk.output_shape[-1] * num_classes
    kept = sum(bytes_of(layer.output) for layer in trained)
    # A separable convolution keeps what its two halves hand over, too.
    kept += sum(bytes_of(layer.input) for layer in trained if hasattr(layer, "depthwise_kernel"))
    passing = layers[: cut + 1] if cut else layers
    # A layer's input, its output and a shortcut waiting beside them.
    largest = max(
        sum(bytes_of(layer.output) for layer in passing[start : start + 3])
        for start in range(len(passing))
    )
    passed = 0 if stored else largest
    # Gradients and one optimizer slot (Adam's second is for the small heads only).
    return OVERHEAD + weights + 2 * slots + batch_size * (kept + passed)


def measure(trunk, name, batch_size, image_size):
    """Peak bytes of training steps of a stage on the first GPU: those of this whole process.

    Infinite where they find no room.
    """
    from benchmarks.keras_steps import peak_memory, prepare_ours
    from pairs.out_of_memory import is_out_of_memory

    unfreeze, stored = STAGES[name]
    augment = None if stored else "affine"
    stage = Stage(1, name, unfreeze, "sgd", 1e-4, epochs=1, augment=augment)
    try:
        prepare_ours(stage, batch_size, image_size, STEPS, "float32", trunk)()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return math.inf
    return peak_memory()


def measure_alone(*setting):
    """`measure` in a process of its own: no other stage's memory is in its peak."""
    alone = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, alone) as pool:
        return pool.submit(measure, *setting).result()


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Estimate, and on a GPU measure, memory.")
    parser.add_argument("--image-size", type=int, default=299, help="pixels (default: 299)")
    parser.add_argument("--trunk", choices=TRUNKS, default="xception")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 24, 32, 48, 64])
    return parser.parse_args(argv)


def main():
    args = parse_args()
    # As much as is needed, not as much as there is.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    from benchmarks.keras_steps import peak_memory
    from pairs.network.trunks import build_trunk

    trunk = build_trunk(args.trunk, args.image_size, "none")
    on_gpu = peak_memory() is not None
    print(f"{args.trunk} at {args.image_size} pixels, GB (measured on the GPU in brackets)")
    print(f"{'batch':>6}" + "".join(f"{name:>16}" for name in STAGES))
    for batch_size in args.batch_sizes:
        line = f"{batch_size:>6}"
        for name, (unfreeze, stored) in STAGES.items():
            at = TRUNKS[args.trunk].cut(trunk) if unfreeze else None
            guess = estimate(trunk, at, batch_size, stored=stored) / 1e9
            beside = ""
            if on_gpu:
                found = measure_alone(args.trunk, name, batch_size, args.image_size)
                beside = f" ({found / 1e9:.2f})"
            line += f"{f'{guess:.2f}{beside}':>16}"
        print(line, flush=True)


if __name__ == "__main__":
    run(main)
