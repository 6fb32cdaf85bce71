"""Running out of memory, said so that people know what to do."""

import contextlib
from collections.abc import Iterator

from pairs.devices.memory import is_out_of_memory
from pairs.errors import UserError
from pairs.training.recipe import Stage


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


def next_batch_size(batch_size: int) -> int:
    """Three quarters of a batch size, a multiple of 8 if it can be, at least 2."""
    smaller = batch_size * 3 // 4
    return smaller - smaller % 8 if smaller >= 8 else max(2, smaller)
