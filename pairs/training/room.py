"""Room on the disk: what models will take, and what a store of activations may take beside."""

import pathlib
import shutil
from collections.abc import Sequence

from pairs.errors import UserError
from pairs.training.recipe import Stage
from pairs.training.run import Run
from pairs.training.store_folder import OFF, remove_leftovers

# Left free on the disk for checkpoints and everybody else, beside what models will take.
SPARE_BYTES = 1 << 30
# Of model sizes: all weights, those of the best epoch, and the optimizer's.
CHECKPOINT_SIZE = 3
# A quota may leave less than the disk seems to have.
NO_ROOM = "make room, or add --cache off, and run the same command again"


def spare_bytes(run: Run) -> int:
    """What a store must leave free on the disk: for the models to come, and everybody else."""
    model_size = run.start_file.stat().st_size if run.start_file.is_file() else 0
    return SPARE_BYTES + (run.log.folds_left + 1) * count_files(run.stages) * model_size


def check_models_fit(
    folder: pathlib.Path, stages: Sequence[Stage], num_models: int, size: int
) -> None:
    """Looks, before a training begins, whether its models and a checkpoint will have room.

    Args:
        folder: for them.
        stages: of each model.
        num_models: 1, or that of the folds.
        size: of a model file, in bytes.

    Raises:
        UserError: they will not; else the disk would be full hours later.
    """
    needed = (num_models * count_files(stages) + CHECKPOINT_SIZE) * size
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the models of this training will take {gigabytes(needed)}, "
            f"{gigabytes(free)} are free; make room and run the same command again"
        )


def count_files(stages: Sequence[Stage]) -> int:
    """How many model files are written of a model: best and last of each stage, and the final."""
    return 2 * len(stages) + 1


def has_room(folder: pathlib.Path, size: int, spare: int) -> bool:
    """Whether the disk of a folder has room for so many bytes, and others stay free."""
    return size + spare <= shutil.disk_usage(folder).free


def decide(run: Run, store: pathlib.Path, what: str, missing: int) -> None:
    """Decides, and says, whether there is room for a store; makes its folder if so.

    A run that resumes decides as it did, whatever is free now: the same bits.

    Args:
        run: the training.
        store: its folder; may be there in part.
        what: human-readable.
        missing: bytes that are not there yet.

    Raises:
        UserError: there was room when the run began, and is no more.
    """
    folder = store.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not missing:
        print(f"{what}: there already")
        return
    remove_leftovers(folder)  # they would count as used
    free, spare = shutil.disk_usage(folder).free, spare_bytes(run)
    needed = f"{gigabytes(missing)} needed and {gigabytes(spare)} for all else"
    computed_anew = store.with_suffix(OFF)
    if computed_anew.exists():
        print(f"{what}: not stored but computed in every epoch, as decided when there was no room")
    elif has_room(folder, missing, spare):
        print(f"{what}: {gigabytes(missing)} of {gigabytes(free)} free: computed once and stored")
        store.mkdir(exist_ok=True)
    elif store.is_dir():
        raise UserError(f"{what}: {needed}, {gigabytes(free)} free; {NO_ROOM}")
    else:
        computed_anew.touch()
        half = " (--cache float16 takes half)" if run.cache == "float32" else ""
        print(
            f"{what}: {needed}, {gigabytes(free)} free: not stored but computed in every "
            f"epoch{half}"
        )


def gigabytes(size: int) -> str:
    """A number of bytes, human-readable."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
