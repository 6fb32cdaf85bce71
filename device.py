"""What a training runs on, in one line, and what is wrong with it before epoch 1.

The decisions are plain functions of an `Inventory`, so they can be read and
tested without a card. Only `take_inventory` looks at this machine.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import re
import subprocess
import sys

from command_line import UserError

# cuDNN 9.11 dropped Maxwell, Pascal and Volta: its release notes.
LAST_CUDNN_BELOW = (9, 11)
FIRST_KEPT_CAPABILITY = (7, 5)
# CUDA 12 needs driver 525; 580 is the last for cards below that capability.
MIN_DRIVER, LAST_OLD_DRIVER = 525, 580
# From where half precision is faster: tensor cores; bfloat16 came with Ampere.
GAINS_FROM = {"mixed_float16": (7, 0), "mixed_bfloat16": (8, 0)}
PRECISIONS = ("float32", *GAINS_FROM)


@dataclasses.dataclass(frozen=True)
class Card:
    """An NVIDIA card as its driver lists it.

    Attributes:
        name: e.g. "NVIDIA GeForce GTX 1060 6GB".
        memory: bytes.
        capability: compute capability, e.g. `(6, 1)`.
        driver: version of the driver, e.g. "535.183.01".
    """

    name: str
    memory: int
    capability: tuple
    driver: str


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What is on this machine.

    Attributes:
        backend: of Keras, "tensorflow", "jax" or "torch".
        version: of the backend.
        has_gpu_code: whether the installed backend was built for CUDA.
        num_gpus: how many GPUs the backend sees.
        cards: list of `Card`, what the driver lists, whatever the backend sees.
        cudnn: version of the installed cuDNN package, e.g. "9.10.2.21"; None.
        num_cores: CPU cores that this process may use.
        memory: bytes of the computer's own memory; None: unknown.
    """

    backend: str
    version: str
    has_gpu_code: bool
    num_gpus: int
    cards: tuple = ()
    cudnn: str | None = None
    num_cores: int = 1
    memory: int | None = None


def describe(inventory):
    """One line: backend, device, memory, compute capability, cuDNN."""
    line = f"{inventory.backend} {inventory.version} on "
    if not inventory.num_gpus:
        line += f"the CPU: {inventory.num_cores} cores"
        return line + (f", {gibibytes(inventory.memory)}" if inventory.memory else "")
    line += f"{inventory.num_gpus} GPU" + ("s" if inventory.num_gpus > 1 else "")
    if inventory.cards:
        card = inventory.cards[0]
        capability = ".".join(map(str, card.capability))
        line += f": {card.name}, {gibibytes(card.memory)}, compute capability {capability}"
    return line + f", cuDNN {inventory.cudnn or 'of unknown version'}"


def gibibytes(size):
    """A memory size for people: cards are sold by powers of two."""
    return f"{size / 2**30:.1f} GiB"


def why_it_would_crash(inventory):
    """Why the first step would fail, and what to install; None if it should not."""
    if not inventory.cards or not inventory.has_gpu_code:
        return None
    card = inventory.cards[0]
    is_old = card.capability < FIRST_KEPT_CAPABILITY
    if is_old and inventory.cudnn and version_numbers(inventory.cudnn) >= LAST_CUDNN_BELOW:
        capability = ".".join(map(str, card.capability))
        return (
            f"cuDNN {inventory.cudnn} has no code for the {card.name} (compute capability "
            f'{capability}) and fails or crashes: pip install "nvidia-cudnn-cu12<9.11"'
        )
    return None


def why_a_card_is_idle(inventory):
    """Why the backend does not use a card that is there, and what to install; None if it does."""
    if not inventory.cards or inventory.num_gpus:
        return None
    card = inventory.cards[0]
    is_old = card.capability < FIRST_KEPT_CAPABILITY
    if inventory.backend != "tensorflow":
        install = f"install {inventory.backend} for CUDA 12, see its own pages"
    elif is_old:
        install = "pip install -r requirements-gtx1060.txt, in a new environment"
    else:
        install = 'pip install -r requirements.txt "tensorflow[and-cuda]", in a new environment'
    idle = f"the {card.name} stays idle"
    if not inventory.has_gpu_code:
        return f"{idle}: the installed {inventory.backend} has no GPU code; {install}"
    if version_numbers(card.driver)[:1] < (MIN_DRIVER,):
        newest = f" to {LAST_OLD_DRIVER}, the last for this card" if is_old else " or later"
        return f"{idle}: driver {card.driver} is too old for CUDA 12; install {MIN_DRIVER}{newest}"
    return f"{idle}: {inventory.backend} finds no CUDA libraries for it; {install}"


def remark_precision(precision, inventory):
    """What to know about a precision on this device; None if it is as hoped."""
    if precision == "float32":
        return None
    if not inventory.num_gpus:
        return f"--precision {precision} gains nothing on a CPU: float32 is as fast"
    if not inventory.cards:
        return None
    card = inventory.cards[0]
    if card.capability < GAINS_FROM[precision]:
        needed = ".".join(map(str, GAINS_FROM[precision]))
        return (
            f"--precision {precision} gains nothing on a {card.name}: it is fast from compute "
            f"capability {needed} on; float32 is as fast, and exact"
        )
    return None


def version_numbers(version):
    """The numbers of a version: "9.10.2.21" is `(9, 10, 2, 21)`."""
    return tuple(map(int, re.findall(r"\d+", version)))


def parse_cards(text):
    """Cards from the lines of `nvidia-smi`, see `take_inventory`; others are passed over."""
    cards = []
    for line in text.splitlines():
        name, *facts = [part.strip() for part in line.split(",")]
        with contextlib.suppress(ValueError):
            mebibytes, capability, driver = facts
            cards.append(Card(name, int(mebibytes) << 20, version_numbers(capability), driver))
    return tuple(cards)


def take_inventory():
    """Looks at this machine; loads the backend."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        version, has_gpu_code = tf.__version__, tf.test.is_built_with_cuda()
        num_gpus = len(tf.config.list_physical_devices("GPU"))
    elif backend == "jax":
        import jax

        version = jax.__version__
        num_gpus = sum(device.platform == "gpu" for device in jax.local_devices())
        has_gpu_code = num_gpus > 0 or has_package("jax-cuda12-plugin", "jax-cuda13-plugin")
    else:
        import torch

        version, has_gpu_code = torch.__version__, torch.version.cuda is not None
        num_gpus = torch.cuda.device_count()
    cudnn = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        cudnn = importlib.metadata.version("nvidia-cudnn-cu12")
    return Inventory(
        backend, version, has_gpu_code, num_gpus, list_cards(), cudnn, *own_cores_and_memory()
    )


def has_package(*names):
    """Whether one of some packages is installed."""
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            return True
    return False


def list_cards():
    """The cards that NVIDIA's driver lists; none where there is no driver, or none is wanted."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return ()
    fields = "name,memory.total,compute_cap,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_cards(done.stdout)


def own_cores_and_memory():
    """`(cores, bytes)` of this computer; None for what is not known."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    try:
        return cores, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return cores, None


def prepare(precision="float32"):
    """Gets the device ready, and says on standard error what it is.

    Args:
        precision: one of `PRECISIONS`, for all models that are built from now on.

    Raises:
        UserError: the first step would crash.
    """
    import keras

    inventory = take_inventory()
    print(describe(inventory), file=sys.stderr, flush=True)
    crash = why_it_would_crash(inventory)
    if crash:
        raise UserError(crash)
    for line in (why_a_card_is_idle(inventory), remark_precision(precision, inventory)):
        if line:
            print(f"note: {line}", file=sys.stderr, flush=True)
    keras.config.set_dtype_policy(precision)
    if inventory.backend == "tensorflow":
        let_memory_grow()


def let_memory_grow():
    """Makes TensorFlow take of a card's memory what it needs, and leave the rest to others."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # already in use
            tf.config.experimental.set_memory_growth(gpu, True)
