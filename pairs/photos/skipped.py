"""Reports the files in a folder of photos that are none."""

import collections
import os
import pathlib

from pairs.photos.find import PHOTO_SUFFIXES, is_empty, is_hidden, walk
from pairs.photos.read import printable

LONGEST_ENDING = 20  # longer ones are not endings, but names with a dot


def print_skipped(folder: str | pathlib.Path, in_classes: bool = False) -> None:
    """Prints a line for each kind of what `find_photos` or `find_class_photos` skips.

    Phones write .heic, browsers .avif: a part of a folder may be of such files.

    Args:
        folder: of photos.
        in_classes: only photos in its class folders count.
    """
    root, others, loose = str(folder), [], []
    endings: collections.Counter[str] = collections.Counter()
    for parent, names in walk(root):
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if ending not in PHOTO_SUFFIXES:
                others.append(os.path.join(parent, name))
                endings[ending if len(ending) < LONGEST_ENDING else "other"] += 1
            elif in_classes and parent == root:
                loose.append(os.path.join(parent, name))
    if others:
        counts = [f"{count} {printable(end) or 'without'}" for end, count in endings.most_common(5)]
        known = ", ".join(sorted(PHOTO_SUFFIXES))
        print_note(others, f"no ending of a photo ({known}): {', '.join(counts)}")
    if loose:
        print_note(loose, "not in a class folder")
    if in_classes:
        empty = [
            str(path)
            for path in pathlib.Path(root).iterdir()
            if path.is_dir() and not is_hidden(path.name) and is_empty(path)
        ]
        if empty:
            print_note(empty, "class folders without photos")


def print_note(paths: list[str], why: str) -> None:
    """Prints how many paths are skipped, and the first."""
    print(f"note: {len(paths)} skipped, {why}; e.g. {printable(paths[0])}")
