"""The folder of raw photos: what is there, and what of it can be used.

It holds photos named `typeid_hash.jpg`, or one folder a class, named by its typeid. A photo
goes by its name, `64_2043.jpg`, or by its folder and name, `64/2043.jpg`; from here on
both mean the same, and both are `64_2043.jpg` once they are sorted (`contest_name`).
"""

import os
import pathlib
from collections.abc import Iterable

from tqdm import tqdm

from pairs.errors import UserError
from pairs.photos.check import Facts, inspect_photo
from pairs.photos.find import PHOTO_SUFFIXES, SIDES, is_hidden, why_not_a_typeid
from pairs.photos.read import read_ahead

# The name of a file or folder, and why it is skipped.
Skipped = tuple[str, str]
# Of a file name, on the disks of Linux.
MOST_BYTES = 255
# Folders of the README: who names the folder above them means one of these.
NOT_CLASSES = {"raw", "test", *SIDES}


def read_raw(raw: str | pathlib.Path) -> tuple[dict[str, list[str]], list[Skipped]]:
    """Groups the photos of a folder by typeid.

    Args:
        raw: folder of `typeid_hash.jpg` files. Where none lies in it, of class folders.

    Returns:
        `(classes, skipped)`: a dict from typeid to its photos' names in sorted
        order, and a list of `(name, reason)` for everything that is not named
        as a photo.

    Raises:
        UserError: `raw` is no folder, it holds photos in both ways and most in class
            folders, or two of its photos would have one name.
    """
    raw = pathlib.Path(raw)
    if not raw.is_dir():
        raise UserError(
            f"--raw {raw}: no such folder; it should hold typeid_hash.jpg files, or class folders"
        )
    entries = sorted_entries(raw)
    folders = [entry.name for entry in entries if is_folder(entry)]
    names: list[str] = []
    skipped: list[Skipped] = []
    for entry in entries:
        if is_folder(entry):
            continue
        if reason := why_not_a_photo(entry) or why_no_typeid(entry.name):
            skipped.append((entry.name, reason))
        else:
            names.append(entry.name)
    in_folders: list[str] = []
    beside: list[Skipped] = []
    for folder in folders:
        found, others = scan_class_folder(raw, folder)
        in_folders += found
        beside += others
    if len(in_folders) > len(names) > 0:
        raise UserError(
            f"--raw {raw}: {len(in_folders)} photos in class folders, and beside them {len(names)} "
            f"named typeid_hash.jpg, e.g. {names[0]!r}. Which are meant? Move the others elsewhere"
        )
    of_data = set(map(typeid_of, in_folders))
    if not names and of_data and of_data <= NOT_CLASSES:
        raise UserError(
            f"--raw {raw}: holds {' and '.join(sorted(of_data))}, which are no classes; choose one "
            f"of them, e.g. {raw / min(of_data)}"
        )
    if names:
        beside = [(folder, "a folder beside photos named typeid_hash.jpg") for folder in folders]
    names, skipped = names or in_folders, skipped + beside
    check_contest_names(raw, names)
    return group_by_typeid(names), skipped


def check_contest_names(raw: pathlib.Path, names: Iterable[str]) -> None:
    """Raises a UserError if two photos would have one name once they are sorted."""
    by_contest_name: dict[str, str] = {}
    for name in names:
        other = by_contest_name.setdefault(contest_name(name), name)
        if other != name:
            raise UserError(
                f"--raw {raw}: once sorted, {other!r} and {name!r} would both be "
                f"{contest_name(name)!r}. Rename one of them"
            )


def scan_class_folder(raw: pathlib.Path, folder: str) -> tuple[list[str], list[Skipped]]:
    """The names of the photos in one class folder, and what else is there: see `read_raw`."""
    if is_hidden(folder):
        return [], [(folder, "a hidden folder")]
    if reason := why_not_a_typeid(folder):
        return [], [(folder, f"a folder whose name as a typeid {reason}")]
    names: list[str] = []
    skipped: list[Skipped] = []
    for entry in sorted_entries(raw / folder):
        name = f"{folder}/{entry.name}"
        if is_folder(entry):
            skipped.append((name, "a folder in a class folder"))
        elif reason := why_not_a_photo(entry):
            skipped.append((name, reason))
        elif len(os.fsencode(contest_name(name))) > MOST_BYTES:
            skipped.append((name, "too long a name with its typeid before it"))
        else:
            names.append(name)
    if not names:
        skipped.append((folder, "a folder without a photo in it"))
    return names, skipped


def sorted_entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    """What is in a folder, in the same order on every machine."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one; `entry.is_dir` fails on a link to itself."""
    return os.path.isdir(entry.path)


def typeid_of(name: str) -> str:
    """The typeid of a raw photo: its folder, or what stands before the first `_`."""
    folder, slash, _ = name.partition("/")
    return folder if slash else name.partition("_")[0]


def contest_name(name: str) -> str:
    """The name of a raw photo once it is sorted, `typeid_hash.jpg`.

    Class folders often number their photos alike; a relabelled one must not meet another.
    A name that begins with its typeid stays: `64/64_2043.jpg` is not `64_64_2043.jpg`.
    """
    folder, slash, file_name = name.partition("/")
    if not slash:
        return name
    return file_name if file_name.startswith(f"{folder}_") else f"{folder}_{file_name}"


def why_not_a_photo(entry: os.DirEntry[str]) -> str | None:
    """The reason to skip what is no folder, or None if it may be a photo."""
    if not os.path.isfile(entry.path):
        return "not a regular file, or a link to nowhere"
    if is_hidden(entry.name):
        return "a hidden file"
    if pathlib.Path(entry.name).suffix.lower() not in PHOTO_SUFFIXES:
        return "not named as a photo (.jpg, .png, ...)"
    return None


def why_no_typeid(name: str) -> str | None:
    """The reason why a photo's name is not `typeid_hash.jpg`, or None if it is."""
    typeid, underscore, _ = name.partition("_")
    if not underscore:
        return "no '_' in the name, so no typeid"
    if not typeid.strip():
        return "nothing before the first '_', so no typeid"
    reason = why_not_a_typeid(typeid)
    return f"the typeid {typeid!r} {reason}" if reason else None


def inspect_photos(
    raw: pathlib.Path, classes: dict[str, list[str]], workers: int
) -> tuple[dict[str, Facts], list[Skipped]]:
    """Reads every photo from end to end.

    Args:
        raw: the folder.
        classes: of `read_raw`.
        workers: threads that read photos.

    Returns:
        `(inspected, skipped)`: dict from the name of each readable photo, in the
        order of the classes, to `check.Facts`, and a list of `(name, reason)`.
    """
    names = [name for members in classes.values() for name in members]
    read = read_ahead(lambda name: inspect_photo(raw / name), names, workers)
    # No bar where nobody watches.
    progress = tqdm(read, desc="reading", total=len(names), unit=" photos", disable=None)
    inspected: dict[str, Facts] = {}
    skipped: list[Skipped] = []
    for name, facts in zip(names, progress, strict=True):
        if facts.reason:
            skipped.append((name, facts.reason))
        else:
            inspected[name] = facts
    return inspected, skipped


def usable_classes(
    inspected: dict[str, Facts],
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
