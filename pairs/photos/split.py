"""Which photos are for training and which for validation.

The side of a photo depends on the names of its class, the seed, and on copies and
near-duplicates of it: not on the order of a directory, nor on the machine. Photos that are
added later may send a few others to the other side.
"""

import hashlib
import os
import pathlib

from pairs.photos.check import Facts
from pairs.photos.duplicates import find_groups
from pairs.photos.find import TRAIN, VALID
from pairs.photos.raw import contest_name


def group_photos(inspected: dict[str, Facts]) -> dict[str, str]:
    """Finds copies and near-duplicates among photos.

    Args:
        inspected: of each readable photo, by file name.

    Returns:
        the group of each file name: the first digest of it. A photo that is like
        no other is a group of its own.
    """
    names = sorted(inspected)
    digests = [str(inspected[name].digest) for name in names]
    hashes = [inspected[name].perceptual_hash or "" for name in names]
    groups = dict(zip(names, digests, strict=True))
    for indices in find_groups(digests, hashes):
        groups.update({names[index]: digests[indices[0]] for index in indices})
    return groups


def find_alike(typeids: dict[str, str], keys: dict[str, str]) -> list[list[tuple[str, str]]]:
    """Lists photos that share a key.

    Args:
        typeids: of each file name.
        keys: by file name: digests, for those that are the same byte by byte, or
            the groups of `group_photos`.

    Returns:
        groups of `(typeid, file name)`, each with at least two.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, typeid in typeids.items():
        groups.setdefault(keys[name], []).append((typeid, name))
    return [group for group in groups.values() if len(group) > 1]


def split_class(
    typeid: str,
    names: list[str],
    valid_fraction: float,
    seed: int,
    groups: dict[str, str] | None = None,
) -> set[str]:
    """Chooses the validation photos of one class.

    Args:
        typeid: the class.
        names: its file names.
        valid_fraction: share of photos for validation, between 0 and 1.
        seed: another seed, another choice.
        groups: of `group_photos`; a group stays on one side. None: there are no
            copies.

    Returns:
        their file names, at least one and not all of them, if there are two
        groups.
    """

    def draw(name):
        # A hash, not a random generator: the same on every machine and version.
        return hashlib.sha256(os.fsencode(f"{seed}\0{typeid}\0{contest_name(name)}")).digest()

    members: dict[str, list[str]] = {}
    for name in sorted(names):
        members.setdefault(groups[name] if groups else name, []).append(name)
    if len(members) < 2:
        return set()
    count = min(max(1, round(valid_fraction * len(names))), len(names) - 1)
    valid: set[str] = set()
    drawn = sorted(members.values(), key=lambda group: draw(group[0]))
    for group in drawn:
        if len(valid) + len(group) <= count:
            valid.update(group)
    fewest: list[str] = min(drawn, key=len)
    return valid or set(fewest)


def under_two_typeids(typeids: dict[str, str], groups: dict[str, str]) -> set[str]:
    """The groups (of `group_photos`) with photos of several classes: ambiguous, never to judge by.

    Args:
        typeids: of each file name.
        groups: of `group_photos`.
    """
    return {
        groups[group[0][1]]
        for group in find_alike(typeids, groups)
        if len({typeid for typeid, _ in group}) > 1
    }


def plan_places(
    classes: dict[str, list[str]],
    groups: dict[str, str],
    in_two: set[str],
    valid_fraction: float,
    seed: int,
) -> dict[str, pathlib.Path]:
    """The side of every photo.

    A class whose photos are all near-duplicates of one is for training.

    Args:
        classes: the file names of each typeid.
        groups: of `group_photos`.
        in_two: of `under_two_typeids`; their photos are for training.
        valid_fraction, seed: of `split_class`.

    Returns:
        the place of each photo below `--out`, e.g. `valid/64/64_a.jpg`.
    """
    places = {}
    for typeid, names in classes.items():
        own = [name for name in names if groups[name] not in in_two]
        valid = split_class(typeid, own, valid_fraction, seed, groups) if own else set()
        for name in names:
            side = VALID if name in valid else TRAIN
            places[name] = pathlib.Path(side, typeid, contest_name(name))
    return places
