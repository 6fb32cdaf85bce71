import contextlib
import json
import os
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import (
    REAL_TRUNK,
    SIZE,
    SMALL_CUT,
    assert_one_line_error,
    run_script,
)

from model import build_model
from pairs.errors import UserError
from pairs.network import parts
from pairs.network.files import draw_model, load_model
from pairs.network.parts import resized, unfreeze
from pairs.network.trunks import TRUNKS, build_trunk, estimate_statistics
from pairs.training.optimizer import compile_model

TYPEIDS = ["2", "10", "pug"]
PARTNER = np.array([1, 0, 3, 4, 2, 5 - 5 + 6, 5], np.int32)


@pytest.fixture(scope="module")
def pair_model(trunk):
    keras.utils.set_random_seed(1)
    return build_model(trunk, TYPEIDS)


@pytest.fixture(scope="module")
def small_model(built_small_trunk):
    keras.utils.set_random_seed(1)
    return build_model(built_small_trunk, TYPEIDS)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, size=(7, SIZE, SIZE, 3)).astype(np.uint8)
    first = np.array([0, 0, 1, 1, 1, 2, 0], np.int32)
    second = first[PARTNER]
    labels = {"ctg_out_1": first, "ctg_out_2": second, "bin_out": (first == second).astype(int)}
    return images, labels


@pytest.fixture
def exact_model():
    """In float64: in float32, rounding pushes a unit over its ReLU's edge on some
    CPUs, and every gradient below it changes."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float64")
    try:
        trunk = build_trunk("xception", SIZE, "none")
        rng = np.random.default_rng(0)
        estimate_statistics(trunk, [rng.uniform(-1, 1, size=(8, SIZE, SIZE, 3))])
        yield build_model(trunk, TYPEIDS)
    finally:
        keras.config.set_dtype_policy("float32")


def cut_of(model, cut):
    return parts.connect(*parts.split(model, cut))


def test_layer_105_of_xception_closes_block_11_and_blocks_12_to_14_follow(trunk):
    assert TRUNKS["xception"].cut(trunk) == 105
    layers = keras.applications.Xception(weights=None, include_top=False, pooling="avg").layers
    assert isinstance(layers[105], keras.layers.Add)
    assert layers[104].name == "block11_sepconv3_bn"
    named = [layer.name for layer in layers[106:] if layer.name.startswith("block")]
    assert {name.split("_")[0] for name in named} == {"block12", "block13", "block14"}
    later = ("block12", "block13", "block14")
    # Nothing of these blocks comes earlier, and the cut passes everything on.
    assert not any(layer.name.startswith(later) for layer in layers[:105])
    assert layers[105].output.shape[1:] == (None, None, 728)


def test_layer_249_of_inceptionv3_opens_the_top_two_blocks():
    layers = keras.applications.InceptionV3(weights=None, include_top=False, pooling="avg").layers
    assert layers[248].name == "mixed8"
    mixed = [layer.name for layer in layers[249:] if layer.name.startswith("mixed")]
    assert mixed == ["mixed9_0", "mixed9", "mixed9_1", "mixed10"]
    trunk = build_trunk("inceptionv3", 75, "none")
    assert TRUNKS["inceptionv3"].cut(trunk) == 248


def test_names_and_shapes_are_the_seeds(pair_model):
    assert [tensor.name for tensor in pair_model.inputs] == ["img_1", "img_2"]
    shapes = {name: tensor.shape for name, tensor in pair_model.output.items()}
    assert shapes == {"ctg_out_1": (None, 3), "ctg_out_2": (None, 3), "bin_out": (None, 2)}
    for name in ("square", "ctg_out_1", "ctg_out_2", "bin_out"):
        assert pair_model.get_layer(name)
    assert pair_model.get_layer("trunk").output_shape == (None, 2048)


@pytest.mark.parametrize("cut", [None, 105])
def test_one_pass_gives_the_outputs_losses_and_gradients_of_two(exact_model, batch, cut):
    """The plain way: both images through the two-image model."""
    import tensorflow as tf

    images, labels = batch
    unfreeze(exact_model, cut)
    whole = cut_of(exact_model, cut)
    inputs = {"img_1": images, "partner": PARTNER}
    weights = {"ctg_out_1": 1.0, "ctg_out_2": 1.0, "bin_out": 0.5}

    def run(model, inputs):
        with tf.GradientTape() as tape:
            outputs = model(inputs)
            loss = sum(
                weights[head]
                * tf.reduce_mean(-tf.math.log(tf.gather(outputs[head], labels[head], batch_dims=1)))
                for head in weights
            )
        trained = [weight.value for weight in exact_model.trainable_weights]
        return outputs, float(loss), tape.gradient(loss, trained)

    outputs_1, loss_1, gradients_1 = run(whole, inputs)
    outputs_2, loss_2, gradients_2 = run(exact_model, [images, images[PARTNER]])
    for head in weights:
        np.testing.assert_allclose(outputs_1[head], outputs_2[head], atol=1e-9)
    assert loss_1 == pytest.approx(loss_2, rel=1e-8)
    assert len(gradients_1) == len(exact_model.trainable_weights) == (6 if cut is None else 21)
    for one, two in zip(gradients_1, gradients_2, strict=True):
        scale = np.abs(two).max()
        assert scale > 0
        np.testing.assert_allclose(one, two, atol=1e-7 * scale)
    # What Keras itself computes from the same labels, heads not mixed up.
    compile_model(whole, keras.optimizers.SGD(0.0))
    whole.run_eagerly = True  # one batch: tracing it would take longer
    measured = whole.evaluate(inputs, labels, verbose=0, return_dict=True)
    assert measured["loss"] == pytest.approx(loss_2, rel=1e-4)
    for head in weights:
        right = (np.asarray(outputs_2[head]).argmax(axis=1) == labels[head]).mean()
        assert measured[f"{head}_accuracy"] == pytest.approx(right)


def test_a_step_moves_the_unfrozen_convolutions_and_nothing_else(pair_model, batch):
    images, labels = batch
    unfreeze(pair_model, 105)
    whole = cut_of(pair_model, 105)
    compile_model(whole, keras.optimizers.SGD(0.1))
    whole.run_eagerly = True  # one step: tracing it would take longer
    trunk_layers = pair_model.get_layer("trunk").layers
    before = [[weight.numpy() for weight in layer.weights] for layer in trunk_layers]
    whole.train_on_batch({"img_1": images, "partner": PARTNER}, labels)
    moved = {
        layer.name
        for layer, weights in zip(trunk_layers, before, strict=True)
        if any((old != new.numpy()).any() for old, new in zip(weights, layer.weights, strict=True))
    }
    # Six separable ones, and the 1x1 of block 13's shortcut, which Keras names itself.
    shortcut = {layer.name for layer in trunk_layers[106:] if layer.name.startswith("conv2d")}
    assert len(shortcut) == 1
    assert moved == shortcut | {
        *("block12_sepconv1", "block12_sepconv2", "block12_sepconv3"),
        *("block13_sepconv1", "block13_sepconv2", "block14_sepconv1", "block14_sepconv2"),
    }


def test_dropout_is_on_in_training_and_off_in_prediction(small_model, batch):
    images, _ = batch
    inputs = {"img_1": images, "partner": PARTNER}
    for cut in (None, SMALL_CUT):
        whole = cut_of(small_model, cut)
        calm = [whole(inputs, training=False) for _ in range(2)]
        noisy = [whole(inputs, training=True) for _ in range(2)]
        for head in ("ctg_out_1", "ctg_out_2"):
            first, again, drawn, anew = (np.asarray(each[head]) for each in (*calm, *noisy))
            assert (first == again).all()
            assert (drawn != anew).any()
            assert (drawn != first).any()


def test_a_resized_model_is_the_same_network_for_other_photos(small_model, small_trunk):
    larger = resized(small_model, build_trunk("xception", 96, "none"))
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    feature = parts.photo_model([larger]).predict(images, verbose=0)["feature"]
    # By hand: the small model's own layers, one after the other, on larger images.
    trunk = small_model.get_layer("trunk")
    anew = keras.models.clone_model(trunk, input_tensors=keras.Input((None, None, 3)))
    anew.set_weights(trunk.get_weights())
    expected = anew.predict(images / np.float32(127.5) - 1, verbose=0)
    np.testing.assert_allclose(feature, expected, rtol=1e-4, atol=1e-6)
    assert larger.get_layer("ctg_out_2").typeids == small_model.get_layer("ctg_out_2").typeids
    for one, two in zip(larger.get_weights(), small_model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_saved_model_knows_everything_and_loads_in_safe_mode(small_model, batch, tmp_path):
    images, _ = batch
    small_model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert loaded.get_layer("ctg_out_1").typeids == TYPEIDS
    expected = small_model.predict([images, images[PARTNER]], verbose=0)
    got = loaded.predict([images, images[PARTNER]], verbose=0)
    for head in expected:
        np.testing.assert_array_equal(got[head], expected[head])
    mean = (
        expected["ctg_out_1"] + small_model.predict([images, images], verbose=0)["ctg_out_2"]
    ) / 2
    photo = parts.photo_model([loaded]).predict(images, verbose=0)["probabilities"]
    np.testing.assert_allclose(photo, mean, atol=1e-6)


def test_a_softmax_model_has_one_image_and_one_head(built_small_trunk, batch, tmp_path):
    images, labels = batch
    model = build_model(built_small_trunk, TYPEIDS, paired=False)
    assert list(model.output) == ["ctg_out_1"]
    unfreeze(model, None)
    whole = cut_of(model, None)
    compile_model(whole, keras.optimizers.SGD(0.1))
    whole.train_on_batch({"img_1": images}, {"ctg_out_1": labels["ctg_out_1"]})
    model.save(tmp_path / "model.keras")
    loaded = parts.photo_model([load_model(tmp_path / "model.keras")])
    expected = model.predict(images, verbose=0)["ctg_out_1"]
    found = loaded.predict(images, verbose=0)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_statistics_are_the_mean_over_the_batches_and_keep_features_alive():
    keras.utils.set_random_seed(0)
    trunk = build_trunk("xception", SIZE, "none")
    rng = np.random.default_rng(0)
    batches = [rng.uniform(-1, 1, size=(4, SIZE, SIZE, 3)).astype(np.float32) for _ in range(3)]
    untouched = trunk.predict(batches[0], verbose=0)
    estimate_statistics(trunk, batches)
    first = trunk.get_layer("block1_conv1_bn")
    convolved = keras.Model(trunk.input, trunk.get_layer("block1_conv1").output)
    values = [convolved.predict(images, verbose=0) for images in batches]
    mean = np.mean([value.mean(axis=(0, 1, 2)) for value in values], axis=0)
    variance = np.mean([value.var(axis=(0, 1, 2)) for value in values], axis=0)
    np.testing.assert_allclose(first.moving_mean, mean, atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, variance, rtol=1e-3)
    assert first.momentum == 0.99
    assert np.abs(untouched).mean() < 1e-3
    assert 0.01 < np.abs(trunk.predict(batches[0], verbose=0)).mean() < 1


def test_imagenet_weights_that_cannot_be_had_are_one_line(data, tmp_path):
    nowhere = "http://127.0.0.1:9"
    done = run_script(
        *("train.py", "--data", data, "--weights", tmp_path, "--image-size", SIZE),
        **REAL_TRUNK,
        https_proxy=nowhere,
        HTTPS_PROXY=nowhere,
        KERAS_HOME=str(tmp_path / "empty"),
    )
    file = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert_one_line_error(done, f"Put {file} into {tmp_path}", "--pretrained")


def test_brought_weights_are_found_under_keras_own_name(trunk, tmp_path):
    name = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"
    trunk.save(tmp_path / "legacy.h5")
    (tmp_path / "legacy.h5").rename(tmp_path / name)
    for folder in (tmp_path, tmp_path / "second"):  # or beside the folder of a second training
        assert_equal(build_trunk("xception", SIZE, "imagenet", folder), trunk)


def assert_equal(trunk, other):
    for one, two in zip(trunk.weights, other.weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_weights_file_is_read_whatever_keras_wrote_it_and_its_name(trunk, tmp_path):
    """Keras itself goes by the name alone, and calls the other kind another network."""
    trunk.save_weights(tmp_path / "new.weights.h5")
    (tmp_path / "new.weights.h5").rename(tmp_path / "new.h5")
    trunk.save(tmp_path / "legacy.h5")
    (tmp_path / "legacy.h5").rename(tmp_path / "legacy.weights.h5")
    for name in ("new.h5", "legacy.weights.h5"):
        assert_equal(build_trunk("xception", SIZE, str(tmp_path / name), tmp_path), trunk)


def test_a_weights_file_that_lacks_a_layer_is_refused(trunk, tmp_path):
    """Keras would go on with random numbers there, and only warn."""
    import h5py

    file = tmp_path / "partial.weights.h5"
    trunk.save_weights(file)
    with h5py.File(file, "a") as content:
        del content["layers"]["separable_conv2d_30"]
    with pytest.raises(UserError, match=r"no numbers for \d+ weights|not the weights"):
        build_trunk("xception", SIZE, str(file), tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    small = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    small.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(UserError, match="not the weights of xception"):
        build_trunk("xception", SIZE, str(tmp_path / "other.weights.h5"), tmp_path)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("OOM when allocating tensor")])
def test_a_full_memory_is_no_damaged_model(error, tmp_path, monkeypatch):
    def full(*_, **__):
        raise error

    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    monkeypatch.setattr(keras.saving, "load_model", full)
    with pytest.raises(UserError, match="out of memory while a model was made or loaded"):
        load_model(tmp_path / "model.keras")
    trunk = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    monkeypatch.setattr(type(trunk), "call", full)
    with pytest.raises(UserError, match="out of memory while a model was made or loaded"):
        estimate_statistics(trunk, [np.zeros((1, 2), np.float32)])


def test_a_lambda_in_a_model_file_is_refused(tmp_path):
    image = keras.Input((4,))
    trace = str(tmp_path / "ran")
    code = keras.layers.Lambda(lambda x: (__import__("os").makedirs(trace, exist_ok=True), x)[1])
    keras.Model(image, code(image)).save(tmp_path / "lambda.keras")
    os.rmdir(trace)
    with pytest.raises(UserError, match="not a model of this project"):
        load_model(tmp_path / "lambda.keras")
    assert not os.path.exists(trace)


def rewrite(source, target, change_config=None, members=()):
    """Copies a model file with another config, or with more members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json" and change_config:
                content = json.dumps(change_config(json.loads(content))).encode()
            new.writestr(name, content)
        for name, content in members:
            new.writestr(name, content)


def put_in(config, part):
    """Replaces the `square` layer of a model's config."""
    for layer in config["config"]["layers"]:
        if layer["name"] == "square":
            layer.update(part)
    return config


@pytest.mark.parametrize(
    "part",
    [
        {"module": "os", "class_name": "system", "registered_name": None},
        {"module": "builtins", "class_name": "eval", "registered_name": None},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": "touch {}"}},
        {
            "module": "keras.layers",
            "class_name": "Lambda",
            "registered_name": None,
            "config": {
                "name": "square",
                "function": {
                    "class_name": "function",
                    "module": "os",
                    "config": "system",
                    "registered_name": "function",
                },
                "arguments": {"command": "touch {}"},
            },
        },
    ],
)
def test_a_config_that_names_a_program_is_refused_and_nothing_runs(small_model, tmp_path, part):
    trace = tmp_path / "it_ran"
    part = json.loads(json.dumps(part).replace("touch {}", f"touch {trace}"))
    small_model.save(tmp_path / "good.keras")
    rewrite(tmp_path / "good.keras", tmp_path / "bad.keras", lambda config: put_in(config, part))
    with pytest.raises(UserError, match="not a model of this project"):
        load_model(tmp_path / "bad.keras")
    assert not trace.exists()


def test_members_that_lead_out_of_a_model_file_are_never_written(small_model, tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    small_model.save(folder / "good.keras")
    members = [("../evil.txt", "x"), ("../../evil.txt", "x"), (f"{tmp_path}/evil.txt", "x")]
    rewrite(folder / "good.keras", folder / "bad.keras", members=members)
    with contextlib.suppress(UserError):  # refusing is as good as ignoring
        load_model(folder / "bad.keras")
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_truncated_model_file_is_one_line(small_model, tmp_path):
    small_model.save(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 50):
        (tmp_path / "model.keras").write_bytes(whole[:length])
        with pytest.raises(UserError, match="not a model of this project") as refused:
            load_model(tmp_path / "model.keras")
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_a_model_file_without_one_of_its_kernels_is_refused(small_model, tmp_path):
    """Loading draws no random weights, so nothing may be left that the file lacks."""
    small_model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as packed:
        config = packed.read("config.json")
        (tmp_path / "weights.h5").write_bytes(packed.read("model.weights.h5"))
    with h5py.File(tmp_path / "weights.h5", "a") as file:
        kernels: list[str] = []
        file.visit(lambda name: kernels.append(name) if name.endswith("vars/0") else None)
        del file[kernels[0]]
    with zipfile.ZipFile(tmp_path / "lacks.keras", "w") as packed:
        packed.writestr("config.json", config)
        packed.write(tmp_path / "weights.h5", "model.weights.h5")
    with pytest.raises(UserError, match="not a model of this project"):
        load_model(tmp_path / "lacks.keras")


def test_a_clone_of_a_loaded_model_starts_with_random_weights(small_model, tmp_path):
    small_model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras").get_layer("trunk")
    clone = keras.models.clone_model(loaded)
    kernels = [weight for weight in clone.weights if weight.path.endswith("kernel")]
    assert kernels
    assert all(np.std(kernel) > 0 for kernel in kernels)


def test_a_keras_model_of_someone_else_is_refused(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="not a model of this project"):
        load_model(tmp_path / "other.keras")


def test_a_model_file_knows_how_many_photos_each_class_had(built_small_trunk, tmp_path):
    from pairs.evaluation.predictor import Predictor

    build_model(built_small_trunk, ["a", "b", "c"], [3, 5, 4]).save(tmp_path / "model.keras")
    predictor = Predictor(tmp_path)
    assert predictor.models[0].get_layer("ctg_out_1").num_photos == [3, 5, 4]
    assert predictor.most_frequent == 1


def test_our_model_file_holds_no_code(small_model, tmp_path):
    small_model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        text = json.dumps(json.loads(file.read("config.json")))
    assert "Lambda" not in text
    assert "pairs>SquaredDifference" in text


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"<html>not found</html>"])
def test_a_file_that_is_no_model_is_one_line(tmp_path, content):
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(UserError, match="not a model of this project"):
        load_model(tmp_path / "model.keras")


def test_a_missing_graphviz_is_a_warning(small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no picture of the model" in draw_model(small_model, tmp_path / "model.png")
    broken = tmp_path / "dot"  # as of a Graphviz whose plugins are not registered
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "no picture of the model" in draw_model(small_model, tmp_path / "model.png")


def test_the_real_inceptionv3_weights_tell_real_dogs_apart(shared):
    """The nearest other photo by the trunk's feature is mostly of the same breed."""
    from pairs.photos.read import read_photo

    file = shared / "weights" / "inception_v3_imagenet_notop.weights.h5"
    trunk = build_trunk("inceptionv3", 139, str(file))
    paths = [
        path
        for typeid in ("0", "10", "11", "33", "64")
        for path in sorted((shared / "dogs24" / "raw").glob(f"{typeid}_*"))[:8]
    ]
    breeds = np.array([path.name.split("_")[0] for path in paths])
    images = np.stack([read_photo(path, 139) for path in paths]) / np.float32(127.5) - 1
    features = trunk.predict(images, verbose=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    likeness = features @ features.T - 2 * np.eye(len(paths))
    assert (breeds[likeness.argmax(axis=1)] == breeds).mean() > 0.6  # chance: 0.18


def test_a_bomb_is_refused_before_it_is_unpacked(small_model, tmp_path):
    """1.5 MB that would take gigabytes."""
    small_model.save(tmp_path / "good.keras")
    with (
        zipfile.ZipFile(tmp_path / "good.keras") as good,
        zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in ("config.json", "metadata.json"):
            bomb.writestr(name, good.read(name))
        with bomb.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"would unpack to 3\d\d\d\d\d\d\d\d"):
        load_model(tmp_path / "bomb.keras")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


@pytest.mark.parametrize("typeid", ["a\n7\tforged", "\x1b[2J", "a/../b", "", 7])
def test_typeids_that_would_forge_lines_are_refused_with_the_model(small_model, tmp_path, typeid):
    def change(config):
        for layer in config["config"]["layers"]:
            if layer["name"] == "ctg_out_1":
                layer["config"]["typeids"][1] = typeid
        return config

    small_model.save(tmp_path / "good.keras")
    rewrite(tmp_path / "good.keras", tmp_path / "bad.keras", change)
    with pytest.raises(UserError, match="its typeid") as refused:
        load_model(tmp_path / "bad.keras")
    assert str(refused.value).isprintable()


def test_a_model_file_says_how_photos_become_squares(small_trunk, tmp_path):
    trunk = build_trunk("xception", SIZE, "none")
    build_model(trunk, TYPEIDS, fit="pad").save(tmp_path / "new.keras")
    heads = [load_model(tmp_path / "new.keras").get_layer(f"ctg_out_{n}") for n in (1, 2)]
    assert [head.fit for head in heads] == ["pad", "pad"]

    def change(config, **fits):
        for layer in config["config"]["layers"]:
            if layer["name"].startswith("ctg_out"):
                del layer["config"]["fit"]
                layer["config"].update(fits)
        return config

    rewrite(tmp_path / "new.keras", tmp_path / "old.keras", change)  # as files were before
    assert load_model(tmp_path / "old.keras").get_layer("ctg_out_1").fit == "squash"
    for fit in ("zoom", ["pad"]):
        rewrite(tmp_path / "new.keras", tmp_path / "bad.keras", lambda c, f=fit: change(c, fit=f))
        with pytest.raises(UserError, match=r"its fit .* is none of squash, crop, pad"):
            load_model(tmp_path / "bad.keras")


def test_a_feature_and_all_after_it_are_float32_in_mixed_precision(trunk, batch):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model(build_trunk("xception", SIZE, "none"), ["a", "b"])
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("trunk").compute_dtype == "bfloat16"
    for layer in model.layers[model.layers.index(model.get_layer("trunk")) + 1 :]:
        assert layer.compute_dtype == "float32", layer.name
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    found = parts.photo_model([model]).predict_on_batch(images)
    first, second = found["feature"]
    assert first.dtype == np.float32
    distance = ((first - second) ** 2).sum()
    exact = ((first.astype(np.float64) - second.astype(np.float64)) ** 2).sum()
    assert distance == pytest.approx(exact, rel=1e-5)


def test_several_models_are_one_whether_or_not_their_trunks_begin_alike(
    built_small_trunk, small_trunk, batch
):
    """Two heads on one trunk, of which one has trained its blocks; then another trunk."""
    keras.utils.set_random_seed(1)
    images, _ = batch
    first = build_model(built_small_trunk, ["a", "b", "c"])
    second = build_model(build_trunk("xception", SIZE, "none"), ["a", "b", "c"])
    second.get_layer("trunk").set_weights(built_small_trunk.get_weights())
    kernel = second.get_layer("trunk").layers[SMALL_CUT + 1].pointwise_kernel
    kernel.assign(1.1 * kernel)
    alone = [parts.photo_model([model]).predict_on_batch(images) for model in (first, second)]
    for cut in (parts.shared_cut([first, second], SMALL_CUT), None):
        found = parts.photo_model([first, second], cut=cut).predict_on_batch(images)
        mean = np.mean([each["probabilities"] for each in alone], axis=0)
        np.testing.assert_allclose(found["probabilities"], mean, atol=1e-5)
        features = np.concatenate([each["feature"] for each in alone], axis=1)
        np.testing.assert_allclose(found["feature"], features, rtol=1e-4, atol=1e-5)
    assert parts.shared_cut([first, second], SMALL_CUT) == SMALL_CUT
    kernel = second.get_layer("trunk").layers[SMALL_CUT - 2].pointwise_kernel
    kernel.assign(1.1 * kernel)
    assert parts.shared_cut([first, second], SMALL_CUT) is None
