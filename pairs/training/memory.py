"""Running out of memory, said so that people know what to do."""

import contextlib
from collections.abc import Iterator

from pairs.devices.cluster import MIN_IMAGES_A_REPLICA, Cluster
from pairs.errors import UserError
from pairs.out_of_memory import is_out_of_disk, is_out_of_memory
from pairs.training.recipe import Stage


@contextlib.contextmanager
def memory_errors(stage: Stage, devices: Cluster, batch_size: int | None) -> Iterator[None]:
    """Turns running out of memory, or of disk, into a line that says what to change.

    Args:
        stage: that runs.
        devices: what trains.
        batch_size: of the training; None where batches do not depend on it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_disk(error):  # TensorBoard's
            raise UserError(
                f"no room on a disk that stage {stage.name} writes to ({error}): make room and run "
                f"the same command again"
            ) from error
        if not is_out_of_memory(error):
            raise
        share = smaller_share((batch_size or 0) // devices.num_devices, devices)
        smaller = (
            f"add --batch-size {share * devices.num_devices} and --restart"
            if share
            else "add a smaller --image-size, and --restart"
        )
        of_size = f" at batch size {batch_size}" if batch_size else ""
        raise UserError(
            f"out of memory in stage {stage.name}{of_size}: {smaller}; or, if nvidia-smi "
            f"lists other programs on the card, end them and resume (without --restart)"
        ) from error


def smaller_share(share: int, devices: Cluster) -> int | None:
    """The next number of images a device to try; None: fewer make no pairs.

    Args:
        share: images of a batch that each device has.
        devices: what trains.

    Returns:
        three quarters, a multiple of 8 if it can be.
    """
    smaller = share * 3 // 4
    if smaller >= 8:
        return smaller - smaller % 8
    smallest = MIN_IMAGES_A_REPLICA if devices.num_groups > 1 else 2
    return max(smallest, smaller) if share > smallest else None
