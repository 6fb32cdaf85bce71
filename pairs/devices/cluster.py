"""The devices that train one model together: `train.py --distribute`.

On JAX, `keras.distribution.DataParallel`: all devices of this machine or, with
Keras' own `KERAS_DISTRIBUTION_*` environment, of many. On TensorFlow, its
`MirroredStrategy`: the GPUs of one machine. Every device takes a slice of each
batch; weights and gradients are the same everywhere.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from pairs.devices import sharding
from pairs.devices.inventory import devices_of_jax, let_memory_grow
from pairs.devices.load_keras import load_keras
from pairs.errors import UserError

# Keras' own environment, see `keras.distribution.initialize`.
NUM_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
PROCESS = "KERAS_DISTRIBUTION_PROCESS_ID"
ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
# A replica of `MirroredStrategy` pairs its own images; fewer would hardly meet their class.
MIN_IMAGES_A_REPLICA = 4
# Process 0 may check millions of photos while the others wait.
LONGEST_WAIT_MS = 7 * 24 * 3600 * 1000
BARRIERS = itertools.count()  # each has a name of its own, the same in all processes


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One process' view of all devices.

    Attributes:
        process, num_processes: this one's number, and how many there are.
        num_devices: of all processes.
        num_groups: into how many groups a batch is divided that do not see each
            other's images: 1 on JAX, one a replica with `MirroredStrategy`.
        engine: Keras' or TensorFlow's object; None: one device, as ever.
    """

    process: int = 0
    num_processes: int = 1
    num_devices: int = 1
    num_groups: int = 1
    engine: Any = None

    @property
    def is_main_process(self) -> bool:
        """Whether this process decides and writes."""
        return self.process == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """A context: models made and trained in it are spread over all devices."""
        return self.engine.scope() if self.engine else contextlib.nullcontext()

    def barrier(self) -> None:
        """Returns when every process of the cluster has come here."""
        if self.num_processes > 1:
            # JAX's public barrier is an operation of the devices and gives up
            # after 10 to 30 minutes; this one, of the processes, Orbax uses, too.
            from jax._src.distributed import global_state

            name = f"barrier_{next(BARRIERS)}"
            client: Any = global_state.client
            client.wait_at_barrier(name, LONGEST_WAIT_MS)

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """A context that the main process leaves before the others enter it."""
        if not self.is_main_process:
            self.barrier()
        yield
        if self.is_main_process:
            self.barrier()

    def spread(
        self, partner: np.ndarray, batch_size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """This process' part of a batch.

        Args:
            partner: int array, shape `(batch,)`, as `PairBatches.pairs` returns it.
            batch_size: of a full batch.

        Returns:
            `(rows, places, is_image)` of `sharding.spread`, this process' share.
        """
        length = self.padded_length(len(partner), batch_size)
        share = length // self.num_processes
        part = slice(self.process * share, (self.process + 1) * share)
        rows, places, is_image = sharding.spread(partner, length, self.num_groups)
        return rows[part], places[part], is_image[part]

    def padded_length(self, count: int, batch_size: int) -> int:
        """Length of a batch of `count` images after padding."""
        return sharding.padded_length(count, batch_size, self.num_devices)


ALONE = Cluster()


def join(batch_size: int, precision: str) -> Cluster:
    """Finds the devices and, in a cluster, the other processes.

    Args:
        batch_size: of all devices together.
        precision: one of `cards.PRECISIONS`.

    Raises:
        UserError: the backend cannot do it, another process cannot be reached,
            or the batch does not divide evenly.
    """
    load_keras()
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        cluster = join_on_jax()
    elif backend == "tensorflow" and not is_cluster():
        if precision == "mixed_float16":
            # Keras 3.15's LossScaleOptimizer asks the first replica alone whether its
            # gradients overflowed; those of another one turn all weights into NaN.
            raise UserError(
                "--distribute --precision mixed_float16 on TensorFlow: Keras overlooks overflows "
                "on all cards but the first; take mixed_bfloat16 or float32, or KERAS_BACKEND=jax"
            )
        cluster = mirror_on_tensorflow()
    else:
        raise UserError(
            f"--distribute on Keras' {backend} backend: several machines need KERAS_BACKEND=jax "
            f"(pip install jax), several cards of one machine jax or tensorflow"
        )
    if batch_size % cluster.num_devices:
        raise UserError(
            f"--batch-size {batch_size} does not divide evenly among {cluster.num_devices} "
            f"devices: it is the images of a step on all of them together"
        )
    if cluster.num_groups > 1 and batch_size < MIN_IMAGES_A_REPLICA * cluster.num_groups:
        raise UserError(
            f"--batch-size {batch_size}: {cluster.num_groups} cards need at least "
            f"{MIN_IMAGES_A_REPLICA} images each"
        )
    if not cluster.is_main_process:
        sys.stdout = pathlib.Path(os.devnull).open("w")  # noqa: SIM115  one process speaks
    print(f"{cluster.num_devices} devices, {cluster.num_processes} processes")
    return cluster


def is_cluster() -> bool:
    """Whether Keras' environment names other processes."""
    return ADDRESSES in os.environ or NUM_PROCESSES in os.environ


def join_on_jax() -> Cluster:
    """All devices of all processes."""
    import jax
    import keras

    if is_cluster():
        try:
            keras.distribution.initialize()
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else "processes with unlike devices?"
            raise UserError(f"--distribute: no cluster ({reason})") from error
    numbers = collections.Counter(each.process_index for each in devices_of_jax(jax.devices))
    if len(set(numbers.values())) > 1:
        raise UserError(
            f"--distribute: the processes have {sorted(set(numbers.values()))} devices; all need "
            f"the same number (CUDA_VISIBLE_DEVICES hides some)"
        )
    return Cluster(
        jax.process_index(),
        jax.process_count(),
        jax.device_count(),
        engine=keras.distribution.DataParallel(auto_shard_dataset=False),
    )


def mirror_on_tensorflow() -> Cluster:
    """The GPUs of this machine; without one, whatever CPUs TensorFlow is told to see."""
    import tensorflow as tf

    let_memory_grow()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    count = len(devices)
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    return Cluster(num_devices=count, num_groups=count, engine=strategy)
