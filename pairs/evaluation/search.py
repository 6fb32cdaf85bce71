"""Which photos are most like this one, and do they show the same thing? Numbers only.

A gallery of photos is searched with queries. Both are features of unit length: the
higher the cosine of their angle, the more similar are two photos. The table of all
similarities is never in memory. An identity is what a query looks for: a class, a
person, one dog. Identities and cameras are read from file paths.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from pairs.evaluation.metrics import Share, share
from pairs.photos.find import which_file

# Similarities at once: 32 MB of float32. Large enough that the product, not what
# is done with it, takes the time.
QUERY_BLOCK, GALLERY_BLOCK = 1024, 8192
# The same where a query is ranked against the whole gallery: 32 MB. The next block is
# made while a row of the last is still held.
MOST_AT_ONCE = 2**23
# The naming of Market-1501: identity, camera, sequence, frame, box.
CAMERA = re.compile(r"_c(\d+)s\d+_")
JUNK, DISTRACTOR = "-1", "0000"
RECALL_AT = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How well queries find the photos of their identity.

    The standard errors take queries for independent. Those of one identity are
    not quite: the true errors are larger.

    Attributes:
        num_queries: the queries that were judged, at least 1.
        recalls: by 1, 5 and 10: the share of queries with a right photo among so
            many first ones.
        mean_average_precision: the mean over queries, in [0, 1], with the standard
            error of a mean.
    """

    num_queries: int
    recalls: dict[int, Share]
    mean_average_precision: Share


def find_nearest(
    gallery: np.ndarray, queries: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the photos of a gallery that are most similar to each query.

    Memory beyond arguments and results: less than 100 MB. Similarities are sums of
    float32: those of equal photos may differ by a rounding, 1e-7.

    Args:
        gallery: float32 array, shape `(photos, numbers)`, may be a memory map: rows
            of length 1. One of NaN (an unreadable photo) is never found.
        queries: the same, shape `(queries, numbers)`. One of NaN finds nothing.
        count: photos to find for each query, at least 1.

    Returns:
        `(indices, similarities)`: int and float32 arrays, shape
        `(queries, min(count, photos))`; cosines in [-1, 1], the most similar photo
        first, equals by index. Where there is no photo left: -1 and NaN.
    """
    count = min(count, len(gallery))
    indices = np.full((len(queries), count), -1)
    similarities = np.full((len(queries), count), -np.inf, np.float32)
    for start in range(0, len(queries), QUERY_BLOCK):
        block = slice(start, start + QUERY_BLOCK)
        for first in range(0, len(gallery), GALLERY_BLOCK):
            part = gallery[first : first + GALLERY_BLOCK]
            # Without a name, these are gone before the next are made.
            keep_best(indices[block], similarities[block], cosines(queries[block], part), first)
    similarities[indices < 0] = np.nan
    return indices, similarities


def cosines(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """All similarities: float32 array, shape `(queries, photos)`; NaN of unreadable photos."""
    return np.asarray(queries) @ np.asarray(gallery).T


def keep_best(indices: np.ndarray, similarities: np.ndarray, found: np.ndarray, first: int) -> None:
    """Replaces, in place, the best photos of some queries by better ones of a block.

    Args:
        indices, similarities: shape `(queries, count)`: the best so far, sorted.
        found: `cosines` of the block's photos, shape `(queries, photos)`.
        first: the index of the block's first photo, above all indices so far.
    """
    # NaN is above nothing, and an equal that comes later stays behind.
    better = found > similarities[:, -1:]
    for row in np.flatnonzero(better.any(axis=1)):
        new = np.flatnonzero(better[row])
        both = np.concatenate([similarities[row], found[row, new]])
        best = np.argsort(-both, kind="stable")[: similarities.shape[1]]
        indices[row] = np.concatenate([indices[row], first + new])[best]
        similarities[row] = both[best]


def read_identities(
    paths: Sequence[str | pathlib.Path], root: str | pathlib.Path
) -> list[str | None]:
    """What photos show, as their folders or file names say it.

    Args:
        paths: of photos below `root`.
        root: the folder that was searched for photos.

    Returns:
        of a photo in a class folder (`root/pug/1.jpg`), the folder's name; of one
        that lies in `root` itself, the file name up to its first underscore
        (`0002` of `0002_c1s1_000451_03.jpg`); None if there is none.

    Raises:
        ValueError: a path is not below `root`.
    """
    return [identity_of(pathlib.PurePath(path).relative_to(root).parts) for path in paths]


def identity_of(parts: tuple[str, ...]) -> str | None:
    """The identity of a photo whose path from the root has these parts."""
    if len(parts) > 1:
        return parts[0]
    identity, underscore, _ = parts[0].partition("_")
    return identity if underscore and identity.strip() else None


def read_cameras(paths: Sequence[str | pathlib.Path]) -> list[int | None]:
    """The cameras of photos named as in Market-1501: 1 of `0002_c1s1_000451_03.jpg`, else None."""
    found = [CAMERA.search(os.path.basename(path)) for path in paths]
    return [int(match[1]) if match else None for match in found]


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a search, the gallery or the queries, and what is known of its photos.

    Attributes:
        features: as in `find_nearest`.
        identities: of `read_identities`.
        cameras: of `read_cameras`; an unknown one is nobody's own camera.
        paths: to leave out a query's own file, under whatever name it is linked; of
            both sides, or of none.
    """

    features: np.ndarray
    identities: Sequence[str | None]
    cameras: Sequence[int | None]
    paths: Sequence[str | pathlib.Path] = ()


def read_side(
    features: np.ndarray, paths: Sequence[str | pathlib.Path], root: str | pathlib.Path
) -> Side:
    """One side of a search, as the folders and names of its photos below `root` describe it."""
    return Side(features, read_identities(paths, root), read_cameras(paths), paths)


def judge_ranking(gallery: Side, queries: Side) -> Ranking | None:
    """Judges a search by the protocol of Market-1501: is what comes first of the same identity?

    A query is ranked against all photos but these: those of its identity by its own
    camera, junk (identity `-1`), its own file, unreadable photos. Distractors
    (identity `0000`) and photos without an identity are always wrong, and, like
    junk, never a query. A query without any right photo left is not judged.

    Returns:
        None if no query can be judged.

    Source: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    Average precision is here the mean precision at the right photos, as in most
    later work; the authors' script averages neighbouring precisions, and is a little
    lower.
    """
    identities = number_names(gallery.identities, queries.identities)
    cameras = number_names(gallery.cameras, queries.cameras)
    files = number_names(*(list(map(which_file, each.paths)) for each in (gallery, queries)))
    junk = np.array([identity == JUNK for identity in gallery.identities], bool)
    askable = [identity not in (None, JUNK, DISTRACTOR) for identity in queries.identities]
    hits, precisions = [], []
    compared = each_against_all(gallery.features, queries.features, np.flatnonzero(askable))
    for query, similarities in compared:
        same = identities[0] == identities[1][query]
        left_out = junk | np.isnan(similarities) | (same & (cameras[0] == cameras[1][query]))
        if len(gallery.paths) or len(queries.paths):
            left_out |= files[0] == files[1][query]
        ranks = ranks_of_right(similarities, same, ~left_out)
        if len(ranks):
            hits.append(ranks[0] <= np.array(RECALL_AT))
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    if not hits:
        return None
    recalls = dict(zip(RECALL_AT, map(share, np.transpose(hits)), strict=True))
    return Ranking(len(hits), recalls, share(np.array(precisions)))


def number_names(
    gallery: Sequence[Hashable], queries: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that are equal where names are; None equals nothing on the other side."""
    numbers = {name: place for place, name in enumerate({*gallery, *queries})}
    return (
        np.array([-1 if name is None else numbers[name] for name in gallery], int),
        np.array([-2 if name is None else numbers[name] for name in queries], int),
    )


def each_against_all(
    gallery: np.ndarray, queries: np.ndarray, chosen: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the index of each chosen query and its similarities to the whole gallery."""
    rows = min(QUERY_BLOCK, max(1, MOST_AT_ONCE // max(1, len(gallery))))
    for start in range(0, len(chosen), rows):
        block = chosen[start : start + rows]
        yield from zip(block.tolist(), cosines(queries[block], gallery), strict=True)


def ranks_of_right(similarities: np.ndarray, right: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The ranks of the right photos among all that are kept, from 1, ascending; equals by index."""
    order = np.argsort(-similarities[kept], kind="stable")
    return np.flatnonzero(right[kept][order]) + 1
