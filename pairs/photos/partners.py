"""Permutations of a batch: what swapping is made of, and the fixed pairs of validation.

`swap_partners`, the idea itself, is in pair_generator.py.
"""

import numpy as np


def validation_partners(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permutes a batch so that about half of its pairs are of one class.

    `pair_generator.swap_partners` follows what the batch happens to hold, and with few classes
    that is positive pairs only; a validation that never saw a negative pair
    could not tell whether the pair head works.

    Args: as `pair_generator.swap_partners`.

    Returns:
        int32 array, shape `(batch,)`, a permutation: image `i` is paired with image
        `partner[i]`.
    """
    labels = np.asarray(labels)
    members = class_members(labels, rng)
    couples: list[list[int]] = []
    while len(couples) < len(labels) // 4:
        # From the largest class, so that no class is left alone in the rest.
        largest = max(members, key=len)
        if len(largest) < 2:
            break
        couples.append([largest.pop(), largest.pop()])
    coupled = {index for couple in couples for index in couple}
    rest = [index for index in np.argsort(labels, kind="stable").tolist() if index not in coupled]
    # Sorted by class and shifted by the size of the largest class, every image
    # meets another class (unless that class is more than half of them).
    shift = min(max(map(len, members)), len(rest) // 2)
    return close_cycles(len(labels), couples, rest, shift)


def validation_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Orders photos once for all epochs, couples of one class side by side."""
    couples = []
    for members in class_members(labels, rng):
        couples += [members[start : start + 2] for start in range(0, len(members), 2)]
    rng.shuffle(couples)
    return np.array([index for couple in couples for index in couple])


def class_members(labels: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
    """Positions of each class of a batch, shuffled."""
    members = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    for positions in members:
        rng.shuffle(positions)
    return members


def cut_cycles(members: list[int]) -> list[list[int]]:
    """Cuts a list of at least two into swaps of two; an odd one makes a three."""
    cycles = [members[start : start + 2] for start in range(0, len(members) - 1, 2)]
    if len(members) % 2:
        cycles[-1] = cycles[-1] + members[-1:]
    return cycles


def close_cycles(
    num_images: int, cycles: list[list[int]], rest: list[int], shift: int
) -> np.ndarray:
    """Turns cycles, and the rest rotated by `shift`, into a permutation."""
    if num_images < 2:
        raise ValueError(f"a batch of {num_images} image has no pairs; at least 2 are needed")
    if len(rest) == 1:  # a lonely image would meet itself: it joins a neighbour
        cycles = [cycles[0] + rest, *cycles[1:]]
        rest = []
    partner = np.empty(num_images, np.int32)
    for cycle in cycles:
        partner[cycle] = np.roll(cycle, -1)
    if rest:
        partner[rest] = np.roll(rest, -shift)
    return partner
