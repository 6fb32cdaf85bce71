"""Running out of memory, said so that people know what to do."""

import contextlib
from collections.abc import Iterator

from pairs.errors import UserError
from pairs.training.recipe import Stage

# How the backends name it, and what stands in XLA's messages: seen on a full H200.
OUT_OF_MEMORY = {"ResourceExhaustedError", "OutOfMemoryError", "MemoryError"}
IN_WORDS = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "LAUNCH_OUT_OF_RESOURCES")


@contextlib.contextmanager
def memory_errors(stage: Stage, batch_size: int | None) -> Iterator[None]:
    """Turns running out of memory into a line that says what to change.

    Args:
        stage: that runs.
        batch_size: of the training; None where batches do not depend on it.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        smaller = (
            f"add --batch-size {next_batch_size(batch_size)} and --restart"
            if batch_size and batch_size > 2
            else "add a smaller --image-size, and --restart"
        )
        of_size = f" at batch size {batch_size}" if batch_size else ""
        raise UserError(
            f"out of memory in stage {stage.name}{of_size}: {smaller}; or, if nvidia-smi "
            f"lists other programs on the card, end them and resume (without --restart)"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of any backend says that memory ran out."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & OUT_OF_MEMORY) or any(words in str(error) for words in IN_WORDS)


def next_batch_size(batch_size: int) -> int:
    """Three quarters of a batch size, a multiple of 8 if it can be, at least 2."""
    smaller = batch_size * 3 // 4
    return smaller - smaller % 8 if smaller >= 8 else max(2, smaller)
