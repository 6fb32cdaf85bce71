"""Do several processes train as one does? One training in 1, 2 and 4 of them, compared.

The processes are a cluster on this machine's loopback address, as they would be
one on many machines: JAX on CPUs, one global batch, the same seed.

Run it:  python -m benchmarks.loopback --data data [-- more flags of train.py]
"""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np

from pairs.command_line import Parser, positive_int, run
from pairs.devices.cluster import ADDRESSES, NUM_PROCESSES, PROCESS
from pairs.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


def start(count, flags):
    """Starts a training as a cluster of processes on this machine.

    Args:
        count: int, processes.
        flags: list of str, of train.py.

    Returns:
        list of `subprocess.Popen`, process 0 first; their output is piped.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = [sys.executable, ROOT / "train.py", "--distribute", *map(str, flags)]
    alone = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            words,
            env={**alone, ADDRESSES: address, NUM_PROCESSES: str(count), PROCESS: str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def weights_of(path):
    """All weights of a model file: a list of float arrays."""
    import keras

    from pairs.network.files import load_model

    keras.utils.clear_session()
    return [keras.ops.convert_to_numpy(w) for w in load_model(path).weights]


def difference(ours, others):
    """Of two lists of arrays: the largest difference, and the largest of an array's norm."""
    pairs = list(zip(ours, others, strict=True))
    norms = [np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12) for a, b in pairs]
    return max(np.abs(a - b).max() for a, b in pairs), max(norms)


def parse_args(argv=None):
    parser = Parser(description="Train one model in 1, 2 and 4 processes and compare them.")
    parser.add_argument("--data", default="data", help="default: %(default)s")
    parser.add_argument(
        "--processes", type=positive_int, nargs="+", default=[1, 2, 4], help="default: 1 2 4"
    )
    parser.add_argument("train_flags", nargs="*", metavar="FLAG", help="of train.py, after --")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    first = None
    with tempfile.TemporaryDirectory() as scratch:
        for count in args.processes:
            weights = pathlib.Path(scratch, str(count))
            begin = time.perf_counter()
            processes = start(count, ["--data", args.data, "--weights", weights, *args.train_flags])
            errors = [process.communicate()[1] for process in processes]
            if any(process.returncode for process in processes):
                raise UserError(f"{count} processes: {errors[0].strip().splitlines()[-1]}")
            line = f"{count} processes: {time.perf_counter() - begin:.0f} s"
            found = weights_of(weights / "model.keras")
            if first is None:
                first = found
            else:
                largest, relative = difference(found, first)
                line += (
                    f", weights differ by {largest:.1e} at most, of an array's norm {relative:.1e}"
                )
            print(line, flush=True)


if __name__ == "__main__":
    run(main)
