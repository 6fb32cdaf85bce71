"""Photos on disk: finding them, in one folder or in class folders. `read.py` opens them."""

import os
import pathlib
import unicodedata
from collections.abc import Hashable, Iterator
from typing import NoReturn

import numpy as np

from pairs.errors import UserError
from pairs.photos.read import Photos

# The two sides of a data folder.
SIDES = TRAIN, VALID = "train", "valid"
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
# What other programs leave beside photos: macOS' archives, Synology, QNAP, Windows.
NOT_OF_PEOPLE = {"__MACOSX", "@eaDir", "#recycle", "Thumbs.db", "desktop.ini"}
# Signs that turn the direction of the text around them, see UAX #9.
TURNS_TEXT = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def has_sides(folder: str | pathlib.Path) -> bool:
    """Whether a folder has `train` and `valid`; they may be classes, if it is a side itself."""
    return all(pathlib.Path(folder, side).is_dir() for side in SIDES)


def find_photos(folder: str | pathlib.Path) -> list[str]:
    """Lists the photos below a folder, at any depth.

    Returns:
        their paths, sorted by file name (then by folder): the same on every
        machine.

    Raises:
        UserError: no such folder, or no photo in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder")
    paths = [
        os.path.join(parent, name)
        for parent, names in walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES
    ]
    if not paths:
        raise UserError(f"{folder}: no photos in it ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return sorted(paths, key=lambda path: (os.fsencode(os.path.basename(path)), os.fsencode(path)))


def walk(folder: str | pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Yields every folder in a folder, itself first, with the names of its files.

    Links to folders are followed, each folder is seen once, and what is hidden never.
    """
    seen = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(parent)
        place = status.st_dev, status.st_ino
        if place in seen:
            folders.clear()  # os.walk descends into these
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield parent, [name for name in names if not is_hidden(name)]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or was left there by another program, by its name."""
    return name.startswith(".") or name in NOT_OF_PEOPLE


def which_file(path: str | pathlib.Path) -> Hashable:
    """What is equal for two paths that lead to one file, by links of either kind."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def is_empty(folder: pathlib.Path) -> bool:
    """Whether people put nothing into a folder."""
    return all(is_hidden(name) for name in os.listdir(folder))


def why_not_a_typeid(typeid: object) -> str | None:
    """The reason why a text cannot be a typeid, or None if it can, in any script.

    A typeid is the name of a folder, a word in the submission's lines and on
    screens: none of them may be forged by it.
    """
    if not isinstance(typeid, str) or not typeid.strip():
        return "is empty"
    if is_hidden(typeid) or any(sign in typeid for sign in "/\\"):
        return "cannot be a folder name"
    for sign in typeid:
        if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign in TURNS_TEXT:
            return f"holds the unprintable {sign!r}"
    return None


def fail(error: Exception) -> NoReturn:
    """Raises: a folder that cannot be read must not be skipped in silence."""
    raise error


def find_class_photos(folder: str | pathlib.Path, typeids: list[str] | None = None) -> Photos:
    """Lists the photos of a folder that holds one folder a class.

    Args:
        folder: as `img2keras.py` writes it, e.g. `data/train`.
        typeids: the classes in the order of their labels, for a folder that
            must not define them anew (validation); None takes the folder's own.

    Raises:
        UserError: no such folder, no photo, fewer than two classes, or a class
            that is not in `typeids`.
    """
    root = pathlib.Path(folder)
    if not root.is_dir() and root.name in SIDES and root.parent.is_dir():
        raise UserError(
            f"{root.parent}: no folder {root.name} in it; {TRAIN} and {VALID} are expected there "
            f"(img2keras.py makes them from raw photos)"
        )
    if not root.is_dir():
        raise UserError(f"{folder}: no such folder; img2keras.py makes it from your photos")
    # Not in a side: there they are classes with these typeids.
    if root.name not in SIDES and has_sides(root):
        places = f"{root / TRAIN} or {root / VALID}"
        raise UserError(f"{folder}: class folders are expected; is it {places}?")
    found = {
        entry.name: find_photos(entry)
        for entry in root.iterdir()
        if entry.is_dir() and not is_hidden(entry.name) and not is_empty(entry)
    }
    for typeid in found:
        if reason := why_not_a_typeid(typeid):
            raise UserError(f"{folder}: the name of the class folder {typeid!r} {reason}")
    if typeids is None:
        typeids = sorted(found, key=typeid_order)
        if len(typeids) < 2:
            raise UserError(
                f"{folder}: {len(typeids)} class folders, at least 2 are needed (img2keras.py "
                f"makes them from raw photos)"
            )
    unknown = sorted(set(found) - set(typeids), key=typeid_order)
    if unknown:
        raise UserError(
            f"{folder}: {len(unknown)} classes were not trained on, e.g. {unknown[0]!r}; "
            f"known are {len(typeids)}, e.g. {typeids[0]!r}"
        )
    if not found:
        raise UserError(f"{folder}: no class folders with photos in them")
    paths, labels = [], []
    for label, typeid in enumerate(typeids):
        paths += found.get(typeid, [])
        labels += [label] * len(found.get(typeid, []))
    return Photos(paths, np.array(labels, np.int32), list(typeids))


def typeid_order(typeid: str) -> tuple[bool, int, str]:
    """Sort key: numbers by value, before names ('2' < '10' < 'pug')."""
    is_number = typeid.isascii() and typeid.isdigit()
    return (not is_number, int(typeid) if is_number else 0, typeid)
