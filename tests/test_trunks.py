"""Every row of `TRUNKS` against Keras' own network; and from photos to predictions."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import REAL_TRUNK, ROOT, assert_one_line_error, run_script, write_legacy_weights

from model import build_model
from pairs.network import parts
from pairs.network.files import load_model, save_model
from pairs.network.trunks import TRUNKS, build_trunk, estimate_statistics
from pairs.training.optimizer import compile_model

# Keras' module of each network: it knows how photos become its input.
MODULES = {
    "xception": keras.applications.xception,
    "inceptionv3": keras.applications.inception_v3,
    "resnet50v2": keras.applications.resnet_v2,
    "efficientnetv2s": keras.applications.efficientnet_v2,
    "efficientnetv2m": keras.applications.efficientnet_v2,
    "convnexttiny": keras.applications.convnext,
    "convnextbase": keras.applications.convnext,
}
# Whose weights file Keras names by putting parts together, of the small ones.
BY_PARTS = ("resnet50v2", "convnexttiny")
ALL = bool(os.environ.get("ALL_TRUNKS"))
all_only = pytest.mark.skipif(not ALL, reason="minutes for each trunk: only with ALL_TRUNKS=1")
KERNELS = {"kernel", "bias", "depthwise_kernel", "pointwise_kernel"}


def with_rows(*always):
    """Decorates a test of each `row`: of these always, of the others with ALL_TRUNKS=1."""
    marks = {
        name: [pytest.mark.slow] if name in always else [pytest.mark.slow, all_only]
        for name in TRUNKS
    }
    rows = [pytest.param(name, marks=marks[name]) for name in TRUNKS]
    return pytest.mark.parametrize("row", rows, indirect=True)


@pytest.fixture(scope="module")
def row(request, tmp_path_factory):
    """`(name, trunk, images, features)`: a trunk from a weights file brought by the user.

    The features of the images are those of Keras' own network, whose weights are in the
    file. None of them is what a layer starts with.
    """
    name = request.param
    keras.utils.set_random_seed(0)
    size = TRUNKS[name].min_image_size
    own = getattr(keras.applications, TRUNKS[name].builder)(
        weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3)
    )
    rng = np.random.default_rng(0)
    for weight in own.weights:
        if weight.name not in KERNELS:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    images = rng.integers(0, 256, (6, size, size, 3)).astype(np.uint8)
    prepared = MODULES[name].preprocess_input(images.astype(np.float32))
    estimate_statistics(own, [prepared])
    folder = tmp_path_factory.mktemp(name)
    write_legacy_weights(own, folder / TRUNKS[name].weights_file)
    features = own(prepared, training=False).numpy()
    return name, build_trunk(name, size, "imagenet", folder), images, features


def test_no_trunk_is_left_out_of_these_tests():
    assert MODULES.keys() == TRUNKS.keys()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in BY_PARTS else all_only) for name in TRUNKS],
)
def test_a_file_brought_has_the_name_that_keras_gives_it(name, monkeypatch):
    class Asked(Exception):
        """The name of the file that Keras would download."""

    def ask(fname, *_, **__):
        raise Asked(fname)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", ask)
    size = TRUNKS[name].min_image_size
    with pytest.raises(Asked, match=f"^{re.escape(TRUNKS[name].weights_file)}$"):
        getattr(keras.applications, TRUNKS[name].builder)(
            weights="imagenet", include_top=False, input_shape=(size, size, 3)
        )


@with_rows("xception", "inceptionv3", "resnet50v2", "efficientnetv2s", "convnexttiny")
def test_a_photo_has_the_feature_that_keras_own_network_and_preprocessing_give_it(row):
    _, trunk, images, expected = row
    below, _ = parts.split(build_model(trunk, ["a", "b"]), None)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(below(images), expected, rtol=1e-3, atol=1e-3)


@with_rows("convnexttiny")
def test_cut_at_its_names_it_is_the_same_network_and_a_step_moves_the_kernels_above(row):
    name, trunk, images, expected = row
    model = build_model(trunk, ["a", "b"])
    labels = np.array([0, 0, 0, 1, 1, 1], np.int32)
    partner = np.array([1, 2, 3, 4, 5, 0], np.int32)
    cut = TRUNKS[name].cut(trunk)
    assert 0.12 < 1 - cut / len(trunk.operations) < 0.25
    below, upper = parts.split_trunk(model, cut)
    activation = below(images)
    np.testing.assert_allclose(upper(activation), expected, rtol=1e-3, atol=1e-3)
    parts.unfreeze(model, cut)
    _, above = parts.split(model, cut)
    compile_model(above, keras.optimizers.SGD(1e-3))
    above.run_eagerly = True
    wanted = {weight.path for weight in upper.weights if weight.name in KERNELS}
    before = {weight.path: weight.numpy() for weight in trunk.weights}
    targets = {"ctg_out_1": labels, "ctg_out_2": labels[partner]}
    targets["bin_out"] = (labels == labels[partner]).astype(int)
    above.train_on_batch({"activation": np.asarray(activation), "partner": partner}, targets)
    moved = {
        weight.path for weight in trunk.weights if (weight.numpy() != before[weight.path]).any()
    }
    assert moved == wanted
    for weight in trunk.weights:
        weight.assign(before[weight.path])


@with_rows("convnexttiny")
def test_a_model_file_of_it_loads_in_safe_mode_and_shows_where_a_class_is_seen(row, tmp_path):
    _, trunk, images, _ = row
    model = build_model(trunk, ["a", "b", "c"], paired=False)
    save_model(model, tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    expected = model([images], training=False)["ctg_out_1"]
    found = parts.photo_model([loaded])(images)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)
    # What all places together say of the classes is what the model says, but for biases.
    maps = np.asarray(parts.class_map_model(loaded)(images))
    logits = maps.mean(axis=(1, 2))
    last = trunk.layers[-1]
    if last.weights:  # ConvNeXt's normalisation behind the pool
        logits += last.beta.numpy() @ model.get_layer("ctg_out_1").kernel.numpy()
    wanted = np.log(np.asarray(expected, np.float64))
    logits -= logits.mean(axis=1, keepdims=True)
    wanted -= wanted.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


@all_only
@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNKS)
def test_it_trains_resumes_and_predicts(name, data, tmp_path):
    # At the smallest size the loss of some networks of random weights is no number.
    flags = f"--trunk {name} --image-size 128 --batch-size 6 --pretrained none --epochs 1 0 1"
    words = ["train.py", "--data", data, "--weights", tmp_path / "weights", *flags.split()]
    command = [sys.executable, ROOT / words[0], *map(str, words[1:])]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, **REAL_TRUNK}, text=True
    ) as killed:
        for line in killed.stdout:
            if line.startswith("stage plain:"):
                killed.kill()
    done = run_script(*words, **REAL_TRUNK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stage heads: done already" in done.stdout
    judged = run_script(
        *("predict.py", "--weights", tmp_path / "weights", "--evaluate", data / "valid"),
        *("--report", tmp_path / "report"),
        **REAL_TRUNK,
    )
    assert judged.returncode == 0, judged.stderr
    assert (tmp_path / "report" / "index.html").is_file()


def test_a_trunk_that_is_not_in_the_table_or_too_small_a_photo_is_one_line(data, tmp_path):
    flags = ["train.py", "--data", data, "--weights", tmp_path, "--trunk"]
    assert_one_line_error(run_script(*flags, "vgg16"), "vgg16", "convnexttiny", "resnet50v2")
    small = run_script(*flags, "convnexttiny", "--image-size", 31)
    assert_one_line_error(small, "31", "32")
