"""Does a training survive `kill -9`? It is killed for real, many times.

Each time a small training (three stages on drawn photos) is killed with SIGKILL
at a random moment, half of the times while it is writing a checkpoint, a model,
a store or the log. The same command then goes on, and what it leaves is
compared byte by byte with an undisturbed run: weights, log, results and
predictions.

Run it:  python benchmarks/kill_test.py --kills 20
"""

import argparse
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import breeds
import img2keras
from atomic_file import temporary_path
from command_line import positive_int, run

ROOT = pathlib.Path(img2keras.__file__).parent
TRAINING = "--pretrained none --image-size 71 --batch-size 8 --epochs 3 2 3"
# Files in whose writing a process is killed; None: at any moment.
TARGETS = ("checkpoint.npz", None, "log.csv", None, "plain-best.keras", None, "activations", None)
COMPARED = ("model.weights.h5", "log.csv", "results.json", "predict.txt")


def command(data, weights):
    """The training that is killed and run again."""
    flags = [*TRAINING.split(), "--data", data, "--weights", weights]
    return [sys.executable, ROOT / "train.py", *flags]


def finish(data, weights):
    """Runs the training to its end, and predicts; raises if either fails."""
    for words in (
        command(data, weights),
        [
            *(sys.executable, ROOT / "predict.py", "--weights", weights),
            *("--test", data / "test", "--out", weights / "predict.txt"),
        ],
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])


def outcome(weights):
    """dict from the names in `COMPARED` to bytes."""
    files = {name: (weights / name).read_bytes() for name in COMPARED[1:]}
    with zipfile.ZipFile(weights / "model.keras") as model:
        return {COMPARED[0]: model.read(COMPARED[0]), **files}


def is_writing(weights, target):
    """Whether a file of this name is half written now."""
    if target == "activations":
        return any((weights / target).glob("*/.tmp-*"))
    return temporary_path(weights / target).exists()


def kill_once(data, weights, target, delay):
    """Starts the training and kills it.

    Args:
        target: in whose writing; None: after `delay` seconds.

    Returns:
        Words for where it was hit.
    """
    start = time.perf_counter()
    training = subprocess.Popen(
        command(data, weights), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # Half of all writes are let pass: not always the first one is hit.
    to_pass = random.randrange(3) if target not in (None, "activations") else 0
    was_writing = False
    while training.poll() is None:
        if target is None and time.perf_counter() - start > delay:
            break
        if target:
            writing = is_writing(weights, target)
            if writing and not was_writing:
                if not to_pass:
                    break
                to_pass -= 1
            was_writing = writing
        time.sleep(0.0005)
    training.kill()
    training.wait()
    where = f"writing {target}" if target and is_writing(weights, target) else "at"
    return f"{where} {time.perf_counter() - start:.1f} s"


def parse_args():
    parser = argparse.ArgumentParser(description="Kill a training, go on, compare byte by byte.")
    parser.add_argument("--kills", type=positive_int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    return parser.parse_args()


def main():
    args = parse_args()
    random.seed(args.seed)
    survived = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        breeds.draw_breeds(scratch / "raw", 4, seed=0)
        breeds.draw_breeds(scratch / "test", 1, seed=1, labelled=False)
        img2keras.sort_photos(scratch / "raw", scratch)
        start = time.perf_counter()
        finish(scratch, scratch / "undisturbed")
        duration = time.perf_counter() - start
        expected = outcome(scratch / "undisturbed")
        print(f"undisturbed: {duration:.0f} s", flush=True)
        for number in range(args.kills):
            weights = scratch / "killed"
            target = TARGETS[number % len(TARGETS)]
            where = kill_once(scratch, weights, target, random.uniform(0, duration))
            try:
                finish(scratch, weights)
                found = outcome(weights)
                differs = [name for name in COMPARED if found[name] != expected[name]]
                verdict = f"differs in {', '.join(differs)}" if differs else "the same"
            except RuntimeError as error:
                verdict = f"did not go on: {error}"
            survived += verdict == "the same"
            print(f"kill {number + 1} {where}: {verdict}", flush=True)
            shutil.rmtree(weights)
    print(f"survived {survived} of {args.kills}")


if __name__ == "__main__":
    run(main)
