"""Puts photos into class folders, and takes away the places of an earlier sorting.

Nothing is lost: no photo is overwritten by another, and a place is only removed
if its photo is, byte by byte, still among the raw ones, and is in its new place,
was left out by people, or is skipped.
"""

import contextlib
import filecmp
import os
import pathlib
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from pairs.command_line import print_first
from pairs.errors import UserError
from pairs.files import read_json, replacing, write_json
from pairs.photos.find import PHOTO_SUFFIXES, SIDES, TRAIN, VALID, walk
from pairs.photos.raw import contest_name
from pairs.photos.read import printable

CHUNK = 2**20  # bytes that are read at once
# Beside the sides: how they were sorted, for whoever sorts them again.
SORTING = "sorting.json"


def read_sorting(out: pathlib.Path) -> dict[str, Any]:
    """The flags that a folder was sorted with, paths absolute; empty where that is not known."""
    try:
        flags = read_json(out / SORTING)
        return with_paths(flags, lambda path: os.path.abspath(out / path)) if flags else {}
    except (UserError, KeyError, TypeError):  # damaged: it is a help, no more
        return {}


def with_paths(flags: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The flags of a sorting, each of their paths changed."""
    corrections = [change(path) for path in flags["corrections"]]
    return {**flags, "raw": change(flags["raw"]), "corrections": corrections}


def write_sorting(out: pathlib.Path, flags: dict[str, Any]) -> list[str]:
    """Writes the flags that a folder was sorted with.

    Args:
        out: folder that was sorted into.
        flags: `raw`, `valid_fraction`, `seed`, `link`, `corrections`.

    Returns:
        a line about each of them that was another before.
    """
    before, notes = read_sorting(out), []
    flags = with_paths(flags, os.path.abspath)
    for name in ("valid_fraction", "seed"):
        if before.get(name, flags[name]) != flags[name]:
            notes.append(
                f"note: --{name.replace('_', '-')} was {before[name]} when this folder was sorted "
                f"before: photos have changed sides"
            )
    for file in before.get("corrections", []):
        if file not in flags["corrections"]:
            notes.append(
                f"note: this folder was sorted with --corrections {printable(file)} before, and "
                f"without it now: what it decided is undone. To keep it, sort again with it"
            )
    if before != flags:
        write_json(out / SORTING, with_paths(flags, lambda path: as_kept(path, out)))
    return notes


def as_kept(path: str, out: pathlib.Path) -> str:
    """An absolute path as `sorting.json` has it: what lies beside `out` moves with it."""
    home = os.path.dirname(os.path.abspath(out))
    return os.path.relpath(path, out) if pathlib.Path(path).is_relative_to(home) else path


def check_case(places: Collection[pathlib.Path], out: pathlib.Path) -> None:
    """Refuses typeids and photos that would share a place on the disk of `out`.

    Raises:
        UserError: names two of them.
    """
    typeids = dict.fromkeys(pathlib.Path(place.parts[1]) for place in places)
    for what, paths in (("typeids", typeids), ("photos", places)):
        by_place: dict[str, pathlib.Path] = {}
        for path in paths:
            other = by_place.setdefault(folded(str(path)), path)
            if other != path and not tells_apart(out, other.name, path.name):
                raise UserError(
                    f"the {what} {other.name!r} and {path.name!r} would share a place: the disk of "
                    f"--out {out} does not tell them apart. Rename one, or choose an --out on "
                    f"another disk"
                )


def folded(text: str) -> str:
    """What is equal for two texts that differ in case or in how their letters are composed."""
    return unicodedata.normalize("NFC", text).casefold()


def tells_apart(out: pathlib.Path, name: str, other: str) -> bool:
    """Whether two names are two folders on a disk (upper and lower case, composed letters)."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=out) as scratch:
        pathlib.Path(scratch, name).mkdir()
        return not pathlib.Path(scratch, other).exists()


def find_stale(
    raw: pathlib.Path,
    out: pathlib.Path,
    names: Collection[str],
    places: dict[str, pathlib.Path],
) -> list[pathlib.Path]:
    """Finds the places that an earlier sorting gave to photos; refuses what is none of them.

    Photos move if others are added, or the seed, the fraction or corrections change.
    What stayed beside the new places could be on both sides.

    Args:
        raw: folder of raw photos.
        out: folder that is sorted into.
        names: of all photos, also of those without a place.
        places: of each file name, now.

    Returns:
        places below `out` that are to be removed: a photo of `raw`, byte by byte, in
        another class folder than it has now.

    Raises:
        UserError: counts the photos that are no copies of those in `raw`.
    """
    planned, stale, foreign = set(places.values()), [], []
    sources = {contest_name(name): name for name in names}
    for side in SIDES:
        if not (out / side).is_dir():
            continue
        for folder, found in walk(out / side):
            for name in found:
                place = pathlib.Path(folder, name).relative_to(out)
                is_photo = place.suffix.lower() in PHOTO_SUFFIXES  # a training takes it for one
                if place in planned or not is_photo:
                    continue
                source = sources.get(name)
                if source in places and is_same_folder(out / place, out / places[source]):
                    continue
                if source and len(place.parts) == 3 and is_copy(raw / source, out / place):
                    stale.append(place)
                else:
                    foreign.append(place)
    if foreign:
        print_first(f"no copy of a photo in {raw}", [printable(out / place) for place in foreign])
        before = read_sorting(out).get("raw", os.path.abspath(raw))
        if before != os.path.abspath(raw):
            raise UserError(
                f"--out {out} was sorted from {printable(before)}, and holds {len(foreign)} photos "
                f"that are not in --raw {raw}. Choose that --raw, or another --out"
            )
        raise UserError(
            f"{len(foreign)} photos in {out / TRAIN} and {out / VALID} are no copies of usable "
            f"photos in --raw {raw}, e.g. {printable(out / foreign[0])}: removed, renamed or "
            f"broken there since, or others. Remove them, or both folders, or choose another --out"
        )
    return stale


def is_same_folder(path: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two files are in one folder, which a disk may list by another name."""
    return other.parent.exists() and path.parent.samefile(other.parent)


def is_copy(source: pathlib.Path, target: pathlib.Path) -> bool:
    """Whether a file has the bytes of another, and is none that it leads to."""
    if not target.is_file() or source.resolve() == target.resolve():
        return False
    return has_same_bytes(source, target)


def has_same_bytes(source: pathlib.Path, target: pathlib.Path) -> bool:
    """Whether two files are the same, byte by byte.

    Raises:
        UserError: one of them cannot be read.
    """
    try:
        return filecmp.cmp(source, target, shallow=False)
    except OSError as error:  # of a failing disk it has no name
        raise UserError(
            f"{source} and {target} could not be compared ({error.strerror})"
        ) from error


def read_chunks(source: pathlib.Path) -> Iterator[bytes]:
    """Yields the bytes of a file, `CHUNK` at a time.

    Raises:
        UserError: it cannot be read: else the disk that is written to would be blamed.
    """
    try:
        with source.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise UserError(f"{source}: could not be read ({error.strerror})") from error


def place_photo(source: pathlib.Path, target: pathlib.Path, link: bool) -> bool:
    """Copies or links one photo, unless it is there already.

    Returns:
        True if it was written, False if it was there.

    Raises:
        UserError: a different photo has that name, or this one cannot be read or written.
    """
    if os.path.lexists(target):
        if target.exists() and has_same_bytes(source, target):
            return False
        raise UserError(f"{target} differs from {source}. Remove it if the new photo is right")
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source.resolve(), target)  # the photo, not a link to it
        except OSError as error:
            raise UserError(
                f"{target}: could not be linked ({error.strerror}); leave out --link to copy"
            ) from error
    else:
        # Bytes only: not every disk takes the rest.
        with replacing(target) as temporary, temporary.open("wb") as copy:
            copy.writelines(read_chunks(source))
    return True


def remove_places(out: pathlib.Path, stale: Iterable[pathlib.Path]) -> None:
    """Removes places of `find_stale`, and the class folders that get empty."""
    for place in stale:
        (out / place).unlink()
        with contextlib.suppress(OSError):  # it has other photos
            (out / place).parent.rmdir()
