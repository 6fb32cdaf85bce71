"""The trial of every stage before epoch 1, with a made-up GPU and a made-up lack of memory."""

import dataclasses

import keras
import pytest
from conftest import FLAGS

import train
from pairs.devices import inventory
from pairs.devices.cards import Gpu
from pairs.devices.cluster import Cluster
from pairs.errors import UserError
from pairs.training import trial

pytestmark = pytest.mark.slow


@pytest.fixture
def made_up_gpu(monkeypatch):
    """This machine, with a GPU that nobody computes on."""
    found = dataclasses.replace(inventory.take_inventory(), gpus=(Gpu("made up", None),))
    monkeypatch.setattr(inventory, "take_inventory", lambda: found)


def parse(data, weights):
    return train.parse_args(["--data", str(data), "--weights", str(weights), *FLAGS.split()])


def test_a_training_is_the_same_after_its_trial(
    data, trained, tmp_path, small_trunk, made_up_gpu, capsys
):
    steps = []
    plain_step = trial.take_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trial,
            "take_step",
            lambda run, stage, size: (
                steps.append((stage.name, size)) or plain_step(run, stage, size)
            ),
        )
        train.train(parse(data, tmp_path))
    assert steps == [("heads", 6), ("blocks", 6), ("plain", 6)]
    assert "one step of every stage fits into memory" in capsys.readouterr().out
    assert (tmp_path / "log.csv").read_bytes() == (trained / "log.csv").read_bytes()


class Full(Exception):
    """As JAX says it."""

    def __str__(self):
        return "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"


def small_memory(monkeypatch, heads, blocks):
    """Steps of more images than these run out of memory. Tells stages by what trains."""
    plain_step = keras.Model.train_on_batch

    def step(self, inputs, *args):
        count = len(next(iter(inputs.values())))
        trains_trunk = any("conv" in weight.path for weight in self.trainable_weights)
        if count > (blocks if trains_trunk else heads):
            raise Full
        return plain_step(self, inputs, *args)

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
    run = type("Run", (), {"devices": Cluster(num_devices=4), "batch_size": 64, "stages": ["one"]})
    tried = []
    monkeypatch.setattr(trial, "fits", lambda run, stage, size: tried.append(size) or size <= 8)
    run.stages = [type("Stage", (), {"name": "blocks"})]
    with pytest.raises(UserError, match=r"--batch-size 64 .* stage blocks: --batch-size 32 fits"):
        trial.try_stages(run)
    assert tried == [16, 8]
    monkeypatch.setattr(trial, "fits", lambda run, stage, size: False)
    with pytest.raises(UserError, match="smaller --image-size"):
        trial.try_stages(run)


def test_other_errors_of_a_trial_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def broken(run, stage, size):
        raise ValueError("shapes differ")

    monkeypatch.setattr(trial, "take_step", broken)
    with pytest.raises(ValueError, match="shapes differ"):
        trial.fits(None, None, 2)
