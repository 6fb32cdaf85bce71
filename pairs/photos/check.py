"""Checks every photo once, before the first epoch, and remembers what it found.

Photos from the web are truncated, empty, or HTML. What cannot be read is
reported and skipped here rather than in epoch 17. A photo whose size and times
are those of the last check is not read again.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from pairs.command_line import print_first
from pairs.errors import UserError
from pairs.files import file_digest, read_json, write_text
from pairs.photos.duplicates import perceptual_hash
from pairs.photos.find import SIDES, TRAIN, VALID, find_class_photos
from pairs.photos.read import Photos, open_photo, printable, read_ahead

# Side in pixels at which a photo is decoded to see whether it can be: small, but
# every byte of it is read.
DECODED_SIZE = 64
PATHS_AT_ONCE = 512
# In the weights folder: what was found, for the next start.
PHOTOS = "photos.json"
# The share of photos that a run resumes without; more, and it is another data set.
MOST_VANISHED = 0.01


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of one photo.

    Attributes:
        size: bytes.
        mtime_ns, ctime_ns: of its last change; with the size, what changes
            whenever the bytes do. None: not known.
        digest: SHA-256 of its bytes; None: they could not be read.
        reason: why it is not usable; None: it is.
        perceptual_hash: what it shows, see `duplicates`; None: it could not be read.
    """

    size: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    digest: str | None = None
    reason: str | None = None
    perceptual_hash: str | None = None

    @property
    def times(self) -> tuple:
        """What is compared to see whether a photo must be read again."""
        return self.size, self.mtime_ns, self.ctime_ns


NOTHING = Facts()
# What is known of the photos of one side: from their paths below it.
Known = dict[str, Facts]


def list_photos(data: str | pathlib.Path) -> list[Photos]:
    """The photos of both sides of a folder, training first."""
    photos = find_class_photos(pathlib.Path(data, TRAIN))
    return [photos, find_class_photos(pathlib.Path(data, VALID), photos.typeids)]


def check_sides(
    data: str | pathlib.Path, listed: list[Photos], known: dict[str, Known], workers: int
) -> tuple[list[Photos], dict[str, Known]]:
    """Checks the photos of both sides.

    Args:
        data: folder with both sides.
        listed: `list_photos(data)`.
        known: what an earlier check found on each side; not read again.
        workers: threads that read photos.

    Returns:
        `(usable, found)`: the readable photos of each side, and the new `known`.
    """
    usable, found = [], {}
    for side, photos in zip(SIDES, listed, strict=True):
        photos, found[side] = check_photos(photos, pathlib.Path(data, side), known[side], workers)
        usable.append(photos)
    return usable, found


def check_photos(
    photos: Photos, folder: pathlib.Path, known: Known, workers: int
) -> tuple[Photos, Known]:
    """Skips what cannot be read, and says so.

    Args:
        photos: below `folder`.
        folder: holds their class folders.
        known: what an earlier check found.
        workers: threads that read photos.

    Returns:
        `(usable, found)`: the readable photos, and what is known now.
    """
    prefix = f"{pathlib.Path(folder)}{os.sep}"
    names = [path.removeprefix(prefix) for path in photos.paths]
    found, unknown = {}, []
    for index, now in enumerate(all_file_times(photos.paths, workers)):
        before = known.get(names[index])
        # What could not be read has no hash, and is tried again: a network may have been down.
        if before and before.times == now.times and before.perceptual_hash is not None:
            found[names[index]] = before
        else:
            found[names[index]] = now
            unknown.append(index)
    progress = tqdm(
        read_ahead(
            lambda index: inspect_photo(photos.paths[index], found[names[index]]), unknown, workers
        ),
        desc=f"checking {folder}",
        total=len(unknown),
        unit=" photos",
        disable=None,  # no bar where nobody watches
        leave=False,
    )
    for index, facts in zip(unknown, progress, strict=True):
        found[names[index]] = facts
    reasons = [found[name].reason for name in names]
    photos = dataclasses.replace(photos, digests=[found[name].digest for name in names])
    usable = photos.take([index for index, reason in enumerate(reasons) if not reason])
    skipped = [
        f"{printable(path)}: {reason}"
        for path, reason in zip(photos.paths, reasons, strict=True)
        if reason
    ]
    print_first("skipped", skipped)
    if skipped:
        print(f"{folder}: {len(skipped)} photos skipped")
    return usable, found


def inspect_photo(path: str | pathlib.Path, facts: Facts = NOTHING) -> Facts:
    """Reads a photo from end to end; adds what that finds out to what is known of it."""
    try:
        shown = perceptual_hash(open_photo(path, DECODED_SIZE))
        return dataclasses.replace(facts, digest=file_digest(path), perceptual_hash=shown)
    except UserError as error:
        reason = str(error).removeprefix(f"{printable(path)}: ")
    except OSError as error:
        reason = str(error.strerror)
    return dataclasses.replace(facts, reason=reason)


def all_file_times(paths: list[str], workers: int) -> Iterable[Facts]:
    """`file_times` of many paths. A shared folder answers slowly, so on threads."""
    starts = range(0, len(paths), PATHS_AT_ONCE)
    parts = read_ahead(
        lambda start: [file_times(path) for path in paths[start : start + PATHS_AT_ONCE]],
        starts,
        workers,
    )
    return itertools.chain.from_iterable(parts)


def file_times(path: str | pathlib.Path) -> Facts:
    """The size and times of a file, `NOTHING` if there is none; nothing else is known yet."""
    try:
        status = os.stat(path)
    except OSError:  # a broken link; `inspect_photo` says so
        return NOTHING
    return Facts(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def as_it_began(
    data: str | pathlib.Path,
    sides: list[Photos],
    known: dict[str, Known],
    found: dict[str, Known],
) -> tuple[list[Photos], dict[str, Known]]:
    """The photos that a run began with, if it can still be resumed with them.

    Photos that vanished since are back in its lists: while it ran, others of their class
    took their place (`Photos.open`), and so they do when it resumes. Photos that could
    not be read when it began, and can now, are not in them: a network may have been down.

    Args:
        data: folder with both sides.
        sides, found: of `check_sides`.
        known: what the run began with.

    Returns:
        `(sides, found)`, changed or as they were.
    """
    kept, kept_found = [], {}
    for side, photos in zip(SIDES, sides, strict=True):
        before, now = known[side], dict(found[side])
        back = [name for name in readable(now) if name in before and not before[name].digest]
        now.update({name: before[name] for name in back})
        gone, other = vanished(before, now), VALID if side == TRAIN else TRAIN
        was, there = known[other], found[other]
        if any(
            was.get(name, NOTHING).digest != before[name].digest == there.get(name, NOTHING).digest
            for name in gone
        ):
            gone = []  # sorted anew: nothing has vanished
        for names, what in ((gone, "have vanished since"), (back, "could not be read when")):
            if names:
                print(f"note: {len(names)} {side} photos {what} the run began: {names[0]!r}")
        now = before if gone else now
        if gone or back:
            photos = photos_of(now, pathlib.Path(data, side), photos.typeids)
        kept.append(photos)
        kept_found[side] = now
    return kept, kept_found


def vanished(known: Known, found: Known) -> list[str]:
    """The photos that an earlier check could read and a later one cannot.

    Only a few, of classes that still have others, and nothing else may have
    changed: else it is another data set, and the list is empty.
    """
    before, now = readable(known), readable(found)
    gone = [name for name in before if name not in now]
    if len(gone) > max(1, MOST_VANISHED * len(before)) or class_folders(gone) - class_folders(now):
        return []
    others_changed = any(before.get(name) != digest for name, digest in now.items())
    return [] if others_changed else gone


def class_folders(names: Iterable[str]) -> set[str]:
    """The class folders of some paths below a side."""
    return {pathlib.PurePath(name).parts[0] for name in names}


def photos_of(found: Known, folder: pathlib.Path, typeids: list[str]) -> Photos:
    """The readable photos of a check, whether they are still there or not."""
    digests = readable(found)
    label_of = {typeid: label for label, typeid in enumerate(typeids)}
    labels = [label_of[pathlib.PurePath(name).parts[0]] for name in digests]
    paths = [str(pathlib.Path(folder, name)) for name in digests]
    return Photos(paths, np.array(labels, np.int32), list(typeids), list(digests.values()))


def perceptual_hashes(found: dict[str, Known]) -> dict[str | None, str]:
    """What each photo of both sides shows, by its digest; "" where that is not known."""
    return {
        facts.digest: facts.perceptual_hash or ""
        for known in found.values()
        for facts in known.values()
    }


def readable(found: Known) -> dict[str, str]:
    """The digests of the readable photos of a check, by path."""
    return {name: facts.digest for name, facts in found.items() if facts.digest}


def fingerprint(found: Known) -> str:
    """Digest of all readable photos of a check: their class folders, names and bytes."""
    sha = hashlib.sha256()
    for name, digest in sorted(readable(found).items()):
        sha.update(os.fsencode(f"{name}\0{digest}\0"))
    return sha.hexdigest()[:32]


def warn_about_leakage(train: Known, valid: Known) -> None:
    """Warns of photos in both training and validation: the error would be too low."""
    digests = set(readable(train).values())
    both = sorted(name for name, digest in readable(valid).items() if digest in digests)
    if both:
        print(
            f"warning: {len(both)} validation photos are copies of training photos, e.g. "
            f"{both[0]!r}: the validation error will be too low"
        )


def read_check(folder: pathlib.Path, advice: str = "delete it") -> dict[str, Known]:
    """What an earlier check of the photos found on each side, if there was one.

    Args:
        folder: the weights folder.
        advice: what to do if the file is damaged.
    """
    found: dict[str, Known] = {side: {} for side in SIDES}
    path = folder / PHOTOS
    try:
        for side, photos in read_json(path, advice).items():
            found[side] = {name: Facts(*facts) for name, facts in photos.items()}
            for facts in found[side].values():
                if not all(isinstance(text, str | None) for text in dataclasses.astuple(facts)[3:]):
                    raise TypeError("a text is expected")
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); {advice}") from error
    return found


def write_check(folder: pathlib.Path, found: dict[str, Known]) -> None:
    """Remembers what a check found."""
    content = {
        side: {name: dataclasses.astuple(facts) for name, facts in photos.items()}
        for side, photos in found.items()
    }
    write_text(folder / PHOTOS, json.dumps(content) + "\n")
