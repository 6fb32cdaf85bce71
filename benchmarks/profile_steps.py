"""What does a training step spend its time on? The kernels of a GPU, counted (JAX alone).

Steps of `timm_speed.py`'s "ours" are traced by JAX's own profiler, and the time
of every kernel is added up by what it computes.

Run it:  KERAS_BACKEND=jax python -m benchmarks.profile_steps --stages blocks --batch-size 256
"""

import collections
import pathlib
import tempfile
import time

from benchmarks.timm_speed import PRECISIONS
from pairs.command_line import Parser, positive_int, run
from pairs.errors import UserError
from pairs.training.recipe import STAGES_2017

STEPS = 50
PRODUCTS = "matrix products and convolutions"
FUSED = "what XLA fused: sums, scales, activations, pooling"
# A word of a kernel's name, and what it computes; the first that fits counts.
KINDS = (
    ("convert", FUSED),
    ("nvjet", PRODUCTS),  # cuBLAS
    ("gemm", PRODUCTS),
    ("cudnn", PRODUCTS),
    ("conv", PRODUCTS),
    ("xmma", PRODUCTS),
    ("cutlass", PRODUCTS),
    ("fusion", FUSED),
    ("memcpy", "copies"),
    ("memset", "copies"),
)


def kernels(folder):
    """Seconds of every kernel in a trace: dict from name to `[seconds, calls]`.

    Args:
        folder: that `jax.profiler.trace` wrote.

    Raises:
        UserError: no GPU was traced.
    """
    from jax.profiler import ProfileData

    found = collections.defaultdict(lambda: [0.0, 0])
    for file in pathlib.Path(folder).rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(file)).planes:
            if "GPU" not in plane.name:
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue  # the other lines repeat the kernels, by module and by operation
                for event in line.events:
                    found[event.name][0] += event.duration_ns / 1e9
                    found[event.name][1] += 1
    if not found:
        raise UserError("no kernel of a GPU was traced: KERAS_BACKEND=jax and a GPU are needed")
    return dict(found)


def kind_of(name):
    """What a kernel computes, by its name."""
    lower = name.lower()
    return next((kind for word, kind in KINDS if word in lower), "others")


def print_kernels(found, most):
    """Prints shares of the time by kind, then of the longest kernels."""
    total = sum(seconds for seconds, _ in found.values())
    kinds = collections.Counter()
    for name, (seconds, _) in found.items():
        kinds[kind_of(name)] += seconds
    print(f"{1000 * total / STEPS:.2f} ms of kernels a step")
    for kind, seconds in kinds.most_common():
        print(f"  {seconds / total:6.1%}  {kind}")
    for name, (seconds, calls) in sorted(found.items(), key=lambda item: -item[1][0])[:most]:
        print(f"  {seconds / total:6.1%}  {calls / STEPS:5.0f} a step  {name[:100]}")


def parse_args(argv=None):
    parser = Parser(description="Add up what the kernels of a training step take on a GPU.")
    add = parser.add_argument
    stages = [stage.name for stage in STAGES_2017]
    add("--image-size", type=positive_int, default=299, help="pixels (default: %(default)s)")
    add("--batch-size", type=positive_int, default=128, help="pairs (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="float32", help="default: %(default)s")
    add("--stages", choices=stages, nargs="+", default=["blocks"], help="default: blocks")
    add("--kernels", type=positive_int, default=12, help="shown (default: %(default)s)")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    import jax
    import keras

    if keras.backend.backend() != "jax" or jax.default_backend() != "gpu":
        raise UserError("KERAS_BACKEND=jax and a GPU are needed: its kernels are what is counted")

    from benchmarks.keras_steps import prepare_ours

    for plan in STAGES_2017:
        if plan.name not in args.stages:
            continue
        train = prepare_ours(plan, args.batch_size, args.image_size, STEPS, args.precision)
        train()  # compiles
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                train()
            start = time.perf_counter()
            train()
            clock = 1000 * (time.perf_counter() - start) / STEPS
            print(f"\nstage {plan.name}, batch {args.batch_size}, {args.precision}:")
            print(f"{clock:.2f} ms a step on the clock, without the profiler")
            print_kernels(kernels(folder), args.kernels)


if __name__ == "__main__":
    run(main)
