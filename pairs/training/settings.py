"""What the result of a run depends on, and whether a command would continue it.

`settings.json` of a weights folder holds it. Another recipe, data set or class list
is refused, with the difference.
"""

import dataclasses
import pathlib
from typing import Any

from pairs.devices.cluster import Cluster
from pairs.devices.inventory import package_version
from pairs.errors import UserError
from pairs.network import trunks
from pairs.photos import fit
from pairs.photos.check import Known, fingerprint, readable
from pairs.photos.find import SIDES
from pairs.training import recipe
from pairs.training.flags import make_parser
from pairs.training.recipe import Stage

PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "openvino", "numpy", "pillow")
RESTART = "start over with --restart, which keeps the old run in a folder of its own"
# Flags that change no result, or are compared as what they lead to.
NOT_COMPARED = (
    "data",
    "demo",
    "distribute",
    "epochs",
    "restart",
    "tensorboard",
    "weights",
    "workers",
)
UNFREEZING = "unfreezing"
# A constant that only some recipes have.
OF_ALL_PAIRS = "weight of all pairs"


def installed_versions() -> dict[str, str]:
    """The version of each package of `PACKAGES` that is installed."""
    return {name: version for name in PACKAGES if (version := package_version(name))}


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
    found: dict[str, Any] = {"input scale": list(trunk.input_scale), UNFREEZING: trunk.blocks}
    if recipe.RECIPES[flags["recipe"]].all_pairs and flags["loss"] == "paired":
        found[OF_ALL_PAIRS] = recipe.ALL_PAIRS_WEIGHT
    return found


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
        UserError: spells out every difference; of another recipe only its name.
    """
    # A run that began before there was a flag did what is its default now.
    flags = {**vars(make_parser().parse_args([])), **old["flags"]}
    ignored = set(NOT_COMPARED)
    cache = flags.get("cache")
    if new["flags"].get("cache") == "off" and cache != "off":
        # The way out where a quota leaves no room: what is stored can be computed.
        ignored.add("cache")
        print(f"note: --cache was {cache}, is now off: results may differ in the last digits")
    differences = [
        f"--{name.replace('_', '-')} was {given(flags.get(name))}, is now {given(value)}"
        for name, value in new["flags"].items()
        if name not in ignored and flags.get(name) != value
    ]
    was, is_now = dict(old["constants"]), dict(new["constants"])
    if flags.get("recipe") == new["flags"].get("recipe"):
        differences += stage_differences(old["stages"], new["stages"])
    else:  # all stages differ, and what is of one recipe only
        was.pop(OF_ALL_PAIRS, None)
        is_now.pop(OF_ALL_PAIRS, None)
    differences += [
        f"{name} was {was.get(name)}, is now {is_now.get(name)}"
        for name in sorted(was.keys() | is_now.keys())
        if was.get(name) != is_now.get(name)
    ]
    if old["typeids"] != new["typeids"]:
        differences.append(f"classes {list_changes(old['typeids'], new['typeids'])}")
    # Of folds both sides are one: sorted anew, photos may have changed sides.
    is_same_pool = bool(flags.get("folds")) and pooled(known) == pooled(found)
    for side in SIDES:
        if old["data"][side] != new["data"][side] and not is_same_pool:
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
        print(f"note: {name} was {before}, is now {now}: results may differ in the last digits")


def is_same_run(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two settings lead to the same results.

    Raises:
        TypeError, KeyError, AttributeError: one of them is damaged.
    """
    parts = ("stages", "constants", "typeids", "data")
    flags = [
        {name: value for name, value in each["flags"].items() if name not in NOT_COMPARED}
        for each in (old, new)
    ]
    return flags[0] == flags[1] and all(old[part] == new[part] for part in parts)


def pooled(found: dict[str, Known]) -> list[tuple[str, str]]:
    """Name and digest of the readable photos of all sides."""
    return sorted(item for photos in found.values() for item in readable(photos).items())


def given(value: Any) -> Any:
    """The value of a flag, human-readable."""
    if value is None or value is False:
        return "not given"
    return "given" if value is True else value


def stage_differences(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """How two training plans differ, one phrase a difference."""
    defaults = {field.name: field.default for field in dataclasses.fields(Stage)}
    was, now = ({stage["name"]: {**defaults, **stage} for stage in stages} for stages in (old, new))
    differences = [f"stage {name} was skipped" for name in now if name not in was]
    differences += [f"stage {name} is skipped" for name in was if name not in now]
    for name in was.keys() & now.keys():
        differences += [
            f"{key} of stage {name} was {was[name][key]}, is now {value}"
            for key, value in now[name].items()
            if was[name][key] != value
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
