"""The weights folder of a run: one run at a time, and the same run to the end."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import filelock

from pairs.errors import UserError
from pairs.files import read_json, write_json
from pairs.network.weights_folder import (
    CHECKPOINT,
    FILES,
    MODEL,
    MODEL_PICTURE,
    PAIRS_PICTURE,
    RESULTS,
    SETTINGS,
    START,
    stage_files,
)
from pairs.photos.check import PHOTOS, Known
from pairs.photos.folds import FOLDS, MOST_FOLDS, fold_folder
from pairs.training.recipe import RECIPES
from pairs.training.settings import RESTART, check_same_run, is_same_run
from pairs.training.store_folder import remove_activations

# What a run writes. Nothing else in the folder is ever moved: it may hold weights that the
# user brought.
RUN_FILES = (
    *FILES,
    *(
        path.name
        for name in sorted({stage.name for plan in RECIPES.values() for stage in plan.stages})
        for path in stage_files(pathlib.Path(), name)
    ),
)

# Files that a command may leave if it fails before the first epoch.
BEGINNING = {START, MODEL_PICTURE, PAIRS_PICTURE, PHOTOS, FOLDS}


def check_fold_folders(folder: pathlib.Path, num_folds: int) -> None:
    """Raises a UserError if the folder of a fold holds a training of its own: it would be lost."""
    for fold in range(1, num_folds + 1):
        own = fold_folder(folder, fold)
        if (own / SETTINGS).exists():
            raise UserError(
                f"{own} holds a training of its own, and --folds would write there: choose another "
                f"--weights, or move that folder"
            )


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder for one training; the lock ends with the process.

    Raises:
        UserError: another training holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise UserError(
            f"--weights {folder}: another training writes there; wait, or choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def run_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a run in a folder, its settings first; then those of its folds."""
    folds = [fold_folder(folder, fold) for fold in range(1, MOST_FOLDS + 1)]
    # With settings of its own it is a run of its own, whatever its name.
    folds = [path for path in folds if not (path / SETTINGS).exists()]
    paths = [place / name for place in (folder, *folds) for name in RUN_FILES]
    return [path for path in paths if path.exists()]


def is_unfinished(folder: pathlib.Path) -> bool:
    """Whether the run in a folder has trained something, and has not ended."""
    files = run_files(folder)
    has_trained_folds = any(path.name == MODEL and path.parent != folder for path in files)
    # Between two folds there is no checkpoint; the results are those of all of them.
    is_between_folds = has_trained_folds and folder / RESULTS not in files
    return is_between_folds or any(path.name == CHECKPOINT for path in files)


def remove_run(folder: pathlib.Path) -> None:
    """Deletes the files of a run."""
    for path in run_files(folder):
        path.unlink()
    remove_activations(folder)


def set_aside(folder: pathlib.Path) -> None:
    """Moves the files of an earlier run, if there are any, into `run-1`, `run-2`, ...

    Its stored activations are deleted: they can be computed again. The next run writes
    over what is left of one that never began.
    """
    remark = " (its training had not ended)" if is_unfinished(folder) else ""
    files = [path.relative_to(folder) for path in run_files(folder)]
    if {path.name for path in files} <= BEGINNING:
        files = []
    number = 1
    while any((folder / f"run-{number}" / path).exists() for path in files):
        number += 1
    aside = folder / f"run-{number}"
    for path in files:
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / path, aside / path)
        if str(path) == SETTINGS:  # nothing resumes that run any more
            remove_activations(folder)
    if files:
        print(f"the run that was there: {aside}{remark}")
    for parent in {path.parent for path in files} - {pathlib.Path()}:
        with contextlib.suppress(OSError):  # what else the user keeps there stays
            (folder / parent).rmdir()
    remove_activations(folder)


def holds_run(
    folder: pathlib.Path,
    settings: dict[str, Any],
    known: dict[str, Known],
    found: dict[str, Known],
) -> bool:
    """Whether a folder holds a run with these settings, to resume.

    Args:
        folder: the weights folder.
        settings: `make_settings` of this command.
        known, found: the photos of that run, and of this command.

    Raises:
        UserError: it holds another run.
    """
    old = read_json(folder / SETTINGS, RESTART)
    if old:
        if not isinstance(old, dict) or not settings.keys() <= old.keys():
            raise UserError(f"{folder / SETTINGS}: of another version of this project; {RESTART}")
        try:
            check_same_run(folder, old, settings, known, found)
        except (TypeError, KeyError, AttributeError) as error:
            path = folder / SETTINGS
            raise UserError(f"{path}: damaged ({error!r}); {RESTART}") from error
        return True
    for path in run_files(folder):
        if path.name not in BEGINNING:
            raise UserError(
                f"{path} is not of a run that could resume (no settings.json); choose another "
                f"--weights, or {RESTART}"
            )
    return False


def check_restart(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Refuses to start over what this very command began and did not end.

    A queue of jobs repeats a command that was killed, and so do people: a night's work
    would move aside, for another run of the same.

    Args:
        folder: the weights folder.
        settings: `make_settings` of this command, which has `--restart`.
    """
    try:
        old = read_json(folder / SETTINGS) or {}
        is_same, began_anew = is_same_run(old, settings), old["flags"]["restart"]
    except (UserError, TypeError, KeyError, AttributeError):  # none, or damaged
        return
    if began_anew and is_same and is_unfinished(folder):
        raise UserError(
            f"--restart: this very command began the run in {folder}, which has not ended. Leave "
            f"--restart out to resume it, or delete {folder / SETTINGS} to start over"
        )


def write_settings(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Writes settings.json: from now on the folder holds this run."""
    write_json(folder / SETTINGS, settings)
