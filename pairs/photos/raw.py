"""The folder of raw photos, `typeid_hash.jpg`: what is there, and what of it can be used."""

import os
import pathlib
from collections.abc import Iterable

from tqdm import tqdm

from pairs.errors import UserError
from pairs.photos.check import Inspection, inspect_photo
from pairs.photos.find import PHOTO_SUFFIXES, is_hidden, why_not_a_typeid
from pairs.photos.read import read_ahead

# A file name, and why it is skipped.
Skipped = tuple[str, str]


def read_raw(raw: str | pathlib.Path) -> tuple[dict[str, list[str]], list[Skipped]]:
    """Groups the photos of a folder by typeid.

    Args:
        raw: folder of `typeid_hash.jpg` files.

    Returns:
        `(classes, skipped)`: a dict from typeid to its file names in sorted
        order, and a list of `(file name, reason)` for everything that, by its
        name, is none.

    Raises:
        UserError: `raw` is no folder.
    """
    if not pathlib.Path(raw).is_dir():
        raise UserError(f"--raw {raw}: no such folder; it should hold typeid_hash.jpg files")
    names: list[str] = []
    skipped: list[Skipped] = []
    with os.scandir(raw) as entries:
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
            reason = why_not_a_photo(entry)
            if reason:
                skipped.append((entry.name, reason))
            else:
                names.append(entry.name)
    return group_by_typeid(names), skipped


def typeid_of(name: str) -> str:
    """The typeid in the name of a raw photo."""
    return name.partition("_")[0]


def why_not_a_photo(entry: os.DirEntry[str]) -> str | None:
    """The reason to skip a directory entry, or None if it may be a photo."""
    if os.path.isdir(entry.path):  # and not `entry.is_dir`, which fails on a link to itself
        return "a folder"
    if not os.path.isfile(entry.path):
        return "not a regular file, or a link to nowhere"
    return why_not_a_name(entry.name)


def why_not_a_name(name: str) -> str | None:
    """The reason why a file name is not `typeid_hash.jpg`, or None if it is."""
    typeid, underscore, _ = name.partition("_")
    if is_hidden(name):
        return "a hidden file"
    if pathlib.Path(name).suffix.lower() not in PHOTO_SUFFIXES:
        return "not named as a photo (.jpg, .png, ...)"
    if not underscore:
        return "no '_' in the name, so no typeid"
    if not typeid.strip():
        return "nothing before the first '_', so no typeid"
    reason = why_not_a_typeid(typeid)
    return f"the typeid {typeid!r} {reason}" if reason else None


def inspect_photos(
    raw: pathlib.Path, classes: dict[str, list[str]], workers: int
) -> tuple[dict[str, Inspection], list[Skipped]]:
    """Reads every photo from end to end.

    Args:
        raw: the folder.
        classes: of `read_raw`.
        workers: threads that read photos.

    Returns:
        `(inspected, skipped)`: dict from the file name of each readable photo, in the
        order of the classes, to `check.Inspection`, and a list of `(file name, reason)`.
    """
    names = [name for members in classes.values() for name in members]
    inspections = read_ahead(lambda name: inspect_photo(raw / name), names, workers)
    # No bar where nobody watches.
    shown = tqdm(inspections, desc="reading", total=len(names), unit=" photos", disable=None)
    inspected: dict[str, Inspection] = {}
    skipped: list[Skipped] = []
    for name, inspection in zip(names, shown, strict=True):
        if inspection.reason:
            skipped.append((name, inspection.reason))
        else:
            inspected[name] = inspection
    return inspected, skipped


def usable_classes(
    inspected: dict[str, Inspection],
) -> tuple[dict[str, list[str]], list[Skipped]]:
    """The classes that can be trained and validated: those with two different photos.

    Args:
        inspected: of `inspect_photos`.

    Returns:
        `(classes, skipped)`: as `read_raw`, of the readable photos.
    """
    classes = group_by_typeid(inspected)
    skipped: list[Skipped] = []
    for typeid, names in list(classes.items()):
        if len({inspected[name].digest for name in names}) > 1:
            continue
        del classes[typeid]
        reason = "no other photo of its class"
        if len(names) > 1:
            reason += " but copies of it"
        reason += "; one for training and one for validation are needed"
        skipped += [(name, reason) for name in names]
    return classes, skipped


def group_by_typeid(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of each typeid: a dict, in the order that they come in."""
    classes: dict[str, list[str]] = {}
    for name in names:
        classes.setdefault(typeid_of(name), []).append(name)
    return classes
