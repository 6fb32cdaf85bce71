"""Does a training survive `kill -9`? It is killed for real, many times.

Each time a small training (three stages on drawn photos) is killed with SIGKILL
at a random moment, half of the times while it is writing a checkpoint, a model,
a store or the log. The same command then resumes, and what it leaves is
compared byte by byte with an undisturbed run: weights, log, results and
predictions, of every fold with `--folds`. With `--processes 2` a cluster on this
machine's loopback address trains (JAX), and one of its processes, drawn at
random, is killed: the others must end by themselves, each with one line.

Run it:  python -m benchmarks.kill_test --kills 20 [--processes 2] [--folds 3]
"""

import argparse
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

import img2keras
from benchmarks import loopback
from pairs.command_line import positive_int, run
from pairs.demo import breeds
from pairs.files import temporary_path

ROOT = pathlib.Path(img2keras.__file__).parent
TRAINING = "--pretrained none --image-size 71 --batch-size 8 --epochs 3 2 3"
# Files in whose writing a process is killed; None: at any moment.
TARGETS = ("checkpoint.npz", None, "log.csv", None, "plain-best.keras", None, "activations", None)
# How long the other processes may take to notice that one is gone.
LONGEST_WAIT = 120
COMPARED = ("model.keras", "log.csv", "results.json", "out_of_fold.csv", "predict.txt")


def start(data, weights, args):
    """Starts the training that is killed and run again: a list of its processes."""
    flags = [*TRAINING.split(), "--data", data, "--weights", weights]
    flags += ["--folds", args.folds] if args.folds else []
    if args.processes > 1:
        return loopback.start(args.processes, flags)
    words = [sys.executable, ROOT / "train.py", *map(str, flags)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(words, **pipes)]


def finish(data, weights, args):
    """Runs the training to its end, and predicts; raises if either fails.

    Returns:
        the seconds that the training took.
    """
    begin = time.perf_counter()
    training = start(data, weights, args)
    predicting = [
        *(sys.executable, ROOT / "predict.py", "--weights", weights),
        *("--test", data / "test", "--out", weights / "predict.txt"),
    ]
    ended = [(process.communicate()[1], process.returncode) for process in training]
    seconds = time.perf_counter() - begin
    if not any(code for _, code in ended):
        done = subprocess.run(predicting, capture_output=True, text=True, check=False)
        ended.append((done.stderr, done.returncode))
    for errors, code in ended:
        if code:
            raise RuntimeError(errors.strip().splitlines()[-1])
    return seconds


def outcome(weights):
    """dict from the paths of the files in `COMPARED` to their bytes; of a model its weights."""
    found = {}
    for path in (path for name in COMPARED for path in sorted(weights.rglob(name))):
        found[str(path.relative_to(weights))] = path.read_bytes()
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as model:
                found[str(path.relative_to(weights))] = model.read("model.weights.h5")
    return found


def is_writing(weights, target):
    """Whether a file of this name is half written now."""
    if target == "activations":
        return any((weights / target).glob("*/.tmp-*"))
    folders = [weights, *weights.glob("fold-*")]
    return any(temporary_path(folder / target).exists() for folder in folders)


def kill_once(data, weights, args, target, delay):
    """Starts the training and kills one of its processes.

    Args:
        target: in whose writing; None: after `delay` seconds.

    Returns:
        `(where, is_hit)`: words for where it was hit, and whether it was: it may have ended
        before.

    Raises:
        RuntimeError: another process did not end, or not with one line.
    """
    begin = time.perf_counter()
    processes = start(data, weights, args)
    # The one that writes is process 0; at other moments any of them may die.
    victim = 0 if target else random.randrange(args.processes)
    training = processes.pop(victim)
    # Some writes are let pass: not always the first one is hit.
    to_pass = random.randrange(3) if target in ("checkpoint.npz", "log.csv") else 0
    was_writing = False
    while training.poll() is None:
        if target is None and time.perf_counter() - begin > delay:
            break
        if target:
            writing = is_writing(weights, target)
            if writing and not was_writing:
                if not to_pass:
                    break
                to_pass -= 1
            was_writing = writing
        time.sleep(0.0005)
    was_over = training.poll() is not None
    training.kill()
    errors = training.communicate()[1]
    if was_over and training.returncode:
        raise RuntimeError(f"ended by itself: {errors.strip().splitlines()[-1]}")
    where = f"writing {target}" if target and is_writing(weights, target) else "at"
    where = f"process {victim} {where} {time.perf_counter() - begin:.1f} s"
    for other in processes:
        try:
            errors = other.communicate(timeout=LONGEST_WAIT)[1]
        except subprocess.TimeoutExpired as error:
            other.kill()
            raise RuntimeError(f"{where}: another process waits for ever") from error
        if not was_over and (other.returncode != 2 or "Traceback" in errors):
            raise RuntimeError(f"{where}: another process ended with {other.returncode}: {errors}")
    return where, not was_over


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Kill a training, resume, compare byte by byte.")
    parser.add_argument("--kills", type=positive_int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--processes", type=positive_int, default=1, help="that train together (default: 1)"
    )
    parser.add_argument("--folds", type=positive_int, metavar="K", help="as of train.py")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    random.seed(args.seed)
    if args.processes > 1:
        os.environ["KERAS_BACKEND"] = "jax"  # predict.py, too
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        # Compiling takes most of the time on JAX; what is compiled is the same each time.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(scratch / "compiled"))
        breeds.draw_breeds(scratch / "raw", 4, seed=0)
        breeds.draw_breeds(scratch / "test", 1, seed=1, labelled=False)
        img2keras.sort_photos(scratch / "raw", scratch)
        duration = finish(scratch, scratch / "undisturbed", args)
        expected = outcome(scratch / "undisturbed")
        print(f"undisturbed: {duration:.0f} s", flush=True)
        survived = kills = tries = 0
        while kills < args.kills and tries < 3 * args.kills:
            weights = scratch / "killed"
            target = TARGETS[tries % len(TARGETS)]
            tries += 1
            shutil.rmtree(weights, ignore_errors=True)
            where = ""
            try:
                delay = random.uniform(0, duration)
                where, is_hit = kill_once(scratch, weights, args, target, delay)
                if not is_hit:
                    print(f"{where}: it had ended before, and does not count", flush=True)
                    continue
                finish(scratch, weights, args)
                found = outcome(weights)
                differs = [name for name in expected if found.get(name) != expected[name]]
                verdict = f"differs in {', '.join(differs)}" if differs else "the same"
            except RuntimeError as error:
                verdict = f"did not resume: {error}"
            kills += 1
            survived += verdict == "the same"
            print(f"kill {kills} {where}: {verdict}", flush=True)
    print(f"survived {survived} of {kills}")


if __name__ == "__main__":
    run(main)
