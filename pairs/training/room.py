"""Room on the disk: what a store of activations may take, and what it leaves to others."""

import pathlib
import shutil

from pairs.errors import UserError
from pairs.training.run import Run
from pairs.training.store_folder import OFF, remove_leftovers

# Left free on the disk for checkpoints and everybody else, beside what models will take.
SPARE_BYTES = 1 << 30
# A quota may leave less than the disk seems to have.
NO_ROOM = "make room, or add --cache off, and run the same command again"


def spare_bytes(run: Run) -> int:
    """What a store must leave free on the disk: for the models to come, and everybody else."""
    model_files = 2 * len(run.stages) + 1  # best and last of each stage, and the final one
    model_size = run.start_file.stat().st_size if run.start_file.is_file() else 0
    return SPARE_BYTES + (run.log.folds_left + 1) * model_files * model_size


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
