"""What OpenVINO computes of what does not train: the same as Keras, and on request only."""

import concurrent.futures
import csv

import keras
import numpy as np
import pytest
from conftest import FLAGS, SIZE, SMALL_CUT, make_run, run_script

from model import build_model
from pairs.devices.inventory import multiplies_bfloat16
from pairs.evaluation.predictor import Predictor
from pairs.network import frozen, parts, trunks
from pairs.photos.find import find_class_photos, find_photos
from pairs.training.activation_store import store_key

TYPEIDS = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def forgets():
    yield
    frozen.forget_compiled()


def draw(count, *shape):
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_openvino_computes_what_keras_does(trunk):
    below, _ = parts.split_trunk(build_model(trunk, TYPEIDS), None)
    images = draw(5, SIZE, SIZE, 3)
    assert_same(frozen.forward(below, "float32")(images), below.predict_on_batch(images))
    # It would bind threads to cores, which TensorFlow's share: a training at half its speed.
    compiled = frozen.forward(below, "float32").request.get_compiled_model()
    assert not compiled.get_property("ENABLE_CPU_PINNING")


def test_openvino_computes_parts_of_a_model_and_batches_of_any_length(built_small_trunk):
    model = build_model(built_small_trunk, TYPEIDS)
    below, upper = parts.split_trunk(model, SMALL_CUT)
    photo_model = parts.photo_model([model])
    for count in (5, 1, 3):
        images = draw(count, SIZE, SIZE, 3)
        activations = below.predict_on_batch(images)
        assert_same(frozen.forward(below, "float32")(images), activations)
        expected = upper.predict_on_batch(activations)
        assert_same(frozen.forward(upper, "float32")(activations), expected)
        found = frozen.forward(photo_model, "float32")(images)
        expected = photo_model.predict_on_batch(images)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert_same(found[name], array)


def test_threads_may_ask_at_the_same_time(built_small_trunk):
    below, _ = parts.split_trunk(build_model(built_small_trunk, TYPEIDS), None)
    forward = frozen.forward(below, "float32")
    batches = [draw(count, SIZE, SIZE, 3) for count in range(1, 25)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(forward, batches))
    for batch, found in zip(batches, together, strict=True):
        assert_same(found, below.predict_on_batch(batch))


def test_a_model_is_compiled_once_and_freed_with_its_stage(built_small_trunk):
    below, _ = parts.split_trunk(build_model(built_small_trunk, TYPEIDS), None)
    first = frozen.forward(below, "float32")
    assert frozen.forward(below, "float32") is first
    frozen.forget_compiled()
    assert frozen.forward(below, "float32") is not first


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU does not multiply bfloat16")
def test_bfloat16_is_near(trunk):
    below, _ = parts.split_trunk(build_model(trunk, TYPEIDS), None)
    images = draw(4, SIZE, SIZE, 3)
    exact, found = (
        frozen.forward(below, precision)(images) for precision in ("float32", "bfloat16")
    )
    assert 1e-5 < np.abs(found - exact).max() / np.abs(exact).max() < 0.05


def test_nobody_is_told_that_openvino_is_used():
    frozen.import_openvino()
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_a_store_of_openvino_is_another_one(built_small_trunk, data, tmp_path):
    below, _ = parts.split_trunk(build_model(built_small_trunk, TYPEIDS), None)
    photos = find_class_photos(data / "valid")
    keys = {
        store_key(below, photos, make_run(tmp_path, openvino=openvino))
        for openvino in (None, "float32", "bfloat16")
    }
    assert len(keys) == 3


@pytest.mark.slow
def test_a_training_with_openvino_is_the_same_to_rounding(data, trained, tmp_path, monkeypatch):
    asked = []
    compute = frozen.Compiled.__call__
    monkeypatch.setattr(
        frozen.Compiled, "__call__", lambda self, batch: asked.append(batch) or compute(self, batch)
    )
    flags = FLAGS.replace("--epochs 3 1 2", "--epochs 1 0 0")
    words = ("train.py", "--data", data, "--weights", tmp_path, *flags.split())
    done = run_script(*words, "--openvino", "float32")
    assert done.returncode == 0, done.stderr
    assert sum(map(len, asked)) >= len(list((data / "train").rglob("*.jpg")))
    logs = []
    for weights in (trained, tmp_path):
        with (weights / "log.csv").open() as file:
            logs.append(list(csv.DictReader(file)))
    (before, *_), (now,) = logs  # the first epoch
    for name in ("loss", "val_loss"):
        assert float(now[name]) == pytest.approx(float(before[name]), rel=1e-4)
    refused = run_script(*words)
    assert refused.returncode == 2
    assert "--openvino was float32, is now not given" in refused.stderr


@pytest.mark.slow
def test_predictions_of_openvino_are_the_same(data, trained, tmp_path):
    paths = find_photos(data / "valid")
    exact = Predictor(trained, batch_size=4).predict(paths)
    for few in (paths, paths[:1]):  # one photo alone is another path
        found = Predictor(trained, batch_size=4, openvino="float32").predict(few)
        assert_same(found.probabilities, exact.probabilities[: len(few)])
        assert_same(found.features, exact.features[: len(few)])
    table = tmp_path / "p.csv"
    words = ("--weights", trained, "--test", data / "valid", "--out", tmp_path / "p.txt")
    done = run_script("predict.py", *words, "--csv", table, "--openvino", "float32")
    assert done.returncode == 0, done.stderr
    with table.open() as file:
        shown = [float(row["probability_1"]) for row in csv.DictReader(file)]
    assert shown == pytest.approx(exact.probabilities.max(axis=1).tolist(), abs=1e-4)


@pytest.mark.slow
def test_a_model_of_mixed_precision_is_computed_in_float32(data, trained, tmp_path, small_trunk):
    exact = Predictor(trained)
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        trunk = trunks.build_trunk("xception", SIZE, "none")
        mixed = build_model(trunk, exact.typeids)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(exact.models[0].get_weights())
    mixed.save(tmp_path / "model.keras")
    paths = find_photos(data / "valid")
    found = Predictor(tmp_path, openvino="float32").predict(paths)
    assert_same(found.probabilities, exact.predict(paths).probabilities)


def test_openvino_is_refused_where_it_cannot_be(tmp_path, data):
    words = ("train.py", "--data", data, "--weights", tmp_path / "w", "--openvino", "float32")
    done = run_script(*words, "--precision", "mixed_bfloat16")
    assert done.returncode == 2
    assert "cannot be combined" in done.stderr
