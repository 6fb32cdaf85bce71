"""Room on the disk: what models will take, and what a store of activations may take beside."""

import pathlib
import shutil

from pairs.errors import UserError
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
    return SPARE_BYTES + models_to_come(run) * model_size(run)


def check_models_fit(run: Run) -> None:
    """Looks, before the first epoch, whether models and checkpoint will have room.

    Raises:
        UserError: they will not; else the disk would be full hours later.
    """
    needed = (models_to_come(run) + CHECKPOINT_SIZE) * model_size(run)
    free = shutil.disk_usage(run.home).free
    if needed > free:
        raise UserError(
            f"{run.home}: the models of this training will take {gigabytes(needed)}, "
            f"{gigabytes(free)} are free; make room and run the same command again"
        )


def models_to_come(run: Run) -> int:
    """How many model files this model and those of later folds will write."""
    each = 2 * len(run.stages) + 1  # best and last of each stage, and the final one
    return (run.log.folds_left + 1) * each


def model_size(run: Run) -> int:
    """The size of a model file in bytes; 0 if the first one is gone."""
    return run.start_file.stat().st_size if run.start_file.is_file() else 0


def has_room(folder: pathlib.Path, size: int, spare: int) -> bool:
    """Whether a disk has room for so many bytes, and others stay free; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)  # which may be a link to another disk
    return size + spare <= shutil.disk_usage(folder).free


def decide(store: pathlib.Path, what: str, missing: int, spare: int) -> None:
    """Decides, and says, whether there is room for a store; makes its folder if so.

    A run that resumes decides as it did, whatever is free now: the same bits.

    Args:
        store: its folder; may be there in part.
        what: human-readable.
        missing: bytes that are not there yet.
        spare: `spare_bytes`.

    Raises:
        UserError: there was room when the run began, and is no more.
    """
    folder = store.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not missing:
        print(f"{what}: there already")
        return
    remove_leftovers(folder)  # they would count as used
    free = shutil.disk_usage(folder).free
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
        half = " (--cache float16 takes half)" if what.endswith("float32") else ""
        print(
            f"{what}: {needed}, {gigabytes(free)} free: not stored but computed in every "
            f"epoch{half}"
        )


def gigabytes(size: int) -> str:
    """A number of bytes, human-readable."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
