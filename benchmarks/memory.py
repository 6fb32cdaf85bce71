"""Which batch size fits the card? Memory of every stage, estimated and measured.

The estimate adds up float32 tensors: weights, optimizer slots, gradients, the
activations that the backward pass keeps (what is trained), and the largest
ones that live at once in what is only passed through (what is frozen). On a
GPU the real peak of a training step stands beside it.

Run it:  python -m benchmarks.memory --image-size 299
"""

import argparse
import math

from pairs.command_line import run
from pairs.network.trunks import TRUNKS

# The driver's and the libraries' own share of a card, and convolution workspace.
OVERHEAD = 600e6
# What trains, and whether what is frozen is read from disk.
STAGES = {
    "heads": (None, False),
    "blocks": ("blocks", False),
    "plain": ("blocks", True),
    "half": ("half", True),
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


def measure_on_gpu(model, cut, batch_size, image_size):
    """Peak bytes of one real training step on the first GPU; None without one."""
    import keras
    import numpy as np
    import tensorflow as tf

    from pairs.network import parts
    from pairs.network.parts import unfreeze
    from pairs.training.optimizer import compile_model

    if not tf.config.list_physical_devices("GPU"):
        return None
    unfreeze(model, cut)
    whole = parts.connect(*parts.split(model, cut))
    compile_model(whole, keras.optimizers.SGD(1e-4, momentum=0.9))
    images = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
    labels = np.zeros(batch_size, np.int32)
    partner = np.roll(np.arange(batch_size, dtype=np.int32), 1)
    tf.config.experimental.reset_memory_stats("GPU:0")
    whole.train_on_batch(
        {"img_1": images, "partner": partner},
        {"ctg_out_1": labels, "ctg_out_2": labels, "bin_out": labels},
    )
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Estimate, and on a GPU measure, memory.")
    parser.add_argument("--image-size", type=int, default=299, help="pixels (default: 299)")
    parser.add_argument("--trunk", choices=TRUNKS, default="xception")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 24, 32, 48, 64])
    return parser.parse_args(argv)


def main():
    args = parse_args()
    from model import build_model
    from pairs.network.trunks import build_trunk

    trunk = build_trunk(args.trunk, args.image_size, "none", "no folder")
    model = build_model(trunk, [str(number) for number in range(100)])
    print(f"{args.trunk} at {args.image_size} pixels, GB (measured on the GPU in brackets)")
    print(f"{'batch':>6}" + "".join(f"{name:>16}" for name in STAGES))
    for batch_size in args.batch_sizes:
        line = f"{batch_size:>6}"
        for unfreeze, stored in STAGES.values():
            _, at = TRUNKS[args.trunk].training_place(trunk, unfreeze)
            guess = estimate(trunk, at, batch_size, stored=stored) / 1e9
            found = measure_on_gpu(model, at, batch_size, args.image_size)
            beside = f" ({found / 1e9:.2f})" if found else ""
            line += f"{f'{guess:.2f}{beside}':>16}"
        print(line)


if __name__ == "__main__":
    run(main)
