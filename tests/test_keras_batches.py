"""Which batches Keras really trains and validates on, read off their losses."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, with_devices

from pairs.devices.cluster import ALONE
from pairs.training import stage
from pairs.training.batches import KerasBatches
from pairs.training.callbacks import SetEpoch, Validate
from pairs.training.checkpoint import Checkpoint
from pairs.training.optimizer import compile_model, make_optimizer
from pairs.training.recipe import Stage

NUM_STEPS, NUM_VALID_STEPS, EPOCHS = 6, 5, 3
PLAN = Stage(1, "heads", None, "sgd", 0.0, epochs=EPOCHS, augment=None)
# The first number of validation: no training batch has one of these.
VALID = 50
# Of an image: probabilities stay above the 1e-7 at which Keras clips them.
SCALE = 0.2


class Numbered:
    """In place of `PairBatches`: every image of a batch is the number of the batch."""

    batch_size = 8
    epoch = 0
    validation = False

    def __init__(self, num_steps, first=0):
        self.num_steps = num_steps
        self.first = first

    def __len__(self):
        return self.num_steps

    def pairs(self, step):
        # All of one class: the loss is `log(1 + exp(image))`, see `make_network`.
        return np.arange(8), np.arange(8), {"ctg_out_1": np.zeros(8, np.int32)}

    def images(self, step, rows):
        number = self.first + 10 * self.epoch + step
        return np.full((len(rows), 1), SCALE * number, np.float32)


class ReadLosses(keras.callbacks.Callback):
    """Turns Keras' running mean of the loss back into the number of each batch."""

    def __init__(self):
        super().__init__()
        self.seen, self.sum = [], 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.sum = 0.0

    def on_test_begin(self, logs=None):
        self.sum = 0.0

    def on_train_batch_end(self, batch, logs=None):
        before, self.sum = self.sum, float(logs["loss"]) * (batch + 1)
        self.seen.append(round(np.log(np.expm1(self.sum - before)) / SCALE))

    on_test_batch_end = on_train_batch_end


def make_network():
    """Logits `(0, image)`; the learning rate is 0, so a loss depends on its batch alone."""
    image = keras.Input((1,), name="img_1")
    head = keras.layers.Dense(2, activation="softmax", name="ctg_out_1")
    model = keras.Model({"img_1": image}, {"ctg_out_1": head(image)})
    head.set_weights([np.array([[0.0, 1.0]]), np.zeros(2)])
    compile_model(model, make_optimizer(PLAN, NUM_STEPS))
    model.optimizer.build(model.trainable_variables)
    return model


def consumed(workers, devices=ALONE):
    """Numbers of the batches of a training, and of each of its validations."""
    with devices.scope():
        model = make_network()
        batches = KerasBatches(Numbered(NUM_STEPS), ["ctg_out_1"], workers, None, devices)
        valid = KerasBatches(
            Numbered(NUM_VALID_STEPS, VALID), ["ctg_out_1"], workers, None, devices
        )
        trained, judged = ReadLosses(), ReadLosses()
        evaluate = model.evaluate
        model.evaluate = lambda *args, **more: evaluate(*args, **more, callbacks=[judged])
        callbacks = [SetEpoch(batches.pairs), Validate(model, valid), trained]
        stage.fit(model, batches, PLAN, callbacks, Checkpoint())
    return trained.seen, judged.seen


EXPECTED = [10 * epoch + step for epoch in range(EPOCHS) for step in range(NUM_STEPS)]
EXPECTED_VALID = EPOCHS * [VALID + step for step in range(NUM_VALID_STEPS)]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_epoch_trains_and_validates_on_its_own_batches_in_order(workers):
    assert consumed(workers) == (EXPECTED, EXPECTED_VALID)


# How a training gets its devices, as Python; `join` is `train.py --distribute`.
ON_ONE = "devices = cluster.ALONE"
TWO_CPUS_OF_TENSORFLOW = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
devices = cluster.join(8, "float32")
"""
JOIN = 'devices = cluster.join(8, "float32")'
# Where it is a GPU, Keras moves a batch to the device one step ahead.
LIKE_A_GPU = 'import jax\njax.default_backend = lambda: "gpu"\ndevices = cluster.ALONE'
TWO_CPUS_OF_JAX = {"XLA_FLAGS": with_devices(2)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "devices", "environment", "workers"),
    [
        ("jax", ON_ONE, {}, (1, 8)),
        ("jax", LIKE_A_GPU, {}, (8,)),
        ("jax", JOIN, TWO_CPUS_OF_JAX, (8,)),
        ("tensorflow", TWO_CPUS_OF_TENSORFLOW, {}, (8,)),
        ("torch", ON_ONE, {}, (1, 8)),
    ],
    ids=["jax", "like-a-gpu", "data-parallel", "mirrored", "torch"],
)
def test_so_it_is_on_every_backend_and_on_several_devices(backend, devices, environment, workers):
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    code = (
        "import sys\nfrom pairs.devices import cluster\nsys.path.insert(0, 'tests')\n"
        f"{devices}\n"
        "import test_keras_batches as here\n"
        f"for workers in {workers}:\n"
        "    found = here.consumed(workers, devices)\n"
        "    assert found == (here.EXPECTED, here.EXPECTED_VALID), (workers, found)\n"
        "print('as expected')"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "as expected" in done.stdout, done.stdout + done.stderr
