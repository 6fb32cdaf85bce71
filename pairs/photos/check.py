"""Checks every photo once, before the first epoch, and remembers what it found.

Photos from the web are truncated, empty, or HTML. What cannot be read is named
and left out here rather than in epoch 17. A photo whose size and times are
those of the last check is not read again.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib

import numpy as np
from tqdm import tqdm

from pairs.command_line import UserError
from pairs.photos.read import Photos, open_photo, printable, read_ahead

# Side in pixels at which a photo is decoded to see whether it can be: small, but
# every byte of it is read.
DECODED_SIZE = 64
FILE_TIMES = ("st_size", "st_mtime_ns", "st_ctime_ns")
PATHS_AT_ONCE = 512
# The share of photos that a run goes on without; more, and it is another data set.
MOST_VANISHED = 0.01
# Unreadable photos that are named one by one; the rest are counted.
NAMED = 20


def check_photos(photos, folder, known, workers):
    """Leaves out what cannot be read, and says so.

    Args:
        photos: `photo.Photos` below `folder`.
        folder: their class folders are in it.
        known: the `found` of an earlier check.
        workers: threads that read photos.

    Returns:
        `(usable, found)`: `photo.Photos`, and a dict from each path below
        `folder` to `[size, mtime_ns, ctime_ns, SHA-256, reason]`, where the
        reason is None for a readable photo.

    Raises:
        UserError: a class has no readable photo.
    """

    prefix = f"{pathlib.Path(folder)}{os.sep}"
    names = [path.removeprefix(prefix) for path in photos.paths]
    times = all_file_times(photos.paths, workers)
    found, unknown = {}, []
    for index, name in enumerate(names):
        found[name] = known.get(name)
        # What could not be read is tried again: a network may have been down.
        if not found[name] or found[name][4] or found[name][:3] != times[index]:
            unknown.append(index)
    progress = tqdm(
        read_ahead(inspect_photo, [photos.paths[index] for index in unknown], workers),
        desc=f"checking {folder}",
        total=len(unknown),
        unit=" photos",
        disable=None,  # no bar where nobody watches
        leave=False,
    )
    for index, facts in zip(unknown, progress, strict=True):
        found[names[index]] = [*times[index], *facts]
    reasons = [found[name][4] for name in names]
    photos = dataclasses.replace(photos, digests=[found[name][3] for name in names])
    usable = photos.take([index for index, reason in enumerate(reasons) if not reason])
    say_what_is_left_out(
        folder,
        [
            f"{printable(path)}: {reason}"
            for path, reason in zip(photos.paths, reasons, strict=True)
            if reason
        ],
    )
    for label in sorted(set(photos.labels) - set(usable.labels)):
        raise UserError(
            f"{folder}: none of the photos of class {photos.typeids[label]!r} can be read; "
            f"add photos or remove the class folder"
        )
    return usable, found


def inspect_photo(path):
    """Reads a photo from end to end.

    Returns:
        `(digest, reason)`: the SHA-256 of its bytes as hexadecimal digits (None
        where not even they can be read), and why it is not usable, or None.
    """
    try:
        open_photo(path, DECODED_SIZE)
        return file_digest(path), None
    except UserError as error:
        return None, str(error).removeprefix(f"{printable(path)}: ")
    except OSError as error:
        return None, str(error.strerror)


def file_digest(path):
    """SHA-256 of a regular file's bytes, as hexadecimal digits."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def all_file_times(paths, workers):
    """`file_times` of many paths: list of lists. A shared folder answers slowly, so on threads."""
    starts = range(0, len(paths), PATHS_AT_ONCE)
    parts = read_ahead(
        lambda start: [file_times(path) for path in paths[start : start + PATHS_AT_ONCE]],
        starts,
        workers,
    )
    return list(itertools.chain.from_iterable(parts))


def file_times(path):
    """`[size, mtime_ns, ctime_ns]`: what changes whenever a file's bytes do."""
    try:
        status = os.stat(path)
    except OSError:  # a broken link; `inspect_photo` says so
        return [None] * len(FILE_TIMES)
    return [getattr(status, name) for name in FILE_TIMES]


def say_what_is_left_out(folder, reasons):
    """Prints which photos cannot be read and why."""
    for reason in itertools.islice(reasons, NAMED):
        print(f"left out: {reason}")
    if len(reasons) > NAMED:
        print(f"left out: and {len(reasons) - NAMED} more")
    if reasons:
        print(f"{folder}: {len(reasons)} photos left out")


def readable(found):
    """dict from path to digest, of the readable photos of a check."""
    return {name: digest for name, (*_, digest, reason) in found.items() if not reason}


def vanished(known, found):
    """The photos that an earlier check could read and a later one cannot.

    Only a few, and nothing else may have changed: else it is another data set,
    and the list is empty.
    """
    before, now = readable(known), readable(found)
    gone = [name for name in before if name not in now]
    others_changed = any(before.get(name) != digest for name, digest in now.items())
    return [] if others_changed or len(gone) > max(1, MOST_VANISHED * len(before)) else gone


def photos_of(found, folder, typeids):
    """The readable photos of a check, there or not, as `photo.Photos`."""
    digests = readable(found)
    labels = [typeids.index(pathlib.PurePath(name).parts[0]) for name in digests]
    paths = [str(pathlib.Path(folder, name)) for name in digests]
    return Photos(paths, np.array(labels, np.int32), list(typeids), list(digests.values()))


def fingerprint(found):
    """Digest of all readable photos of a check: their class folders, names and bytes."""
    sha = hashlib.sha256()
    for name, digest in sorted(readable(found).items()):
        sha.update(os.fsencode(f"{name}\0{digest}\0"))
    return sha.hexdigest()[:32]


def say_what_is_in_both(train, valid):
    """Warns of photos that are in training and validation: the error would flatter."""
    digests = set(readable(train).values())
    both = sorted(name for name, digest in readable(valid).items() if digest in digests)
    if both:
        print(
            f"warning: {len(both)} validation photos are copies of training photos, e.g. "
            f"{both[0]!r}: the validation error will be too low"
        )
