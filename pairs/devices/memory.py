"""How the backends say that memory, or the disk, ran out."""

import errno
import os

# How the backends name it, and what stands in XLA's messages: seen on a full H200.
OUT_OF_MEMORY = {"ResourceExhaustedError", "OutOfMemoryError", "MemoryError"}
IN_WORDS = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "LAUNCH_OUT_OF_RESOURCES")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of any backend says that memory ran out."""
    if is_out_of_disk(error):  # TensorFlow's name for both is the same
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & OUT_OF_MEMORY) or any(words in str(error) for words in IN_WORDS)


def is_out_of_disk(error: Exception) -> bool:
    """Whether an exception of any backend says that the disk, or a quota, is full."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
