"""Which photos are for training and which for validation.

The side of a photo depends on its name, its class, the seed, and on copies of
it: not on the order of a directory, nor on the machine.
"""

import hashlib
import os
import pathlib

from pairs.photos.read import TRAIN, VALID


def find_copies(
    classes: dict[str, list[str]], digests: dict[str, str]
) -> list[list[tuple[str, str]]]:
    """Groups photos that are the same, byte by byte.

    Returns:
        groups of `(typeid, file name)`, each with at least two.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for typeid, names in classes.items():
        for name in names:
            groups.setdefault(digests[name], []).append((typeid, name))
    return [group for group in groups.values() if len(group) > 1]


def split_class(
    typeid: str,
    names: list[str],
    valid_fraction: float,
    seed: int,
    digests: dict[str, str] | None = None,
) -> set[str]:
    """Chooses the validation photos of one class.

    Args:
        typeid: the class.
        names: its file names.
        valid_fraction: share of photos for validation, between 0 and 1.
        seed: another seed, another choice.
        digests: by file name; copies of one photo stay on one side. None: there
            are no copies.

    Returns:
        their file names, at least one and not all of them, if there are two
        different photos.
    """

    def draw(name):
        # A hash, not a random generator: the same on every machine and version.
        return hashlib.sha256(os.fsencode(f"{seed}\0{typeid}\0{name}")).digest()

    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(digests[name] if digests else name, []).append(name)
    if len(groups) < 2:
        return set()
    count = min(max(1, round(valid_fraction * len(names))), len(names) - 1)
    valid: set[str] = set()
    for copies in sorted(groups.values(), key=lambda copies: draw(copies[0])):
        if len(valid) + len(copies) <= count:
            valid.update(copies)
    fewest: list[str] = min(groups.values(), key=len)
    return valid or set(fewest)


def plan_copies(
    classes: dict[str, list[str]], digests: dict[str, str], valid_fraction: float, seed: int
) -> dict[str, pathlib.Path]:
    """Places every photo.

    Returns:
        the place of each file name below `--out`, e.g. `valid/64/64_a.jpg`.
    """
    # A photo under two typeids is no fair question: it is never for validation.
    in_two = {
        digests[group[0][1]]
        for group in find_copies(classes, digests)
        if len({typeid for typeid, _ in group}) > 1
    }
    places = {}
    for typeid, names in classes.items():
        own = [name for name in names if digests[name] not in in_two]
        valid = split_class(typeid, own, valid_fraction, seed, digests) if own else set()
        for name in names:
            places[name] = pathlib.Path(VALID if name in valid else TRAIN, typeid, name)
    return places
