"""Which card computes with which packages: decisions about an `Inventory`, and what to install.

Plain functions of what is on a machine, so they can be read and tested without a
card. docs/hardware.md has the same as a table, with the sources.
"""

import dataclasses
import re

# CUDA 13, and cuDNN from 9.11 on, have no code for Maxwell, Pascal and Volta: their release notes.
FIRST_KEPT_CAPABILITY = (7, 5)
CUDNN_WITHOUT_OLD = (9, 11)
OLD_CUDNN = '"nvidia-cudnn-cu12<9.11"'
# The first driver that knows a CUDA; 580 is the last for cards below that capability.
FIRST_DRIVER = {12: 525, 13: 580}
LAST_OLD_DRIVER = 580
# TensorFlow's wheels (2.20, 2.21) hold code from here, to below there.
PASCAL, BLACKWELL = (6, 0), (10, 0)
# XLA of this TensorFlow finds no way to compute a convolution with an older cuDNN.
XLA_NEEDS_CUDNN: dict[tuple[int, ...], tuple[int, ...]] = {(2, 21): (9, 24)}
# From where half precision is faster: tensor cores; bfloat16 came with Ampere.
GAINS_FROM = {"mixed_float16": (7, 0), "mixed_bfloat16": (8, 0)}
PRECISIONS = ("float32", *GAINS_FROM)


@dataclasses.dataclass(frozen=True)
class Card:
    """An NVIDIA card as its driver lists it, whether it is used or not.

    Attributes:
        name: e.g. "NVIDIA GeForce GTX 1060 6GB".
        memory: bytes.
        capability: compute capability, e.g. `(6, 1)`; None: an old driver does
            not say.
        driver: version of the driver, e.g. "535.183.01".
        used: bytes that were in use when this process asked.
    """

    name: str
    memory: int
    capability: tuple[int, ...] | None
    driver: str
    used: int = 0


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
        cuda: the CUDA that the installed backend was built for, e.g. `(12, 5)`;
            None: for none.
        gpus: tuple of `Gpu`, those that the backend sees; it computes on the first.
        cards: tuple of `Card`, what the driver lists, whatever the backend sees.
        cudnn: version of the installed cuDNN package, e.g. "9.10.2.21"; None.
        num_cores: CPU cores that this process may use.
        memory: bytes of the computer's own memory; None: unknown.
        cpu_bfloat16: whether the CPU multiplies bfloat16 in hardware.
        openvino: version of the installed OpenVINO; None.
        code_for: compute capabilities that the backend holds code for; empty: it
            does not say.
    """

    backend: str
    version: str
    cuda: tuple[int, ...] | None
    gpus: tuple[Gpu, ...] = ()
    cards: tuple[Card, ...] = ()
    cudnn: str | None = None
    num_cores: int = 1
    memory: int | None = None
    cpu_bfloat16: bool = False
    openvino: str | None = None
    code_for: tuple[tuple[int, ...], ...] = ()


def is_old(capability: tuple[int, ...] | None) -> bool:
    """Whether new CUDA libraries have no code for it; of an unknown one (None), no."""
    return capability is not None and capability < FIRST_KEPT_CAPABILITY


def what_to_install(backend: str, capability: tuple[int, ...] | None) -> str:
    """What to type so that a card computes, preferably with a backend.

    Args:
        backend: of Keras.
        capability: compute capability of the card; None: unknown, taken for neither old nor new.
    """
    is_older = capability is not None and capability < PASCAL
    if is_older or (backend == "torch" and is_old(capability)):
        before = "" if backend == "torch" else ", and KERAS_BACKEND=torch before the command"
        return f"PyTorch 2.14 or earlier for CUDA 12.6, see its own pages{before}"
    if backend == "torch":
        return "PyTorch for CUDA 12.8 or later, see its own pages"
    if backend == "tensorflow" and is_old(capability):
        return "pip install -r requirements-gtx1060.txt, in a new environment"
    if backend == "tensorflow" and (capability is None or capability < BLACKWELL):
        return 'pip install -r requirements.txt "tensorflow[and-cuda]", in a new environment'
    packages = f'"jax[cuda12]" {OLD_CUDNN}' if is_old(capability) else '"jax[cuda12]"'
    before = ", and KERAS_BACKEND=jax before the command" if backend == "tensorflow" else ""
    return f"pip install -r requirements.txt {packages}, in a new environment{before}"


def why_it_would_crash(
    inventory: Inventory, distribute: bool = False, jit: bool = False
) -> str | None:
    """Why the first step would fail, and what to install; None if it should not.

    Args:
        inventory: what is on this machine.
        distribute: all GPUs compute, not only the first.
        jit: asked for XLA.
    """
    cudnn = version_numbers(inventory.cudnn or "")
    for gpu in inventory.gpus if distribute else inventory.gpus[:1]:
        if gpu.capability is None:
            continue
        card = f"the {gpu.name} (compute capability {dotted(gpu.capability)})"
        if lacks_code(inventory, gpu.capability):
            return (
                f"the installed {inventory.backend} {inventory.version} has no code for {card} and "
                f"fails: {what_to_install(inventory.backend, gpu.capability)}"
            )
        if cudnn >= CUDNN_WITHOUT_OLD and is_old(gpu.capability):
            return (
                f"cuDNN {inventory.cudnn} has no code for {card} and fails or crashes: pip install "
                f"{OLD_CUDNN}"
            )
    needed = XLA_NEEDS_CUDNN.get(version_numbers(inventory.version)[:2])
    is_tensorflow = inventory.backend == "tensorflow" and inventory.gpus
    if jit and is_tensorflow and cudnn and needed and cudnn < needed:
        update = f', or pip install "nvidia-cudnn-cu12>={dotted(needed)}"'
        return (
            f"--jit: XLA of tensorflow {inventory.version} fails in convolutions with cuDNN below "
            f"{dotted(needed)}, and {inventory.cudnn} is installed: leave --jit out"
            f"{'' if is_old(inventory.gpus[0].capability) else update}"
        )
    return None


def why_no_openvino(precision: str | None, inventory: Inventory) -> str | None:
    """Why `--openvino` cannot be, and what to do; None if it can, or nobody asks for it.

    Args:
        precision: "float32", "bfloat16" or None.
        inventory: what is on this machine.
    """
    if not precision:
        return None
    if inventory.backend != "tensorflow":
        return f"--openvino: KERAS_BACKEND is {inventory.backend!r}, 'tensorflow' is needed"
    if not inventory.openvino:
        return "--openvino: not installed; pip install -r requirements-cpu.txt"
    if precision == "bfloat16" and not inventory.cpu_bfloat16:
        return (
            "--openvino bfloat16: this CPU does not multiply bfloat16 in hardware (AVX512_BF16, "
            "AMX); take --openvino float32"
        )
    return None


def lacks_code(inventory: Inventory, capability: tuple[int, ...]) -> bool:
    """Whether the backend was built without code for a capability.

    Code runs on cards of the same major number. What drivers could compile for later
    ones (`compute_90` in TensorFlow's wheels) they refuse: CUDA_ERROR_INVALID_PTX.
    """
    code = inventory.code_for
    return bool(code) and not any(
        of[0] == capability[0] and of <= capability[: len(of)] for of in code
    )


def why_a_card_is_idle(inventory: Inventory) -> str | None:
    """Why the backend does not use a card that is there, and what to install; None if it does."""
    if not inventory.cards or inventory.gpus:
        return None
    card, cuda = inventory.cards[0], inventory.cuda
    install = what_to_install(inventory.backend, card.capability)
    idle = f"the {card.name} stays idle"
    if cuda is None:
        return f"{idle}: the installed {inventory.backend} has no GPU code; {install}"
    if cuda >= (13,) and is_old(card.capability):
        return f"{idle}: CUDA 13 of the installed {inventory.backend} has no code for it; {install}"
    first = FIRST_DRIVER.get(cuda[0], 0)
    if version_numbers(card.driver)[:1] < (first,):
        newest = " or later"
        if is_old(card.capability):
            newest = f" to {LAST_OLD_DRIVER}, the last for this card"
        elif card.capability is None and first < LAST_OLD_DRIVER:
            newest = f" or later (at most {LAST_OLD_DRIVER} for a GTX 10xx or older)"
        return (
            f"{idle}: driver {card.driver} is too old for CUDA {cuda[0]}; install {first}{newest}"
        )
    return f"{idle}: {inventory.backend} finds no CUDA libraries for it; {install}"


def remark_full_cards(inventory: Inventory) -> str | None:
    """That other programs fill the cards; None if half of one is left, or none is used."""
    cards = inventory.cards
    if not (cards and inventory.gpus) or any(card.used <= card.memory // 2 for card in cards):
        return None
    of_cards = "the card" if len(cards) == 1 else "every card"
    return (
        f"more than half of the memory of {of_cards} is in use by other programs, which nvidia-smi "
        f"lists: what is left may not be enough"
    )


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
    """The numbers of a version: "9.10.2.21" is `(9, 10, 2, 21)`; none of an empty one."""
    return tuple(map(int, re.findall(r"\d+", version)))


def dotted(numbers: tuple[int, ...]) -> str:
    """`(6, 1)` as "6.1"."""
    return ".".join(map(str, numbers))
