"""Training steps of ours and of the plain port, for `timm_speed.py` to time."""

import pathlib
import tempfile

import keras
import numpy as np

from benchmarks import reference
from benchmarks.bench_run import bench_run
from benchmarks.timm_speed import NUM_CLASSES, make_batches
from model import build_model
from pair_generator import pair_labels
from pairs.network.files import save_model
from pairs.network.trunks import build_trunk
from pairs.training import stage
from pairs.training.callbacks import StopOnNonFiniteLoss
from pairs.training.optimizer import compile_model, make_optimizer


def prepare_ours(plan, batch_size, image_size, num_steps, precision, trunk_name="xception"):
    """Sets a stage up as a training does, to be fed from memory.

    Args:
        plan: `recipe.Stage`.
        batch_size: images (= pairs) a step.
        image_size: side in pixels.
        num_steps: int.
        precision: Keras' name of a dtype policy.
        trunk_name: key of `TRUNKS`.

    Returns:
        function that trains for `num_steps`.
    """
    keras.config.set_dtype_policy(precision)
    typeids = [str(number) for number in range(NUM_CLASSES)]
    with tempfile.TemporaryDirectory() as scratch:
        run = bench_run(pathlib.Path(scratch), [plan], image_size, batch_size, trunk=trunk_name)
        trunk = build_trunk(trunk_name, image_size, "none")
        start_file = run.folder / "start.keras"
        save_model(build_model(trunk, typeids), start_file)
        parts = stage.load_parts(run, plan, start_file)
    if plan.augment is None:
        trained, entry, shape, dtype = (
            parts.above,
            "activation",
            parts.below.output.shape,
            "float32",
        )
    else:
        trained, entry, shape, dtype = parts.whole, "img_1", parts.below.input.shape, "uint8"
    compile_model(trained, make_optimizer(plan, num_steps))
    batches = []
    for images, partner, labels in make_batches(batch_size, shape[1:], dtype):
        inputs = {entry: images, "partner": partner}
        batches.append((inputs, pair_labels(labels, partner)))
    return trainer(trained, batches, num_steps, [StopOnNonFiniteLoss(plan.name)])


def prepare_two_pass(plan, batch_size, image_size, num_steps, precision):
    """Sets the plain port up: two images of floats. Args and returns: as `prepare_ours`."""
    keras.config.set_dtype_policy(precision)
    model, trunk = reference.build("xception", image_size, NUM_CLASSES)
    reference.compile_stage(model, trunk, "xception", plan.number)
    batches = []
    for images, partner, labels in make_batches(batch_size, (image_size, image_size, 3), "float32"):
        images = images / np.float32(127.5) - 1
        classes = np.eye(NUM_CLASSES, dtype=np.float32)[labels]
        same = np.eye(2, dtype=np.float32)[(labels == labels[partner]).astype(int)]
        inputs = {"img_1": images, "img_2": images[partner]}
        targets = {"ctg_out_1": classes, "ctg_out_2": classes[partner], "bin_out": same}
        batches.append((inputs, targets))
    return trainer(model, batches, num_steps)


def trainer(model, batches, num_steps, callbacks=None):
    """A function that trains a compiled model for some steps on batches, in turn."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return num_steps

        def __getitem__(self, step):
            return batches[step % len(batches)]

    dataset = Batches()
    return lambda: model.fit(dataset, callbacks=callbacks, shuffle=False, verbose=0)


def peak_memory():
    """Most bytes of the device that this process has had; None on a CPU."""
    if keras.backend.backend() == "jax":
        import jax

        found = jax.local_devices()[0].memory_stats()
        return found["peak_bytes_in_use"] if found else None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return None
