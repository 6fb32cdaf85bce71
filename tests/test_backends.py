"""The same code on Keras' other backend: models, pairs, and one training from end to end."""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys

import keras
import pytest
from conftest import ROOT, SIZE, SMALL_CUT, run_script

from model import build_model
from pairs.network.files import load_model

CHECKPOINTS = "tests/test_checkpoint.py"
needs_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed")


def table(weights, photos, out, backend):
    """What predict.py says on a backend: dict from image id to classes and probabilities."""
    flags = ("--weights", weights, "--test", photos, "--out", out / "p.txt", "--csv", out / "p.csv")
    other = {} if backend == keras.backend.backend() else {"KERAS_BACKEND": backend}
    done = run_script("predict.py", *flags, **other)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith(backend) or f"\n{backend} " in done.stderr
    with (out / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:
        names = [row[f"typeid_{rank}"] for rank in (1, 2, 3)]
        shares = [float(row[f"probability_{rank}"]) for rank in (1, 2, 3)]
        found[row["image_id"]] = dict(zip(names, shares, strict=True))
    return found


@pytest.mark.slow
@needs_jax
def test_a_model_trained_on_jax_predicts_the_same_on_tensorflow(data, tmp_path):
    flags = f"--image-size {SIZE} --batch-size 6 --epochs 0 0 1 --pretrained none --workers 2"
    words = ("--data", data, "--weights", tmp_path, *flags.split())
    done = run_script("train.py", *words, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    assert "jax" in done.stderr
    stages = [result["stage"] for result in json.loads((tmp_path / "results.json").read_text())]
    assert stages == ["plain"]
    # Nothing but kernels behind the cut has moved.
    begun, ended = (
        load_model(tmp_path / name).get_layer("trunk").layers
        for name in ("start.keras", "model.keras")
    )
    for place, (old, new) in enumerate(zip(begun, ended, strict=True)):
        for before, after in zip(old.weights, new.weights, strict=True):
            trains = place > SMALL_CUT and "kernel" in before.name
            assert bool((before.numpy() != after.numpy()).any()) == trains, before.path
    on_jax, on_tensorflow = (
        table(tmp_path, data / "valid", tmp_path, backend) for backend in ("jax", "tensorflow")
    )
    assert on_jax.keys() == on_tensorflow.keys()
    for image_id, shares in on_jax.items():
        assert shares == pytest.approx(on_tensorflow[image_id], abs=1e-4)


@pytest.mark.slow
@needs_jax
def test_the_real_xception_predicts_the_same_on_both(trunk, data, tmp_path):
    build_model(trunk, ["2", "10", "pug"]).save(tmp_path / "model.keras")
    on_jax, on_tensorflow = (
        table(tmp_path, data / "valid", tmp_path, backend) for backend in ("jax", "tensorflow")
    )
    for image_id, shares in on_tensorflow.items():
        assert on_jax[image_id] == pytest.approx(shares, abs=1e-4)


@pytest.mark.slow
@needs_jax
def test_a_model_trained_on_tensorflow_predicts_the_same_on_jax(trained, data, tmp_path):
    on_jax, on_tensorflow = (
        table(trained, data / "valid", tmp_path, backend) for backend in ("jax", "tensorflow")
    )
    for image_id, shares in on_tensorflow.items():
        assert on_jax[image_id] == pytest.approx(shares, abs=1e-4)


@pytest.mark.slow
@needs_jax
def test_checkpoints_keep_their_promises_on_jax():
    some = "cut_once or best_model or workers"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", some, CHECKPOINTS],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 3


@needs_jax
def test_photos_are_read_and_augmented_without_loading_tensorflow(data):
    code = (
        "import hashlib, sys, pair_generator\nfrom pairs.photos.find import find_class_photos\n"
        f"photos = find_class_photos({str(data / 'train')!r})\n"
        "batch = pair_generator.PairBatches(photos, 71, 6, 0, 'affine')[0]\n"
        "arrays = [*batch[0].values(), *batch[1].values()]\n"
        "digest = hashlib.sha256(b''.join(array.tobytes() for array in arrays)).hexdigest()\n"
        "print(digest, 'tensorflow' in sys.modules)"
    )
    batches = []
    for backend in ("jax", "tensorflow"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
            check=True,
        )
        batches.append(done.stdout.split())
    assert batches[0][0] == batches[1][0]
    assert batches[0][1] == "False"
