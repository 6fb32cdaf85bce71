"""How fast are the nearest photos found, and in how much memory?

    ours    `pairs.evaluation.search.find_nearest`, block by block
    naive   one matrix product and a full sort of every row

Features are random, of length 1. In each round, each contender is a process of its
own, so its memory is its own, and they take turns, so a noisy machine hits all
alike. Times are medians, memory is the peak beyond the features.

Run it:  python -m benchmarks.search_speed --gallery 100000 --queries 200
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

from pairs.command_line import positive_int, run
from pairs.evaluation.search import find_nearest

NUM_FEATURES, COUNT = 2048, 10
# Rows made at once: 8 MB, so that making them is no part of the peak.
ROWS = 1000


def search_naively(gallery, queries, count):
    """What `find_nearest` does, in two lines."""
    similarities = queries @ gallery.T
    indices = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    return indices, np.take_along_axis(similarities, indices, axis=1)


CONTENDERS = {"ours": find_nearest, "naive": search_naively}


def make_features(num_photos, rng):
    """Random rows of length 1: float32 array, shape `(num_photos, NUM_FEATURES)`."""
    features = np.empty((num_photos, NUM_FEATURES), np.float32)
    for start in range(0, num_photos, ROWS):
        block = features[start : start + ROWS]
        rng.standard_normal(dtype=np.float32, out=block)
        block /= np.sqrt(np.einsum("ij,ij->i", block, block))[:, None]
    return features


def peak_memory():
    """The most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(contender, num_photos, num_queries):
    """Searches once: seconds of wall and of the processor, bytes, and what was found."""
    rng = np.random.default_rng(0)
    gallery, queries = make_features(num_photos, rng), make_features(num_queries, rng)
    before = peak_memory()
    start, busy = time.perf_counter(), time.process_time()
    indices, _ = CONTENDERS[contender](gallery, queries, COUNT)
    return {
        "wall": time.perf_counter() - start,
        "busy": time.process_time() - busy,
        "bytes": peak_memory() - before,
        "found": indices.tolist(),
    }


def measure_apart(contender, args):
    """`measure` in a process of its own."""
    flags = ["--gallery", str(args.gallery), "--queries", str(args.queries)]
    command = [sys.executable, "-m", "benchmarks.search_speed", *flags, "--contender", contender]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Time the search for the nearest photos.")
    add = parser.add_argument
    add("--gallery", type=positive_int, default=100_000, help="photos (default: %(default)s)")
    add("--queries", type=positive_int, default=200, help="default: %(default)s")
    add("--rounds", type=positive_int, default=3, help="of both (default: %(default)s)")
    add("--contender", choices=CONTENDERS, help="measure only this one, here; prints JSON")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    if args.contender:
        print(json.dumps(measure(args.contender, args.gallery, args.queries)))
        return
    rounds = [{name: measure_apart(name, args) for name in CONTENDERS} for _ in range(args.rounds)]
    print(f"{args.queries} queries, {args.gallery} photos, medians of {args.rounds} rounds")
    for name in CONTENDERS:
        wall, busy, memory = (
            statistics.median(found[name][key] for found in rounds)
            for key in ("wall", "busy", "bytes")
        )
        print(f"{name:>6}: {wall:.2f} s ({busy:.2f} s of the processor), {memory / 1e6:.0f} MB")
    ours, naive = (np.array(rounds[0][name]["found"]) for name in CONTENDERS)
    print(f"{(ours == naive).mean():.2%} of the photos found are the same, and in the same place")


if __name__ == "__main__":
    run(main)
