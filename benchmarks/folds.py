"""What `train.py --folds K` costs, against one training on the same photos: CPU and wall time.

The frozen part of the network is computed once for all folds. Both are whole
commands, from start to end, in turn; each begins in an empty folder.

Run it:  python -m benchmarks.folds --data data --pretrained FILE --image-size 139
"""

import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from pairs.command_line import Parser, positive_int, run
from pairs.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


def time_training(words, weights):
    """Runs `train.py` with some flags into an empty folder.

    Returns:
        `(cpu, wall, error)`: seconds of user and system time, of the clock, and
        the error at the end, of all folds or of the validation photos.

    Raises:
        UserError: the folder is there already, or it failed; its last line.
    """
    if weights.exists():
        raise UserError(f"{weights}: there already; choose another --keep")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *words, "--weights", weights],
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1])
    results = json.loads((weights / "results.json").read_text())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall, (results if isinstance(results, dict) else results[-1])["error"]


def parse_args(argv=None):
    parser = Parser(description="Time one training and one of several folds.")
    add = parser.add_argument
    add("--data", default="data", help="folder with train/ and valid/ (default: %(default)s)")
    add("--pretrained", default="imagenet", help="as of train.py (default: %(default)s)")
    add("--recipe", default="tuned", help="as of train.py (default: %(default)s)")
    add("--image-size", type=positive_int, default=139, help="pixels (default: %(default)s)")
    add("--epochs", type=int, nargs="+", help="as of train.py (default: the recipe's)")
    add("--folds", type=positive_int, default=5, help="default: %(default)s")
    add("--keep", metavar="DIR", help="keep the weights there, in one-1, folds-1, ...")
    add("--repeats", type=positive_int, default=1, help="of both, in turn (default: %(default)s)")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    words = ["--data", args.data, "--pretrained", args.pretrained, "--recipe", args.recipe]
    words += ["--image-size", str(args.image_size)]
    words += ["--epochs", *map(str, args.epochs)] if args.epochs else []
    kinds = {"one": words, "folds": [*words, "--folds", str(args.folds)]}
    times = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, args.repeats + 1):
            for name, flags in kinds.items():
                weights = pathlib.Path(args.keep or scratch, f"{name}-{number}")
                times[name].append(time_training(flags, weights))
                cpu, wall, error = times[name][-1]
                print(
                    f"{weights.name}: {cpu:.0f} s of CPU, {wall:.0f} s, error {error:.4f}",
                    flush=True,
                )
    one, many = (
        [statistics.median(values) for values in zip(*found, strict=True)]
        for found in times.values()
    )
    print(
        f"{args.folds} folds: {many[0] / one[0]:.2f} times the CPU time of one training, "
        f"{many[1] / one[1]:.2f} times its wall time"
    )


if __name__ == "__main__":
    run(main)
