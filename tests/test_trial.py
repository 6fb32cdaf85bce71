"""The trial of every stage before epoch 1, with a made-up GPU and a made-up lack of memory."""

import dataclasses
import shutil

import keras
import pytest
from conftest import FLAGS, SIZE, make_run

import train
from model import build_model
from pair_generator import PairBatches
from pairs.devices import inventory
from pairs.devices.cards import Gpu
from pairs.devices.cluster import Cluster
from pairs.errors import UserError
from pairs.network.trunks import build_trunk
from pairs.photos.find import find_class_photos
from pairs.training import room, trial
from pairs.training import stage as stage_module
from pairs.training.recipe import TUNED

pytestmark = pytest.mark.slow


@pytest.fixture
def made_up_gpu(monkeypatch):
    """This machine, with a GPU that nobody computes on."""
    found = dataclasses.replace(inventory.take_inventory(), gpus=(Gpu("made up", None),))
    monkeypatch.setattr(inventory, "take_inventory", lambda: found)


def parse(data, weights):
    return train.parse_args(["--data", str(data), "--weights", str(weights), *FLAGS.split()])


class Enough(Exception):
    """Ends a training that has shown what it should."""


def test_a_training_is_the_same_after_its_trial(
    data, trained, tmp_path, small_trunk, made_up_gpu, capsys
):
    steps = []
    plain_step, run_stage = trial.take_step, stage_module.run_stage

    def run_two_stages(run, stage, *args):
        if stage.name == "plain":
            raise Enough
        return run_stage(run, stage, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trial,
            "take_step",
            lambda run, stage, size, num_photos: (
                steps.append((stage.name, size)) or plain_step(run, stage, size, num_photos)
            ),
        )
        patch.setattr(stage_module, "run_stage", run_two_stages)
        with pytest.raises(Enough):
            train.train(parse(data, tmp_path))
    assert steps == [("heads", 6), ("blocks", 6), ("plain", 6)]
    assert "one step of every stage fits into memory" in capsys.readouterr().out
    logged = (tmp_path / "log.csv").read_bytes()
    assert len(logged.splitlines()) == 1 + 3 + 1  # FLAGS has 3 epochs of heads, 1 of blocks
    assert (trained / "log.csv").read_bytes().startswith(logged)


class Full(Exception):
    """As JAX says it."""

    def __str__(self):
        return "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"


def small_memory(monkeypatch, heads, blocks):
    """Steps of more images than these run out of memory. Tells stages by what trains."""

    def step(self, inputs, *_):
        count = len(next(iter(inputs.values())))
        trains_trunk = any("conv" in weight.path for weight in self.trainable_weights)
        if count > (blocks if trains_trunk else heads):
            raise Full

    monkeypatch.setattr(keras.Model, "train_on_batch", step)


def test_a_batch_too_large_for_a_later_stage_ends_before_epoch_1_and_can_be_run_again(
    data, tmp_path, small_trunk, made_up_gpu, monkeypatch
):
    small_memory(monkeypatch, heads=6, blocks=3)
    with pytest.raises(UserError, match=r"--batch-size 6 .* in stage blocks: --batch-size 3 fits"):
        train.train(parse(data, tmp_path))
    assert not list(tmp_path.glob("*.csv"))
    # The folder is of no run yet: the size that was named is not "another run".
    assert not (tmp_path / "settings.json").exists()


def test_several_devices_are_tried_on_one_with_its_share(monkeypatch):
    run = type("Run", (), {"devices": Cluster(num_devices=4), "batch_size": 64})
    run.stages = [type("Stage", (), {"name": "blocks"})]
    tried = []

    def up_to(most):
        def has_memory(run, stage, size, num_photos):
            tried.append(size)
            return size <= most

        monkeypatch.setattr(trial, "has_memory", has_memory)
        tried.clear()

    up_to(8)
    with pytest.raises(UserError, match=r"--batch-size 64 .* stage blocks: --batch-size 32 fits"):
        trial.try_stages(run, 100)
    assert tried == [16, 8]
    up_to(0)
    with pytest.raises(UserError, match="smaller --image-size"):
        trial.try_stages(run, 100)
    assert tried == [16, 8, 6, 4, 3, 2]
    # Cards that pair their own images need four each: fewer would be refused.
    run.devices = Cluster(num_devices=4, num_groups=4)
    up_to(0)
    with pytest.raises(UserError, match="smaller --image-size"):
        trial.try_stages(run, 100)
    assert tried == [16, 8, 6, 4]


@pytest.mark.parametrize("has_room", [True, False])
def test_what_the_disk_has_no_room_for_is_tried_from_the_photos(
    has_room, tmp_path, small_trunk, monkeypatch
):
    from pairs.network.files import save_model

    stage = TUNED[1]
    run = make_run(tmp_path, stages=list(TUNED))
    trunk = build_trunk("xception", SIZE, "none")
    save_model(build_model(trunk, ["a", "b"], all_pairs=True), run.start_file)
    models = run.start_file.stat().st_size * (2 * len(TUNED) + 1)  # of the whole training
    free = room.SPARE_BYTES + models + (10**9 if has_room else 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    seen = []
    monkeypatch.setattr(
        keras.Model, "train_on_batch", lambda self, inputs, targets: seen.append(set(inputs))
    )
    assert trial.has_memory(run, stage, 6, num_photos=100)
    assert seen == [{"activation" if has_room else "img_1", "partner"}]


def test_a_stage_computes_in_the_precision_that_was_asked_for(
    tmp_path, small_trunk, data, monkeypatch
):
    """Larger images rebuild the trunk, and Keras' `clear_session` forgets the precision."""
    from pairs.network.files import save_model

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        run = make_run(tmp_path, stages=list(TUNED), cache="off")
        trunk = build_trunk("xception", SIZE, "none")
        save_model(build_model(trunk, ["2", "10", "pug"], all_pairs=True), run.start_file)
        photos = find_class_photos(data / "train", ["2", "10", "pug"])
        size = run.image_size_of(TUNED[1])
        pairs = PairBatches(photos, size, 6, 0, "mirror")
        valid = PairBatches(photos, size, 6, 0, validation=True)
        setup = stage_module.set_up(run, TUNED[1], pairs, valid, run.start_file)
        trial.has_memory(run, TUNED[1], 6, num_photos=100)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(policy)
    computed = {
        layer.compute_dtype
        for layer in setup.learner._flatten_layers()
        if layer.name.startswith(("conv", "separable", "batch"))
    }
    assert computed == {"bfloat16"}
    assert {weight.dtype for weight in setup.learner.weights} == {"float32"}


def test_other_errors_of_a_trial_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def broken(run, stage, size, num_photos):
        raise ValueError("shapes differ")

    monkeypatch.setattr(trial, "take_step", broken)
    with pytest.raises(ValueError, match="shapes differ"):
        trial.has_memory(None, None, 2, 100)
