"""What a training runs on: looks at this machine, and says it in one line before epoch 1.

`cards.py` decides what is wrong with it.
"""

import contextlib
import functools
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pairs.devices.cards import (
    Card,
    Gpu,
    Inventory,
    dotted,
    remark_full_cards,
    remark_precision,
    version_numbers,
    why_a_card_is_idle,
    why_it_would_crash,
    why_no_openvino,
)
from pairs.devices.load_keras import load_keras
from pairs.errors import UserError

# As /proc/cpuinfo names them: what multiplies bfloat16 in hardware.
CPU_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


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


def gibibytes(size: int) -> str:
    """A memory size, human-readable: cards are sold by powers of two."""
    return f"{size / 2**30:.1f} GiB"


def parse_cards(text: str) -> tuple[Card, ...]:
    """Cards from the lines of `nvidia-smi`, see `list_cards`; others are skipped."""
    cards = []
    for line in text.splitlines():
        name, *facts = [part.strip() for part in line.split(",")]
        with contextlib.suppress(ValueError):
            memory, used, driver, *more = facts
            capability = (version_numbers(more[0]) or None) if more else None  # "[N/A]"
            in_use = int(used) << 20 if used.isdecimal() else 0
            cards.append(Card(name, int(memory) << 20, capability, driver, in_use))
    return tuple(cards)


def take_inventory() -> Inventory:
    """Looks at this machine; loads the backend.

    Raises:
        UserError: the backend is not installed or not one of ours, or it has GPU code and
            cannot begin to use a GPU.
    """
    load_keras()
    import keras

    backend = keras.backend.backend()
    look = {"tensorflow": look_at_tensorflow, "jax": look_at_jax, "torch": look_at_torch}
    if backend not in look:
        raise UserError(f"KERAS_BACKEND is {backend!r}, one of {', '.join(look)} is needed")
    cores, memory = own_cores_and_memory()
    return Inventory(
        backend=backend,
        cards=() if wants_no_gpu(backend) else first_list_of_cards(),
        cudnn=package_version("nvidia-cudnn-cu12") or package_version("nvidia-cudnn-cu13"),
        num_cores=cores,
        memory=memory,
        cpu_bfloat16=multiplies_bfloat16(),
        openvino=package_version("openvino"),
        **look[backend](),
    )


def look_at_tensorflow() -> dict[str, Any]:
    """What TensorFlow says of itself and its GPUs: attributes of `Inventory`."""
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    found = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    cuda = build.get("cuda_version") if tf.test.is_built_with_cuda() else None
    return {
        "version": tf.__version__,
        "cuda": version_numbers(cuda) if cuda else None,
        "gpus": tuple(
            Gpu(each.get("device_name", "GPU"), each.get("compute_capability")) for each in found
        ),
        "code_for": parse_code(build.get("cuda_compute_capabilities", [])),
    }


def look_at_jax() -> dict[str, Any]:
    """The same of JAX, which does not say what it was built for."""
    import jax

    plugins = [number for number in (13, 12) if package_version(f"jax-cuda{number}-plugin")]
    return {
        "version": jax.__version__,
        "cuda": (plugins[0],) if plugins else None,
        "gpus": tuple(
            Gpu(each.device_kind, version_numbers(getattr(each, "compute_capability", "")) or None)
            for each in devices_of_jax(jax.local_devices)
            if each.platform == "gpu"
        ),
    }


def look_at_torch() -> dict[str, Any]:
    """The same of PyTorch."""
    import torch

    numbers = range(torch.cuda.device_count())
    return {
        "version": torch.__version__,
        "cuda": version_numbers(torch.version.cuda) if torch.version.cuda else None,
        "gpus": tuple(
            Gpu(torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number))
            for number in numbers
        ),
        "code_for": parse_code(torch.cuda.get_arch_list()),
    }


def devices_of_jax(ask: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    """What `jax.devices` or `jax.local_devices` says.

    Raises:
        UserError: it has GPU code and cannot begin to use a GPU. JAX does not go on
            without, as TensorFlow does.
    """
    try:
        return ask()
    except (RuntimeError, AssertionError) as error:  # the latter without CUDA's plugin
        reason = (str(error) or "it does not say why").splitlines()[0]
        raise UserError(
            f"jax cannot use the GPU ({reason}): does nvidia-smi list the card, and is enough of "
            f"its memory free? JAX_PLATFORMS=cpu before the command computes on the CPU"
        ) from error


def parse_code(names: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """Compute capabilities of "sm_86", "compute_120" and the like: `((8, 6), (12, 0))`."""
    found = [re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[af]?", name) for name in names]
    return tuple((int(each[1]), int(each[2])) for each in found if each)


def package_version(name: str) -> str | None:
    """The version of an installed package; None where it is not there."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def wants_no_gpu(backend: str) -> bool:
    """Whether the environment hides all cards, as people or a cluster's queue have chosen."""
    if backend == "jax" and (platforms := os.environ.get("JAX_PLATFORMS")):
        return not {"cuda", "gpu"} & set(platforms.split(","))
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    # A number, or an identity; what CUDA does not know hides all that follows.
    return not (first.isdecimal() or first.startswith(("GPU-", "MIG-")))


def list_cards() -> tuple[Card, ...]:
    """The cards that NVIDIA's driver lists; none where there is no driver."""
    # Drivers before 510 refuse the whole question for its last word.
    for fields in (
        "name,memory.total,memory.used,driver_version,compute_cap",
        "name,memory.total,memory.used,driver_version",
    ):
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            return parse_cards(done.stdout)
    return ()


@functools.cache
def first_list_of_cards() -> tuple[Card, ...]:
    """`list_cards`, asked once: later this process uses memory of the cards itself."""
    return list_cards()


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


def prepare(
    precision: str = "float32",
    distribute: bool = False,
    jit: bool = False,
    openvino: str | None = None,
) -> Inventory:
    """Gets the device ready, and says on standard error what it is.

    Args:
        precision: one of `cards.PRECISIONS`, for all models that are built from now on.
        distribute: all GPUs compute, not only the first.
        jit: compile with XLA.
        openvino: "float32" or "bfloat16", if OpenVINO is asked for.

    Returns:
        what is on this machine.

    Raises:
        UserError: the first step would crash, or a flag cannot be had here.
    """
    inventory = take_inventory()
    print(describe(inventory), file=sys.stderr, flush=True)
    crash = why_it_would_crash(inventory, distribute, jit)
    refused = crash or why_no_openvino(openvino, inventory)
    if refused:
        raise UserError(refused)
    if jit and inventory.backend == "jax":
        raise UserError("--jit: JAX compiles with XLA anyway; leave --jit out")
    remarks = [why_a_card_is_idle(inventory), remark_precision(precision, inventory)]
    if openvino and inventory.gpus:
        remarks.append("--openvino computes on the CPU, not on the GPU")
    if not distribute:  # else processes of this very training are among the others
        remarks.append(remark_full_cards(inventory))
    for line in filter(None, remarks):
        print(f"note: {line}", file=sys.stderr, flush=True)
    import keras

    keras.config.set_dtype_policy(precision)
    if inventory.backend == "tensorflow":
        let_memory_grow()
    return inventory


def let_memory_grow() -> None:
    """Makes TensorFlow take of a card's memory what it needs, and leave the rest to others."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # already in use
            tf.config.experimental.set_memory_growth(gpu, True)
