"""Going on from a checkpoint, on a network small enough to do it at every epoch."""

import dataclasses

import keras
import numpy as np
import pytest

from pairs.devices.cluster import ALONE
from pairs.errors import UserError
from pairs.network.weights_folder import CHECKPOINT
from pairs.training import checkpoint, stage
from pairs.training import log as record
from pairs.training.batches import KerasBatches
from pairs.training.callbacks import DECIDES, Validate, make_callbacks
from pairs.training.log import RunLog
from pairs.training.optimizer import compile_model, make_metrics, make_optimizer
from pairs.training.recipe import PLATEAU, Stage

STAGE = Stage(1, "heads", None, "adam", 0.05, epochs=12, augment=None, patience=5)
COSINE = dataclasses.replace(STAGE, epochs=5, schedule="cosine")
NUM_BATCHES = 3


def make_network(plan=STAGE):
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    image = keras.Input((6,), name="img_1")
    frozen = keras.layers.Dense(8, activation="relu", trainable=False)
    feature = keras.layers.Dropout(0.5)(frozen(image))
    outputs = {"ctg_out_1": keras.layers.Dense(3, activation="softmax")(feature)}
    model = keras.Model({"img_1": image}, outputs)
    compile_model(model, make_optimizer(plan, NUM_BATCHES))
    model.optimizer.build(model.trainable_variables)
    make_metrics(model, ALONE)  # as a stage does; else the step is traced twice
    return model


class Noise:
    """In place of `PairBatches`. The validation loss of noise soon stops falling, so
    there are plateaus and an early stop."""

    batch_size = 8
    epoch = 0

    def __init__(self, seed, num_batches):
        rng = np.random.default_rng(seed)
        self.noise = rng.normal(size=(num_batches, 8, 6)).astype(np.float32)
        self.labels = rng.integers(0, 3, size=(num_batches, 8))

    def __len__(self):
        return len(self.noise)

    def batch(self, step):
        return (step + self.epoch) % len(self)  # another order every epoch

    def pairs(self, step):
        labels = self.labels[self.batch(step)]
        return np.arange(8), None, {"ctg_out_1": labels}

    def images(self, step, rows):
        return self.noise[self.batch(step)][rows]


def batches_of(seed, num_batches):
    return KerasBatches(Noise(seed, num_batches), ["ctg_out_1"], 2, None, ALONE)


class Stop(Exception):
    """In place of a power cut."""


class PowerCut(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Stop


def train_from(folder, cut_at=None, plan=STAGE):
    """Trains to the end, or to the epoch that is cut; returns weights and rows."""
    model = make_network(plan)
    found = checkpoint.read_checkpoint(folder)
    log = RunLog(folder, [plan], found.rows, found.seconds)
    batches = batches_of(0, NUM_BATCHES)
    validate = Validate(model, batches_of(1, 2))
    callbacks = make_callbacks(plan, batches.pairs, validate, log)
    decided = [callback for callback in callbacks if isinstance(callback, DECIDES)]
    best = folder / "best.weights.h5"
    keep = checkpoint.KeepCheckpoint("heads", log, found, decided, lambda: model.save_weights(best))
    callbacks.append(keep)
    callbacks.append(PowerCut(cut_at))
    stage.fit(model, batches, plan, callbacks, found)
    last = [weight.numpy() for weight in model.weights]
    checkpoint.restore(model.trainable_variables, keep.best, folder)
    return last, [weight.numpy() for weight in model.weights], log.rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train_from(tmp_path_factory.mktemp("undisturbed"))


def test_the_undisturbed_run_has_plateaus_and_stops_early(undisturbed):
    rows = undisturbed[2]
    assert 3 < len(rows) < STAGE.epochs
    rates = [row["learning_rate"] for row in rows]
    assert len(set(rates)) > 1
    # Each epoch's own rate: it is lower from the epoch on that follows the third bad one.
    losses = [row["val_loss"] for row in rows]
    drop = next(epoch for epoch in range(1, len(rates)) if rates[epoch] < rates[epoch - 1])
    best = min(losses[: drop - PLATEAU["patience"]])
    assert all(loss >= best for loss in losses[drop - PLATEAU["patience"] : drop])


@pytest.mark.parametrize("cut_at", [0, 5, 99])
def test_cut_once_it_ends_bit_for_bit_the_same(undisturbed, cut_at, tmp_path):
    if cut_at < len(undisturbed[2]):
        with pytest.raises(Stop):
            train_from(tmp_path, cut_at)
    else:
        train_from(tmp_path)  # done: going on must change nothing
    last, best, rows = train_from(tmp_path)
    assert rows == undisturbed[2]
    for one, two in zip(last + best, undisturbed[0] + undisturbed[1], strict=True):
        np.testing.assert_array_equal(one, two)


def test_cut_at_every_epoch_it_ends_bit_for_bit_the_same(undisturbed, tmp_path):
    for cut_at in range(1, len(undisturbed[2])):
        with pytest.raises(Stop):
            train_from(tmp_path, cut_at)
    last, _, rows = train_from(tmp_path)
    assert rows == undisturbed[2]
    for one, two in zip(last, undisturbed[0], strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_cosine_goes_up_and_down_to_zero_and_a_cut_does_not_show(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    last, _, rows = train_from(tmp_path / "whole", plan=COSINE)
    rates = [row["learning_rate"] for row in rows]
    # One of 15 steps to warm up: the fifth epoch ends where the cosine does.
    half_way = (NUM_BATCHES * 2 - 1) / (NUM_BATCHES * 5 - 1)
    expected = COSINE.learning_rate * (1 + np.cos(np.pi * half_way)) / 2
    assert rates[1] == pytest.approx(expected, rel=1e-4)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    with pytest.raises(Stop):
        train_from(tmp_path / "cut", cut_at=3, plan=COSINE)
    again, _, again_rows = train_from(tmp_path / "cut", plan=COSINE)
    assert again_rows == rows
    for one, two in zip(again, last, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_best_model_is_there_before_the_stage_ends_but_seldom_new(
    undisturbed, tmp_path, monkeypatch
):
    best = 1 + int(np.argmin([row["val_loss"] for row in undisturbed[2]]))
    saved = tmp_path / "best.weights.h5"
    monkeypatch.setattr(record, "SECONDS_BETWEEN", np.inf)
    with pytest.raises(Stop):
        train_from(tmp_path, cut_at=best)
    assert not saved.exists()
    (tmp_path / CHECKPOINT).unlink()
    monkeypatch.setattr(record, "SECONDS_BETWEEN", 0.0)
    train_from(tmp_path)
    model = make_network()
    model.load_weights(saved)
    for one, two in zip(model.weights, undisturbed[1], strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_checkpoint_of_another_stage_holds_no_best_epoch_of_this_one(undisturbed, tmp_path):
    with pytest.raises(Stop):
        train_from(tmp_path, cut_at=2)
    found = checkpoint.read_checkpoint(tmp_path)
    assert len(found.best) == 2
    log = RunLog(tmp_path, [STAGE])
    here, other = (
        checkpoint.KeepCheckpoint(name, log, found, [], None) for name in ("heads", "blocks")
    )
    assert here.best is found.best
    assert not other.best


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, content):
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_checkpoint(tmp_path)


def test_a_truncated_checkpoint_is_one_line(tmp_path):
    with pytest.raises(Stop):
        train_from(tmp_path, cut_at=2)
    file = tmp_path / CHECKPOINT
    whole = file.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 10):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged"):
            checkpoint.read_checkpoint(tmp_path)


def test_an_epoch_whose_loss_is_no_number_is_only_best_while_there_is_no_other():
    def is_best(*losses):
        return checkpoint.is_best([{"val_loss": loss} for loss in losses])

    nan = float("nan")
    assert is_best(nan)
    assert is_best(nan, 0.5)
    assert not is_best(0.5, nan)
    assert not is_best(0.5, 0.5)
    assert is_best(0.5, 0.4)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    model = make_network()
    with pytest.raises(UserError, match="another version"):
        checkpoint.restore(
            checkpoint.changing_variables(model), [np.zeros(3)], tmp_path / CHECKPOINT
        )


@pytest.mark.parametrize("workers", [1, 8])
def test_the_number_of_workers_changes_no_weight(undisturbed, workers, tmp_path, monkeypatch):
    class OtherBatches(KerasBatches):
        def __init__(self, pairs, heads, _, store, devices):
            super().__init__(pairs, heads, workers, store, devices)

    monkeypatch.setattr("test_checkpoint.KerasBatches", OtherBatches)
    last, best, rows = train_from(tmp_path)
    assert rows == undisturbed[2]
    for one, two in zip(last + best, undisturbed[0] + undisturbed[1], strict=True):
        np.testing.assert_array_equal(one, two)
