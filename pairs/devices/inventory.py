"""What a training runs on, in one line, and what is wrong with it before epoch 1.

The decisions are plain functions of an `Inventory`, so they can be read and
tested without a card. Only `take_inventory` looks at this machine.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

from pairs.errors import UserError

# cuDNN 9.11 dropped Maxwell, Pascal and Volta: its release notes.
LAST_CUDNN_BELOW = (9, 11)
FIRST_KEPT_CAPABILITY = (7, 5)
# CUDA 12 needs driver 525; 580 is the last for cards below that capability.
MIN_DRIVER, LAST_OLD_DRIVER = 525, 580
# From where half precision is faster: tensor cores; bfloat16 came with Ampere.
GAINS_FROM = {"mixed_float16": (7, 0), "mixed_bfloat16": (8, 0)}
PRECISIONS = ("float32", *GAINS_FROM)
# As /proc/cpuinfo names them: what multiplies bfloat16 in hardware.
CPU_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclasses.dataclass(frozen=True)
class Card:
    """An NVIDIA card as its driver lists it, whether it is used or not.

    Attributes:
        name: e.g. "NVIDIA GeForce GTX 1060 6GB".
        memory: bytes.
        capability: compute capability, e.g. `(6, 1)`; None: an old driver does
            not say.
        driver: version of the driver, e.g. "535.183.01".
    """

    name: str
    memory: int
    capability: tuple[int, ...] | None
    driver: str


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as the backend sees it.

    Attributes:
        name: as the driver has it.
        capability: compute capability; None: the backend does not say.
    """

    name: str
    capability: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What is on this machine.

    Attributes:
        backend: of Keras, "tensorflow", "jax" or "torch".
        version: of the backend.
        has_gpu_code: whether the installed backend was built for CUDA.
        gpus: tuple of `Gpu`, those that the backend sees; it computes on the first.
        cards: tuple of `Card`, what the driver lists, whatever the backend sees.
        cudnn: version of the installed cuDNN package, e.g. "9.10.2.21"; None.
        num_cores: CPU cores that this process may use.
        memory: bytes of the computer's own memory; None: unknown.
        cpu_bfloat16: whether the CPU multiplies bfloat16 in hardware.
    """

    backend: str
    version: str
    has_gpu_code: bool
    gpus: tuple[Gpu, ...] = ()
    cards: tuple[Card, ...] = ()
    cudnn: str | None = None
    num_cores: int = 1
    memory: int | None = None
    cpu_bfloat16: bool = False


def describe(inventory: Inventory) -> str:
    """One line: backend, device, memory, compute capability, cuDNN."""
    line = f"{inventory.backend} {inventory.version} on "
    if not inventory.gpus:
        line += f"the CPU: {inventory.num_cores} cores"
        line += f", {gibibytes(inventory.memory)}" if inventory.memory else ""
        return line + (", bfloat16 in hardware" if inventory.cpu_bfloat16 else "")
    gpu = inventory.gpus[0]
    line += f"{len(inventory.gpus)} GPU" + ("s" if len(inventory.gpus) > 1 else "")
    line += f": {gpu.name}"
    for memory in [card.memory for card in inventory.cards if card.name == gpu.name][:1]:
        line += f", {gibibytes(memory)}"
    if gpu.capability:
        line += f", compute capability {dotted(gpu.capability)}"
    return line + f", cuDNN {inventory.cudnn or 'of unknown version'}"


def is_old(capability: tuple[int, ...] | None) -> bool:
    """Whether new CUDA libraries have no code for it; of an unknown one (None), no."""
    return capability is not None and capability < FIRST_KEPT_CAPABILITY


def dotted(numbers: tuple[int, ...]) -> str:
    """`(6, 1)` as "6.1"."""
    return ".".join(map(str, numbers))


def gibibytes(size: int) -> str:
    """A memory size, human-readable: cards are sold by powers of two."""
    return f"{size / 2**30:.1f} GiB"


def why_it_would_crash(inventory: Inventory, distribute: bool = False) -> str | None:
    """Why the first step would fail, and what to install; None if it should not.

    Args:
        inventory: what is on this machine.
        distribute: all GPUs compute, not only the first.
    """
    for gpu in inventory.gpus if distribute else inventory.gpus[:1]:
        too_new = inventory.cudnn and version_numbers(inventory.cudnn) >= LAST_CUDNN_BELOW
        if too_new and gpu.capability and is_old(gpu.capability):
            return (
                f"cuDNN {inventory.cudnn} has no code for the {gpu.name} (compute capability "
                f"{dotted(gpu.capability)}) and fails or crashes: pip install "
                f'"nvidia-cudnn-cu12<9.11"'
            )
    return None


def why_a_card_is_idle(inventory: Inventory) -> str | None:
    """Why the backend does not use a card that is there, and what to install; None if it does."""
    if not inventory.cards or inventory.gpus:
        return None
    card = inventory.cards[0]
    if inventory.backend != "tensorflow":
        install = f"install {inventory.backend} for CUDA 12, see its own pages"
    elif is_old(card.capability):
        install = "pip install -r requirements-gtx1060.txt, in a new environment"
    else:
        install = 'pip install -r requirements.txt "tensorflow[and-cuda]", in a new environment'
    idle = f"the {card.name} stays idle"
    if not inventory.has_gpu_code:
        return f"{idle}: the installed {inventory.backend} has no GPU code; {install}"
    if version_numbers(card.driver)[:1] < (MIN_DRIVER,):
        newest = " or later"
        if is_old(card.capability):
            newest = f" to {LAST_OLD_DRIVER}, the last for this card"
        elif card.capability is None:
            newest = f" or later (at most {LAST_OLD_DRIVER} for a GTX 10xx or older)"
        return f"{idle}: driver {card.driver} is too old for CUDA 12; install {MIN_DRIVER}{newest}"
    return f"{idle}: {inventory.backend} finds no CUDA libraries for it; {install}"


def remark_precision(precision: str, inventory: Inventory) -> str | None:
    """What to know about a precision on this device; None if it is as hoped."""
    if precision == "float32":
        return None
    if not inventory.gpus:
        if precision == "mixed_bfloat16" and inventory.cpu_bfloat16:
            return None
        return f"--precision {precision} gains nothing on this CPU: float32 is usually faster"
    gpu = inventory.gpus[0]
    if gpu.capability and gpu.capability < GAINS_FROM[precision]:
        return (
            f"--precision {precision} gains nothing on a {gpu.name}: it is fast from compute "
            f"capability {dotted(GAINS_FROM[precision])} on; float32 is as fast, and exact"
        )
    return None


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version: "9.10.2.21" is `(9, 10, 2, 21)`."""
    return tuple(map(int, re.findall(r"\d+", version)))


def parse_cards(text: str) -> tuple[Card, ...]:
    """Cards from the lines of `nvidia-smi`, see `list_cards`; others are passed over."""
    cards = []
    for line in text.splitlines():
        name, *facts = [part.strip() for part in line.split(",")]
        with contextlib.suppress(ValueError):
            mebibytes, driver, *more = facts
            capability = version_numbers(more[0]) if more else None
            cards.append(Card(name, int(mebibytes) << 20, capability, driver))
    return tuple(cards)


def take_inventory() -> Inventory:
    """Looks at this machine; loads the backend."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        version, has_gpu_code = tf.__version__, tf.test.is_built_with_cuda()
        found = map(
            tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU")
        )
        gpus = [
            Gpu(each.get("device_name", "GPU"), each.get("compute_capability")) for each in found
        ]
    elif backend == "jax":
        import jax

        version = jax.__version__
        gpus = [
            Gpu(each.device_kind, version_numbers(getattr(each, "compute_capability", "")) or None)
            for each in jax.local_devices()
            if each.platform == "gpu"
        ]
        has_gpu_code = any(map(package_version, ("jax-cuda12-plugin", "jax-cuda13-plugin")))
    else:
        import torch

        version, has_gpu_code = torch.__version__, torch.version.cuda is not None
        gpus = [
            Gpu(torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number))
            for number in range(torch.cuda.device_count())
        ]
    cudnn = package_version("nvidia-cudnn-cu12") or package_version("nvidia-cudnn-cu13")
    cores, memory = own_cores_and_memory()
    return Inventory(
        backend,
        version,
        has_gpu_code,
        tuple(gpus),
        list_cards(),
        cudnn,
        cores,
        memory,
        multiplies_bfloat16(),
    )


def package_version(name: str) -> str | None:
    """The version of an installed package; None where it is not there."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def list_cards() -> tuple[Card, ...]:
    """The cards that NVIDIA's driver lists; none where there is no driver, or none is wanted."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return ()
    # Drivers before 510 refuse the whole question for its last word.
    for fields in (
        "name,memory.total,driver_version,compute_cap",
        "name,memory.total,driver_version",
    ):
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            return parse_cards(done.stdout)
    return ()


def own_cores_and_memory() -> tuple[int, int | None]:
    """`(cores, bytes)` of this computer; None for what is not known."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    try:
        return cores, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return cores, None


def multiplies_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; False where Linux does not say."""
    try:
        words = pathlib.Path(cpuinfo).read_text().split()
    except OSError:
        return False
    return not CPU_BFLOAT16.isdisjoint(words)


def prepare(precision: str = "float32", distribute: bool = False) -> None:
    """Gets the device ready, and says on standard error what it is.

    Args:
        precision: one of `PRECISIONS`, for all models that are built from now on.
        distribute: all GPUs compute, not only the first.

    Raises:
        UserError: the first step would crash.
    """
    import keras

    inventory = take_inventory()
    print(describe(inventory), file=sys.stderr, flush=True)
    crash = why_it_would_crash(inventory, distribute)
    if crash:
        raise UserError(crash)
    for line in (why_a_card_is_idle(inventory), remark_precision(precision, inventory)):
        if line:
            print(f"note: {line}", file=sys.stderr, flush=True)
    keras.config.set_dtype_policy(precision)
    if inventory.backend == "tensorflow":
        let_memory_grow()


def let_memory_grow() -> None:
    """Makes TensorFlow take of a card's memory what it needs, and leave the rest to others."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # already in use
            tf.config.experimental.set_memory_growth(gpu, True)
