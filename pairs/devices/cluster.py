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
import re
import signal
import subprocess
import sys
import threading
import traceback

import numpy as np

from pair_generator import groups
from pairs.command_line import UserError
from pairs.devices.inventory import let_memory_grow

# Keras' own environment, see `keras.distribution.initialize`.
NUM_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
PROCESS = "KERAS_DISTRIBUTION_PROCESS_ID"
ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
SUPERVISED = "PAIRS_SUPERVISED"
# A replica of `MirroredStrategy` pairs its own images; fewer would hardly meet their class.
MIN_IMAGES_A_REPLICA = 4
# What JAX raises, or the C++ below it dies with, where another process is lost.
IS_LOST = re.compile(r"gloo|nccl|coordination|distributed service|heartbeat|barrier", re.IGNORECASE)
# How that C++ begins the lines that it dies with, and those before them.
DYING = re.compile(r"F\d{4} \d\d:\d\d:\d\d|E\d{4} .*coordination_service")
LOST = (
    "another process of the cluster has died or cannot be reached; see its own last line, then "
    "run the same command in all of them to go on after the last finished epoch"
)
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
    engine: object = None

    @property
    def is_first(self):
        """Whether this process decides and writes."""
        return self.process == 0

    def scope(self):
        """A context: models made and trained in it are spread over all devices."""
        return self.engine.scope() if self.engine else contextlib.nullcontext()

    def wait_for_all(self):
        """Returns when every process of the cluster has come here."""
        if self.num_processes > 1:
            # JAX's public barrier is an operation of the devices and gives up
            # after 10 to 30 minutes; this one, of the processes, Orbax uses, too.
            from jax._src.distributed import global_state

            name = f"wait_for_all_{next(BARRIERS)}"
            global_state.client.wait_at_barrier(name, LONGEST_WAIT_MS)

    @contextlib.contextmanager
    def first_goes_ahead(self):
        """A context that the first process leaves before the others enter it."""
        if not self.is_first:
            self.wait_for_all()
        yield
        if self.is_first:
            self.wait_for_all()

    def spread(self, partner, batch_size):
        """This process' part of a batch.

        A batch is padded to full length, so that it divides evenly, and every
        group of it to the same.

        Args:
            partner: int array, shape `(batch,)`, as `PairBatches.pairs` returns it.
            batch_size: of a full batch.

        Returns:
            `(rows, partner, is_image)`, arrays of one length: which image of the
            batch, where its partner stands in its group, and False for padding.
        """
        count = len(partner)
        length = self.padded(count, batch_size)
        group_length = length // self.num_groups
        rows = np.full(length, -1)
        for number, members in enumerate(groups(count, self.num_groups)):
            start = number * group_length
            rows[start : start + len(members)] = members
        is_image = rows >= 0
        place_of = np.empty(count, int)
        place_of[rows[is_image]] = np.flatnonzero(is_image)
        # Padding is its own partner.
        places = np.arange(length)
        places[is_image] = place_of[partner[rows[is_image]]]
        share = length // self.num_processes
        part = slice(self.process * share, (self.process + 1) * share)
        return (
            np.maximum(rows, 0)[part],
            (places % group_length).astype(np.int32)[part],
            is_image[part],
        )

    def padded(self, count, batch_size):
        """Length of a batch of `count` images after padding: all devices get as many."""
        return -(-max(count, batch_size) // self.num_devices) * self.num_devices


ALONE = Cluster()


def join(batch_size, precision):
    """Finds the devices and, in a cluster, the other processes.

    Args:
        batch_size: of all devices together.
        precision: one of `device.PRECISIONS`.

    Returns:
        `Cluster`.

    Raises:
        UserError: the backend cannot do it, another process cannot be reached,
            or the batch does not divide evenly.
    """
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
    if not cluster.is_first:
        sys.stdout = pathlib.Path(os.devnull).open("w")  # noqa: SIM115  one process speaks
    print(f"{cluster.num_devices} devices, {cluster.num_processes} processes")
    return cluster


def is_cluster():
    """Whether Keras' environment names other processes."""
    return ADDRESSES in os.environ or NUM_PROCESSES in os.environ


def join_on_jax():
    """All devices of all processes."""
    import jax
    import keras

    if is_cluster():
        try:
            keras.distribution.initialize()
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else "processes with unlike devices?"
            raise UserError(f"--distribute: no cluster ({reason})") from error
    numbers = collections.Counter(each.process_index for each in jax.devices())
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


def mirror_on_tensorflow():
    """The GPUs of this machine; without one, whatever CPUs TensorFlow is told to see."""
    import tensorflow as tf

    let_memory_grow()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    count = len(devices)
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    return Cluster(num_devices=count, num_groups=count, engine=strategy)


def supervise():
    """Runs this very command as a child process, and ends as people expect.

    Where another process of a cluster dies, the C++ below JAX aborts this one
    with a page of text, or a collective operation fails; either becomes one line.
    """
    child = subprocess.Popen(
        # Not sys.argv: another script (experiments/variants.py) may have called us.
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, SUPERVISED: "1"},
        stdin=subprocess.PIPE,  # its end tells the child that we are gone
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    last_words, has_own_line = [], False
    for line in child.stderr:
        if line.startswith("train.py: error"):
            last_words, has_own_line = [], True
        if last_words or DYING.match(line):
            last_words.append(line)
        else:
            print(line, end="", file=sys.stderr, flush=True)
    code = child.wait()
    if has_own_line:  # and may still have been aborted
        sys.exit(2)
    last_words = "".join(last_words)
    if code == -signal.SIGABRT and IS_LOST.search(last_words):
        raise UserError(LOST)
    print(last_words, end="", file=sys.stderr)
    if code < 0:
        raise UserError(
            f"ended by {signal.Signals(-code).name} (SIGKILL is often the system's, out of "
            f"memory); run the same command in all processes to go on"
        )
    sys.exit(code)


def is_supervised():
    """Whether this process is the child of `supervise`; if so it ends with its parent."""
    if SUPERVISED not in os.environ:
        return False

    def wait():
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    return True


@contextlib.contextmanager
def own_errors(cluster):
    """Ends this process with one line where another one is lost.

    Nothing is cleaned up then: what JAX does at a proper end waits for all.
    """
    try:
        yield
    except Exception as error:
        if cluster.num_processes == 1:
            raise
        sys.stdout.flush()
        line = " ".join(str(error).split())
        if not isinstance(error, (UserError, OSError)):
            if not IS_LOST.search(line):
                traceback.print_exc()
                os._exit(1)
            line = f"{LOST} ({line[:200]})"
        print(f"train.py: error: {line}", file=sys.stderr, flush=True)
        os._exit(2)
