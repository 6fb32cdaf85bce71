"""One step of every stage before epoch 1, on a GPU: is its memory large enough?

A later stage may need more than the first, whose epochs take hours. Nothing of a
trial is kept.
"""

import gc
import math
import time
from typing import Any

import keras
import numpy as np

from pairs.errors import UserError
from pairs.network.parts import forget_models
from pairs.out_of_memory import is_out_of_memory
from pairs.training.activation_store import BATCH_SIZE
from pairs.training.memory import smaller_share
from pairs.training.optimizer import compile_model, make_metrics, make_optimizer
from pairs.training.recipe import Stage
from pairs.training.room import has_room, spare_bytes
from pairs.training.run import Run
from pairs.training.stage import load_parts
from pairs.training.store_folder import disk_of_stores


def try_stages(run: Run, num_photos: int) -> None:
    """Tries a step of every stage with the training's batch size.

    A training on several devices is tried on one, with its share of the batch.

    Args:
        run: its model to start from is there.
        num_photos: of training and validation, whose activations may be stored.

    Raises:
        UserError: memory is too small; names a batch size that fits all stages.
    """
    start = time.perf_counter()
    num_devices = run.devices.num_devices
    share = run.batch_size // num_devices
    too_large = None
    for stage in run.stages:
        while not has_memory(run, stage, share, num_photos):
            too_large = too_large or stage.name
            smaller = smaller_share(share, run.devices)
            if smaller is None:
                raise UserError(
                    f"out of memory in a trial of stage {stage.name}, even with {share} images: "
                    f"use a smaller --image-size"
                )
            share = smaller
    if too_large:
        raise UserError(
            f"--batch-size {run.batch_size} takes more memory than there is in stage {too_large}: "
            f"--batch-size {share * num_devices} fits all stages (tried before epoch 1). Or end "
            f"other programs that nvidia-smi lists on the card"
        )
    seconds = time.perf_counter() - start
    print(f"one step of every stage fits into memory ({seconds:.0f} s)", flush=True)


def has_memory(run: Run, stage: Stage, batch_size: int, num_photos: int) -> bool:
    """Whether memory is large enough for a step of a stage."""
    try:
        take_step(run, stage, batch_size, num_photos)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        forget_models()
        gc.collect()  # models are cycles; what the next one needs is free again
    return True


def take_step(run: Run, stage: Stage, batch_size: int, num_photos: int) -> None:
    """Takes the step that the stage will take again and again, on black photos."""
    parts = load_parts(run, stage, run.start_file)
    model = parts.whole
    shape = parts.below.output_shape[1:]
    if run.openvino:  # what is below needs none of the GPU's memory
        model = parts.above
    elif stage.augment != "affine" and is_stored(run, stage, shape, num_photos):
        parts.below.predict_on_batch(empty(parts.below.input, BATCH_SIZE))  # as a store is built
        model = parts.above
    compile_model(model, make_optimizer(stage, num_steps=1), run.jit)
    model.optimizer.build(model.trainable_variables)
    make_metrics(model, run.devices)
    inputs = {name: empty(tensor, batch_size) for name, tensor in model.input.items()}
    model.train_on_batch(inputs, {head: np.zeros(batch_size, np.int32) for head in model.output})


def is_stored(run: Run, stage: Stage, shape: tuple[int, ...], num_photos: int) -> bool:
    """Whether a stage's activations will be stored, each of `shape`; of mirror images, too."""
    if run.cache == "off":
        return False
    num_images = (2 if stage.augment == "mirror" else 1) * num_photos
    size = num_images * math.prod(shape) * np.dtype(run.cache).itemsize
    folder = disk_of_stores(run.home)
    folder.mkdir(parents=True, exist_ok=True)  # which may be a link to another disk
    return has_room(folder, size, spare_bytes(run))


def empty(tensor: keras.KerasTensor, batch_size: int) -> np.ndarray[Any, Any]:
    """Zeros of a tensor's shape and dtype, for a batch."""
    return np.zeros((batch_size, *tensor.shape[1:]), tensor.dtype)
