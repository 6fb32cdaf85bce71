"""What a stage really trains on, and how: batches, callbacks and optimizer as it sets them up."""

import json

import keras
import numpy as np
import pytest
from conftest import SIZE, make_run, run_script

import train
from model import build_model
from pair_generator import PairBatches
from pairs.errors import UserError
from pairs.network import parts
from pairs.network.files import save_model
from pairs.network.trunks import build_trunk
from pairs.photos.find import find_class_photos
from pairs.training import recipe, stage
from pairs.training.callbacks import make_callbacks
from pairs.training.optimizer import make_optimizer

HEADS, BLOCKS, PLAIN = recipe.STAGES_2017


@pytest.fixture
def photos(data):
    return find_class_photos(data / "train")


def set_up(folder, plan, photos, trunk, **changes):
    """A stage as `train.py` sets it up; its batches are of five photos."""
    run = make_run(folder, stages=[plan], image_size=SIZE, **changes)
    save_model(build_model(trunk, photos.typeids), run.start_file)
    size = run.image_size_of(plan)
    pairs = PairBatches(photos, size, 5, run.seed_of(plan), plan.augment)
    valid = PairBatches(photos, size, 5, run.seed, validation=True)
    return stage.set_up(run, plan, pairs, valid, run.start_file)


def rows_by_photo(batches, epoch):
    """What the network is fed of each photo in an epoch."""
    batches.pairs.epoch = epoch
    found = {}
    for step in range(len(batches)):
        inputs = batches[step][0]
        (name,) = inputs.keys() & {"img_1", "activation"}
        found |= dict(zip(batches.pairs.indices(step).tolist(), inputs[name], strict=True))
    return found


@pytest.mark.parametrize("in_folds", [False, True])
def test_affine_stages_see_other_images_every_epoch_and_plain_ones_the_same(
    photos, small_trunk, built_small_trunk, tmp_path, in_folds
):
    """Also where activations are stored for the validation, or for other stages and folds."""
    pool = photos if in_folds else None
    for plan, changes in ((HEADS, True), (BLOCKS, True), (PLAIN, False)):
        setup = set_up(tmp_path / plan.name, plan, photos, built_small_trunk, pool=pool)
        first, second = (rows_by_photo(setup.batches, epoch) for epoch in (0, 1))
        assert first.keys() == second.keys() == set(range(len(photos)))
        for photo, row in first.items():
            assert (row != second[photo]).any() == changes, plan.name
        valid = [rows_by_photo(setup.valid_batches, epoch) for epoch in (0, 1)]
        assert all((row == valid[1][photo]).all() for photo, row in valid[0].items())


def test_mirrored_stages_see_two_views_of_a_photo(photos, small_trunk, built_small_trunk, tmp_path):
    plan = recipe.TUNED[0]
    batches = set_up(tmp_path, plan, photos, built_small_trunk).batches
    epochs = [rows_by_photo(batches, epoch) for epoch in range(8)]
    views = [len(np.unique([epoch[photo] for epoch in epochs], axis=0)) for photo in epochs[0]]
    assert max(views) == 2
    assert np.mean(views) > 1.9


def test_with_balance_every_class_weighs_the_same_in_training(photos, built_small_trunk, tmp_path):
    lopsided = photos.take([*np.flatnonzero(photos.labels != 1).tolist(), 7])
    counts = np.bincount(lopsided.labels)
    assert counts.min() < counts.max()
    batches = set_up(tmp_path, HEADS, lopsided, built_small_trunk, balance=True).batches
    weights = np.zeros(len(counts))
    for step in range(len(batches)):
        _, targets, of_heads = batches[step]
        np.add.at(weights, targets["ctg_out_1"], of_heads["ctg_out_1"])
    np.testing.assert_allclose(weights, weights[0], rtol=1e-5)


def scripted(losses, callbacks, learning_rate=1e-4):
    """Epochs with these validation losses; returns the learning rate of each."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate), "mse")
    kinds = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.EarlyStopping)
    rates = []
    model.stop_training = False
    for callback in callbacks:
        if isinstance(callback, kinds):
            callback.verbose = 0
            callback.set_model(model)
            callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        rates.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
        for callback in callbacks:
            if isinstance(callback, kinds):
                callback.on_epoch_end(epoch, {"val_loss": loss})
        if model.stop_training:
            break
    return rates


def callbacks_of(plan, tmp_path):
    return make_callbacks(plan, None, None, make_run(tmp_path).log)


def test_the_rate_falls_to_a_tenth_after_three_epochs_without_a_gain_and_not_below_1e_6(tmp_path):
    # However small a gain is, it counts.
    gains, flat = [3, 2, 2 - 1e-7, 2 - 2e-7, 2 - 3e-7], [2] * 12
    rates = scripted(gains + flat, callbacks_of(BLOCKS, tmp_path))
    assert rates == pytest.approx([1e-4] * 8 + [1e-5] * 3 + [1e-6] * 6, rel=1e-4)


def test_the_heads_stop_after_three_epochs_without_a_gain(tmp_path):
    assert HEADS.patience == 3
    assert len(scripted([2, 1, 1.5, 1.5, 1.5, 0.1, 0.1], callbacks_of(HEADS, tmp_path))) == 5


def test_sgd_has_a_momentum_of_nine_tenths():
    optimizer = make_optimizer(BLOCKS, num_steps=1)
    weight = keras.Variable(np.zeros(1, np.float32))
    places = [0.0]
    for _ in range(2):
        optimizer.apply([keras.ops.ones(1)], [weight])
        places.append(float(keras.ops.convert_to_numpy(weight)[0]))
    first, second = np.diff(places)
    assert first == pytest.approx(-BLOCKS.learning_rate)
    assert second == pytest.approx(1.9 * first)


def test_a_trunk_is_in_inference_mode_also_in_training(tmp_path, small_trunk, monkeypatch):
    """Some drop whole blocks at random while they train: EfficientNet."""

    def build(weights, include_top, pooling, input_shape):
        image = x = keras.Input((8, 8, 3))
        for filters in (4, 5):
            x = keras.layers.Conv2D(filters, 3)(x)
            x = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))(x)
        return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))

    monkeypatch.setattr(keras.applications, "Small", build)
    model = build_model(build_trunk("xception", 8, "none"), ["a", "b"])
    for number in (1, 2):
        model.get_layer(f"dropout_{number}").rate = 0.0
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    inputs = {"img_1": images, "partner": np.array([1, 2, 3, 0], np.int32)}
    for cut in (None, 2):
        whole = parts.connect(*parts.split(model, cut))
        calm, training = (whole(inputs, training=mode) for mode in (False, True))
        for name in calm:
            np.testing.assert_array_equal(*map(np.asarray, (calm[name], training[name])))


def test_unfreezing_trains_every_kind_of_convolution():
    image = x = keras.Input((8, 8, 3))
    for layer in (
        keras.layers.Conv2D(4, 1, name="below"),
        *(keras.layers.DepthwiseConv2D(3), keras.layers.SeparableConv2D(4, 3)),
        *(keras.layers.Conv2D(4, 1), keras.layers.BatchNormalization()),
    ):
        x = layer(x)
    trunk = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x), name="trunk")
    trunk.input_scale = (1.0, 0.0)
    parts.unfreeze(build_model(trunk, ["a", "b"]), 1)
    trained = [bool(layer.trainable_weights) for layer in trunk.layers if layer.weights]
    assert trained == [False, True, True, True, False]


def test_no_two_trainings_have_the_same_seed(tmp_path):
    plans = [*recipe.STAGES_2017, *recipe.TUNED]
    stages = recipe.STAGES_2017
    seeds = {make_run(tmp_path, seed=seed).seed_of(plan) for seed in range(5) for plan in stages}
    assert len(seeds) == 5 * len(stages)
    assert {plan.number for plan in plans} == {1, 2, 3}


@pytest.mark.slow
def test_another_seed_is_another_training_and_every_stage_gets_its_augmentation(
    data, trained, tmp_path, monkeypatch
):
    drawn = []

    class Noted(PairBatches):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            drawn.append(self)

    monkeypatch.setattr(train, "PairBatches", Noted)
    flags = f"--image-size {SIZE} --batch-size 6 --epochs 1 1 1 --pretrained none --seed 1"
    done = run_script("train.py", "--data", data, "--weights", tmp_path, *flags.split())
    assert done.returncode == 0, done.stderr
    stages = drawn[-6::2]
    assert [batches.augment for batches in stages] == [plan.augment for plan in recipe.STAGES_2017]
    assert [batches.seed for batches in stages] == [11, 12, 13]
    heads = [
        keras.saving.load_model(folder / "start.keras").get_layer("ctg_out_1").kernel
        for folder in (trained, tmp_path)
    ]
    assert (np.asarray(heads[0]) != np.asarray(heads[1])).any()


def test_folds_are_cut_by_the_seed(data, small_trunk, tmp_path):
    cuts = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        words = ["--data", data, "--weights", folder, "--pretrained", "none", "--folds", 2]
        args = train.parse_args([*map(str, words), "--image-size", str(SIZE), "--seed", str(seed)])
        sides, found = train.check_sides(
            args.data, train.list_photos(args.data), {"train": {}, "valid": {}}, 1
        )
        train.begin_run(args, list(recipe.STAGES_2017), folder, train.pool_sides(sides), found)
        cuts.append(json.loads((folder / "folds.json").read_text()))
    assert cuts[0].keys() == cuts[1].keys()
    assert cuts[0] != cuts[1]


def test_the_flags_about_the_machine_arrive(data, tmp_path, monkeypatch):
    asked = []

    def prepare(*words):
        asked.append(words)
        raise UserError("enough")

    monkeypatch.setattr(train.inventory, "prepare", prepare)
    words = ("train.py", "--data", data, "--weights", tmp_path / "w")
    for flags in ("--precision mixed_bfloat16 --jit", "--openvino float32"):
        assert run_script(*words, *flags.split()).stderr.endswith("error: enough\n")
    assert asked == [
        ("mixed_bfloat16", False, True, None),
        ("float32", False, False, "float32"),
    ]
