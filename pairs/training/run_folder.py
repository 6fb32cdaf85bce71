"""The weights folder of a run: one run at a time, and the same run to the end.

`settings.json` says what the run depends on. The same command finds it and goes
on; another recipe, data set or class list is refused, with the difference.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import shutil

import filelock

from pairs.command_line import UserError
from pairs.files import write_text
from pairs.photos.check import fingerprint, readable
from pairs.training.recipe import RECIPES

PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy", "pillow")
# Flags that change no result, or are compared as what they lead to.
NOT_COMPARED = (
    *("data", "demo", "distribute", "epochs", "restart", "tensorboard", "weights", "workers"),
)
# Its folder of stored activations, see `activation_store`.
ACTIVATIONS = "activations"
# What a run writes. Nothing else in the folder is ever moved: it may hold
# weights that the user brought.
RUN_FILES = (
    "settings.json",  # first: without it nothing goes on with what is half moved
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
    "photos.json",
    "calibration.json",
)


@contextlib.contextmanager
def locked(folder):
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


def run_files(folder):
    """The files of a run in a folder, in the order of `RUN_FILES`."""
    return [folder / name for name in RUN_FILES if (folder / name).exists()]


def remove_run(folder):
    """Deletes the files of a run."""
    for path in run_files(folder):
        path.unlink()
    remove_activations(folder)


def remove_activations(folder):
    """Deletes the stored activations of a run, and what was decided about them."""
    shutil.rmtree(folder / ACTIVATIONS, ignore_errors=True)


def set_aside(folder):
    """Moves the files of an earlier run, if there are any, into `run-1`, `run-2`, ...

    Its stored activations are deleted: they can be computed again.
    """
    files = run_files(folder)
    number = 1
    while any((folder / f"run-{number}" / path.name).exists() for path in files):
        number += 1
    aside = folder / f"run-{number}"
    for path in files:
        aside.mkdir(exist_ok=True)
        os.replace(path, aside / path.name)
        if path.name == RUN_FILES[0]:  # nothing goes on with that run any more
            remove_activations(folder)
    remove_activations(folder)


def installed_versions():
    """dict from each package of `PACKAGES` that is installed to its version."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def make_settings(args, stages, constants, typeids, found):
    """What a run depends on, as JSON writes it.

    Args:
        args: `train.parse_args()`.
        stages: list of `recipe.Stage`.
        constants: dict of what else decides the result, see `stage.constants`.
        typeids: list of str.
        found: dict of side ("train", "valid") to what `check_photos` found.
    """
    return {
        "flags": vars(args),
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "constants": constants,
        "typeids": typeids,
        "data": {side: fingerprint(photos) for side, photos in found.items()},
        "photos": {side: len(readable(photos)) for side, photos in found.items()},
        "versions": installed_versions(),
    }


def holds_run(folder, settings, known, found):
    """Whether a folder holds a run with these settings, to go on with.

    Args:
        folder: the weights folder.
        settings: `make_settings` of this command.
        known, found: the photos of that run, and of this command.

    Raises:
        UserError: it holds another run.
    """
    old = read_json(folder / "settings.json")
    if old:
        if not isinstance(old, dict) or not settings.keys() <= old.keys():
            raise UserError(
                f"{folder / 'settings.json'}: of another version of this project; "
                f"--restart begins anew and keeps that run aside"
            )
        check_same_run(folder, old, settings, known, found)
        return True
    for name in ("checkpoint.npz", "results.json", "model.keras"):
        if (folder / name).exists():
            raise UserError(
                f"{folder / name} is not of a run that could go on (no settings.json); choose "
                f"another --weights, or --restart keeps it aside"
            )
    return False


def write_settings(folder, settings):
    """Writes settings.json: from now on the folder holds this run."""
    write_json(folder / "settings.json", settings)


def read_photos(folder):
    """What an earlier check found: dict of side to paths and facts, maybe empty."""
    return {"train": {}, "valid": {}, **read_json(folder / "photos.json")}


def write_photos(folder, found):
    """Remembers what a check found."""
    write_text(folder / "photos.json", json.dumps(found) + "\n")


def read_json(path):
    """The content of a JSON file, or {} where there is none.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); --restart begins anew") from error


def write_json(path, content):
    """Writes JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def check_same_run(folder, old, new, known, found):
    """Refuses to go on with other settings.

    Args:
        folder: the weights folder.
        old: settings of the run in it.
        new: settings of this command.
        known, found: the photos of both.

    Raises:
        UserError: spells out every difference.
    """
    differences = [
        f"--{name.replace('_', '-')} was {old['flags'].get(name)}, is {value}"
        for name, value in new["flags"].items()
        if name not in NOT_COMPARED and old["flags"].get(name) != value
    ]
    cache = old["flags"].get("cache")
    if new["flags"].get("cache") == "off" != cache:
        # The way out where a quota leaves no room: what is stored can be computed.
        differences = [words for words in differences if not words.startswith("--cache ")]
        print(f"note: --cache was {cache}, is off: results may differ in the last digits")
    differences += stage_differences(old["stages"], new["stages"])
    was, is_now = old["constants"], new["constants"]
    differences += [
        f"{name} was {was.get(name)}, is {is_now.get(name)}"
        for name in sorted(was.keys() | is_now.keys())
        if was.get(name) != is_now.get(name)
    ]
    if old["typeids"] != new["typeids"]:
        differences.append(f"classes {list_changes(old['typeids'], new['typeids'])}")
    for side in ("train", "valid"):
        if old["data"][side] != new["data"][side]:
            differences.append(
                f"{side} photos {list_changes(readable(known[side]), readable(found[side]))}"
            )
    if differences:
        raise UserError(
            f"--weights {folder} holds a run with other settings: {'; '.join(differences)}. "
            f"Undo that to go on with it, choose another --weights, or begin anew with --restart "
            f"(the old run is kept aside)"
        )
    changed = {
        name: (old["versions"].get(name), version)
        for name, version in new["versions"].items()
        if old["versions"].get(name) != version
    }
    for name, (before, now) in changed.items():
        print(f"note: {name} was {before}, is {now}: results may differ in the last digits")


def stage_differences(old, new):
    """How two training plans differ, one phrase a difference."""
    old, new = ({stage["name"]: stage for stage in stages} for stages in (old, new))
    differences = [f"stage {name} was left out" for name in new if name not in old]
    differences += [f"stage {name} is left out" for name in old if name not in new]
    for name in old.keys() & new.keys():
        differences += [
            f"{key} of stage {name} was {old[name].get(key)}, is {value}"
            for key, value in new[name].items()
            if old[name].get(key) != value
        ]
    return sorted(differences)


def list_changes(old, new):
    """What is new, gone or changed between two lists, or two dicts, in words."""
    changes = {
        "added": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
    }
    if isinstance(old, dict):
        changes["changed"] = [name for name in new if name in old and old[name] != new[name]]
    words = [f"{len(names)} {what} (e.g. {names[0]!r})" for what, names in changes.items() if names]
    return ", ".join(words) or "in another order"
