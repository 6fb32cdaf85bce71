"""How the backends say that memory, or the disk, ran out."""

import contextlib
import errno
import os
from collections.abc import Iterator

from pairs.errors import UserError

# How the backends name it, and what stands in XLA's messages: seen on a full H200.
OUT_OF_MEMORY = {"ResourceExhaustedError", "OutOfMemoryError", "MemoryError"}
IN_WORDS = (
    *("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "LAUNCH_OUT_OF_RESOURCES"),
    *("OOM when allocating", "failed to allocate memory", "Dst tensor is not initialized"),
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of any backend says that memory ran out."""
    if is_out_of_disk(error):  # TensorFlow's name for both is the same
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & OUT_OF_MEMORY) or any(words in str(error) for words in IN_WORDS)


def raise_if_out_of_memory(error: Exception) -> None:
    """Raises a UserError if a model could not be made or loaded for lack of memory."""
    if is_out_of_memory(error):
        raise UserError(
            "out of memory while a model was made or loaded: end other programs (on a GPU those "
            "that nvidia-smi lists) and run the same command again"
        ) from error


@contextlib.contextmanager
def memory_for(num_photos: int) -> Iterator[None]:
    """Raises a UserError if a model that is asked about some photos runs out of memory."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if num_photos == 1:
            raise UserError(
                "out of memory with one photo: end other programs (on a GPU those that nvidia-smi "
                "lists), or train with a smaller --image-size"
            ) from error
        raise UserError(
            f"out of memory with {num_photos} photos at once: use a smaller --batch-size, or, if "
            f"nvidia-smi lists other programs on the card, end them"
        ) from error


def is_out_of_disk(error: Exception) -> bool:
    """Whether an exception of any backend says that the disk, or a quota, is full."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
