"""The weights folder of a run: one run at a time, and the same run to the end.

`settings.json` says what the run depends on. The same command finds it and
resumes; another recipe, data set or class list is refused, with the difference.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import filelock

from pairs.devices.cluster import Cluster
from pairs.errors import UserError
from pairs.files import read_json, write_json
from pairs.network import trunks
from pairs.photos import fit
from pairs.photos.check import PHOTOS, Known, fingerprint, readable
from pairs.photos.folds import FOLDS, MOST_FOLDS, fold_folder
from pairs.photos.read import SIDES
from pairs.training import recipe
from pairs.training.recipe import RECIPES, Stage

PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy", "pillow")
RESTART = "start over with --restart, which keeps the old run in a folder of its own"
# Flags that change no result, or are compared as what they lead to.
NOT_COMPARED = (
    *("data", "demo", "distribute", "epochs", "restart", "tensorboard", "weights", "workers"),
)
# What runs did that began before there was such a flag.
BEFORE_FLAGS = {"fit": fit.SQUASH, "balance": False}
# Its folder of stored activations, see `activation_store`.
ACTIVATIONS = "activations"
# What a run writes. Nothing else in the folder is ever moved: it may hold
# weights that the user brought.
RUN_FILES = (
    "settings.json",  # first: without it nothing resumes what is half moved
    "checkpoint.npz",
    "start.keras",
    *(
        f"{name}-{which}.keras"
        for name in sorted({stage.name for stages in RECIPES.values() for stage in stages})
        for which in ("best", "last")
    ),
    "model.keras",
    "model.png",
    "pairs.png",
    "curves.png",
    "log.csv",
    "times.csv",
    "results.json",
    "held_out.npz",
    "similarity.npz",
    "out_of_fold.csv",
    PHOTOS,
    FOLDS,
    "calibration.json",
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
    """The files of a run in a folder, in the order of `RUN_FILES`; then those of its folds."""
    folds = [fold_folder(folder, fold) for fold in range(1, MOST_FOLDS + 1)]
    # With settings of its own it is a run of its own, whatever its name.
    folds = [path for path in folds if not (path / RUN_FILES[0]).exists()]
    paths = [place / name for place in (folder, *folds) for name in RUN_FILES]
    return [path for path in paths if path.exists()]


def remove_run(folder: pathlib.Path) -> None:
    """Deletes the files of a run."""
    for path in run_files(folder):
        path.unlink()
    remove_activations(folder)


def remove_activations(folder: pathlib.Path) -> None:
    """Deletes the stored activations of a run, and what was decided about them."""
    shutil.rmtree(folder / ACTIVATIONS, ignore_errors=True)


def set_aside(folder: pathlib.Path) -> None:
    """Moves the files of an earlier run, if there are any, into `run-1`, `run-2`, ...

    Its stored activations are deleted: they can be computed again.
    """
    files = [path.relative_to(folder) for path in run_files(folder)]
    number = 1
    while any((folder / f"run-{number}" / path).exists() for path in files):
        number += 1
    aside = folder / f"run-{number}"
    for path in files:
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / path, aside / path)
        if str(path) == RUN_FILES[0]:  # nothing resumes that run any more
            remove_activations(folder)
    for parent in {path.parent for path in files} - {pathlib.Path()}:
        with contextlib.suppress(OSError):  # what else the user keeps there stays
            (folder / parent).rmdir()
    remove_activations(folder)


def installed_versions() -> dict[str, str]:
    """The version of each package of `PACKAGES` that is installed."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def make_settings(
    flags: dict[str, Any],
    stages: list[Stage],
    devices: Cluster,
    typeids: list[str],
    found: dict[str, Known],
) -> dict[str, Any]:
    """What a run depends on, as JSON writes it.

    Args:
        flags: of the command line, by name.
        stages: the plan.
        devices: what trains.
        typeids: the classes in the order of their labels.
        found: what `check.check_sides` found on each side.
    """
    return {
        "flags": flags,
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "constants": {**constants(devices), **constants_of(flags)},
        "typeids": typeids,
        "data": {side: fingerprint(photos) for side, photos in found.items()},
        "photos": {side: len(readable(photos)) for side, photos in found.items()},
        "versions": installed_versions(),
    }


def constants(devices: Cluster) -> dict[str, Any]:
    """What decides a result beside flags and stages, as JSON writes it."""
    import keras  # takes seconds

    return {
        "backend": keras.backend.backend(),
        "augmentation": recipe.AUGMENTATION,
        "plateau": recipe.PLATEAU,
        **({"groups of a batch": devices.num_groups} if devices.num_groups > 1 else {}),
        "resampling": fit.RESAMPLING.name,
        "dropout": recipe.DROPOUT,
        "loss weights": recipe.LOSS_WEIGHTS,
    }


def constants_of(flags: dict[str, Any]) -> dict[str, Any]:
    """The same, of the run's own trunk and recipe."""
    trunk = trunks.TRUNKS[flags["trunk"]]
    found: dict[str, Any] = {"input scale": list(trunk.input_scale), "unfreezing": trunk.blocks}
    if flags.get("recipe") in recipe.ALL_PAIRS and flags["loss"] == "paired":
        found["weight of all pairs"] = recipe.ALL_PAIRS_WEIGHT
    if flags.get("recipe") == "night":
        found["upper half"] = trunk.half
    return found


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
    old = read_json(folder / "settings.json", RESTART)
    if old:
        if not isinstance(old, dict) or not settings.keys() <= old.keys():
            raise UserError(
                f"{folder / 'settings.json'}: of another version of this project; {RESTART}"
            )
        check_same_run(folder, old, settings, known, found)
        return True
    for path in run_files(folder):
        # A new run that was killed at once may have left a start.keras and pictures.
        is_result = path.name.endswith(("-best.keras", "-last.keras"))
        is_result |= path.name in ("checkpoint.npz", "results.json", "model.keras")
        if is_result:
            raise UserError(
                f"{path} is not of a run that could resume (no settings.json); choose another "
                f"--weights, or {RESTART}"
            )
    return False


def write_settings(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Writes settings.json: from now on the folder holds this run."""
    write_json(folder / "settings.json", settings)


def check_same_run(
    folder: pathlib.Path,
    old: dict[str, Any],
    new: dict[str, Any],
    known: dict[str, Known],
    found: dict[str, Known],
) -> None:
    """Refuses to resume with other settings.

    Args:
        folder: the weights folder.
        old: settings of the run in it.
        new: settings of this command.
        known, found: the photos of both.

    Raises:
        UserError: spells out every difference.
    """
    flags = {**BEFORE_FLAGS, **old["flags"]}
    differences = [
        f"--{name.replace('_', '-')} was {given(flags.get(name))}, is {given(value)}"
        for name, value in new["flags"].items()
        if name not in NOT_COMPARED and flags.get(name) != value
    ]
    cache = flags.get("cache")
    if new["flags"].get("cache") == "off" != cache:
        # The way out where a quota leaves no room: what is stored can be computed.
        differences = [words for words in differences if not words.startswith("--cache ")]
        print(f"note: --cache was {cache}, is off: results may differ in the last digits")
    differences += stage_differences(old["stages"], new["stages"])
    was, is_now = dict(old["constants"]), new["constants"]
    for name, numbered in trunks.NUMBERED.items():  # of a run of an earlier version
        if was.get(name) == numbered:
            was[name] = trunks.NAMED[name].get(old["flags"].get("trunk"))
    differences += [
        f"{name} was {was.get(name)}, is {is_now.get(name)}"
        for name in sorted(was.keys() | is_now.keys())
        if was.get(name) != is_now.get(name)
    ]
    if old["typeids"] != new["typeids"]:
        differences.append(f"classes {list_changes(old['typeids'], new['typeids'])}")
    for side in SIDES:
        if old["data"][side] != new["data"][side]:
            differences.append(
                f"{side} photos {list_changes(readable(known[side]), readable(found[side]))}"
            )
    if differences:
        raise UserError(
            f"--weights {folder} holds a run with other settings: {'; '.join(differences)}. "
            f"Undo that to resume it, choose another --weights, or {RESTART}"
        )
    changed = {
        name: (old["versions"].get(name), version)
        for name, version in new["versions"].items()
        if old["versions"].get(name) != version
    }
    for name, (before, now) in changed.items():
        print(f"note: {name} was {before}, is {now}: results may differ in the last digits")


def given(value: Any) -> Any:
    """The value of a flag, human-readable."""
    return "not given" if value is None else value


def stage_differences(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """How two training plans differ, one phrase a difference."""
    was, now = ({stage["name"]: stage for stage in stages} for stages in (old, new))
    differences = [f"stage {name} was skipped" for name in now if name not in was]
    differences += [f"stage {name} is skipped" for name in was if name not in now]
    for name in was.keys() & now.keys():
        differences += [
            f"{key} of stage {name} was {was[name].get(key)}, is {value}"
            for key, value in now[name].items()
            if was[name].get(key) != value
        ]
    return sorted(differences)


def list_changes(old: Any, new: Any) -> str:
    """What is new, gone or changed between two lists, or two dicts, in words."""
    changes = {
        "added": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
    }
    if isinstance(old, dict):
        changes["changed"] = [name for name in new if name in old and old[name] != new[name]]
    words = [f"{len(names)} {what} (e.g. {names[0]!r})" for what, names in changes.items() if names]
    return ", ".join(words) or "in another order"
