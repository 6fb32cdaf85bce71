"""Which photos show the same picture, though their bytes differ.

The same photo comes back from the web in another size or compression, cropped
or mirrored. On two sides of a split it flatters every error.

A photo is described by the low frequencies of its brightness and colours (a
DCT). Two photos are compared as they are, mirrored, and with up to 5 % cropped off at
every side: a crop is linear in the frequencies, so no photo is opened again. The
ImageHash package would need SciPy and PyWavelets, and its 64 bits do not survive
a crop of 5 %.

Source: perceptual hashing by DCT, Zauner, "Implementation and Benchmarking of
Perceptual Image Hash Functions", 2010; the comparison of crops is our own.
"""

import functools
import string
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from pairs.errors import UserError

# Side in pixels at which a photo is described.
SIDE = 64
# Frequencies in half waves a side: vertical, horizontal, and how high both are.
NUM_FREQUENCIES = 14
V, H = np.mgrid[:NUM_FREQUENCIES, :NUM_FREQUENCIES]
RADIUS = np.hypot(V, H)
# What is kept of brightness, blue and red (YCbCr): 149 + 25 + 25 numbers, the means
# not among them, so a photo may be lighter or warmer than its copy.
KEPT = np.stack([RADIUS < 13.1, RADIUS < 5.05, RADIUS < 5.05]) & (RADIUS > 0)
# One character per number: its sign and, in 31 steps, its logarithm.
ALPHABET = string.ascii_letters + string.digits + "-"
STEPS = 31
# Size of a number (orthonormal DCT of grey levels) that is lost, and the largest.
SMALLEST, LARGEST = 10.0, 8192.0
# Grey levels (root mean square) below which a photo is flat: its noise is no picture.
FLAT = 2.0

# A first look at brightness, at frequencies that a crop hardly changes, finds
# candidates. Photos have ever less of higher frequencies: without a weight any
# bright flower in the middle is like any other.
COARSE = np.stack([RADIUS < 6, RADIUS < 0, RADIUS < 0]) & KEPT
COARSE_WEIGHTS = (RADIUS**1.5).astype(np.float32)
# The second look is at colours. Of photos with less than NO_COLOUR (about a grey level)
# what is there is noise.
COLOURS = np.stack([RADIUS < 0, RADIUS < 5, RADIUS < 5]) & KEPT
NO_COLOUR = 50.0
# The third is at small pictures of BRIGHT_SIDE pixels, in which every place
# counts about as much as the strongest: values, in standard deviations, are softened
# to x / sqrt(x**2 + SOFT**2). Else two dogs in one pose are alike before any
# background. A crop of a tenth moves frequencies up: more are kept than compared.
BRIGHT_SIDE, SOFT = 16, 0.5
BRIGHT_WEIGHTS = np.where(RADIUS < 12, RADIUS, 0).astype(np.float32)
# Where the first two look: first what stays in a mirror, then what changes
# its sign. How much stays, at any look: one more of the colours, half of a picture.
MIRRORED = [
    tuple(places[np.argsort(places[:, 2] % 2, kind="stable")].T)
    for places in (np.argwhere(COARSE), np.argwhere(COLOURS))
]
NUM_SAME = (
    int((MIRRORED[0][2] % 2 == 0).sum()),
    int((MIRRORED[1][2] % 2 == 0).sum()) + 1,
    BRIGHT_SIDE**2 // 2,
)
# Correlations above which two photos are candidates, and, both, near-duplicates. No
# two of 960 photos of drawn dogs are above both, nor any flowers that merely look
# alike; 99 of a hundred copies cropped by 5 % at every side are.
CANDIDATE, BRIGHT, COLOUR = 0.55, 0.85, 0.9
# What a copy may show of its original along one axis: where it starts, how long it is.
SPANS = ((0, 1), (0, 0.95), (0.05, 0.95), (0.025, 0.95), (0, 0.9), (0.05, 0.9), (0.1, 0.9))
# Correlations computed at once: 32 MB.
MOST_AT_ONCE = 2**23
# Photos whose hashes are decoded at once.
CHUNK = 1024


def perceptual_hash(image: Image.Image) -> str:
    """Describes what a photo shows: small changes of a photo change it little.

    Args:
        image: any size and mode; squashed to `SIDE` pixels.

    Returns:
        199 letters, digits and hyphens; empty for a flat photo.
    """
    small = image.convert("RGB").resize((SIDE, SIDE)).convert("YCbCr")
    planes = np.asarray(small, np.float32).transpose(2, 0, 1)
    cosines = cosines_at(0, 1, SIDE)
    spectrum = np.where(KEPT, cosines @ planes @ cosines.T, 0)
    if np.linalg.norm(spectrum[0]) < FLAT * SIDE:
        return ""
    numbers = spectrum[KEPT]
    sizes = np.log1p(np.abs(numbers) / SMALLEST) / np.log1p(LARGEST / SMALLEST)
    codes = STEPS + np.sign(numbers) * np.rint(STEPS * np.minimum(sizes, 1))
    return "".join(ALPHABET[int(code)] for code in codes)


def find_groups(digests: Sequence[str], hashes: Sequence[str]) -> list[list[int]]:
    """Groups photos that are copies or near-duplicates of each other.

    What is like a member belongs to the group: a photo, its crop and the crop of
    the crop are one group. So are the photos of a series, if the first is like
    the second, the second like the third. Whether two photos are alike depends
    on nothing but these two.

    Args:
        digests: of the bytes of each photo.
        hashes: `perceptual_hash` of each photo. A flat one has only copies.

    Returns:
        indices of the photos of each group, two or more, ascending; groups in
        the order of their first photo.

    Raises:
        UserError: a hash is none of `perceptual_hash`.
    """
    parents = list(range(len(digests)))

    def root(index):
        while parents[index] != index:
            parents[index] = index = parents[parents[index]]
        return index

    def join(index, other):
        low, high = sorted((root(index), root(other)))
        parents[high] = low

    first: dict[str, int] = {}
    for keys in (digests, hashes):
        for index, key in enumerate(keys):
            if key:
                join(index, first.setdefault(key, index))
    # Each once and sorted: the order of the photos cannot change a rounding.
    different = sorted(set(hashes) - {""})
    for number, alike in find_pairs(decode(different)):
        for other in alike:
            join(first[different[number]], first[different[other]])
    groups: dict[int, list[int]] = {}
    for index in range(len(parents)):
        groups.setdefault(root(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def decode(hashes: Sequence[str]) -> np.ndarray:
    """The characters of some hashes as numbers: int8 array, shape `(len(hashes), 199)`."""
    codes = np.empty((len(hashes), KEPT.sum()), np.int8)
    number_of = {character: number for number, character in enumerate(ALPHABET)}
    for row, text in zip(codes, hashes, strict=True):
        if len(text) != len(row) or not set(text) <= number_of.keys():
            raise UserError(
                f"{text[:40]!r} is no description of a photo by this version: remove the file "
                f"that it is kept in (photos.json), and it will be made again"
            )
        row[:] = [number_of[character] for character in text]
    return codes


def spectra_of(codes: np.ndarray) -> np.ndarray:
    """The kept frequencies: float32 array, shape `(len(codes), 3, 14, 14)`."""
    steps = np.arange(len(ALPHABET)) - STEPS
    sizes = SMALLEST * np.expm1(np.abs(steps) / STEPS * np.log1p(LARGEST / SMALLEST))
    values = (np.sign(steps) * sizes).astype(np.float32)
    spectra = np.zeros((len(codes), *KEPT.shape), np.float32)
    spectra[:, KEPT] = values[codes]
    return spectra


def find_pairs(codes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each photo that has near-duplicates, and which they are.

    Crops of the one are compared with all of the other, so a pair may come once
    or twice.

    Args:
        codes: of `decode`.

    Yields:
        `(index, indices)`.
    """
    if not len(codes):
        return
    coarse, colours, bright = look_at_all(codes)
    rows = max(1, MOST_AT_ONCE // len(codes))
    starts = range(0, len(codes), rows)
    # No bar where nobody watches.
    for start in tqdm(starts, desc="comparing", unit=" parts", disable=None):
        similar = correlations(coarse[start : start + rows], coarse, NUM_SAME[0]) > CANDIDATE
        similar[np.arange(len(similar)), start + np.arange(len(similar))] = False
        for row in np.flatnonzero(similar.any(axis=1)):
            others = np.flatnonzero(similar[row])
            own = colours[[start + row]]
            others = others[correlations(own, colours[others], NUM_SAME[1])[0] > CANDIDATE]
            # Seven small products instead of one: OpenBLAS would share that out among
            # threads, which costs ten times as much as it saves on busy cores.
            _, crop_colours, crop_bright = (
                looks.reshape(len(SPANS), len(SPANS), -1)
                for looks in look_at(crop(spectra_of(codes[[start + row]])[0]))
            )
            alike = correlations(crop_colours, colours[others], NUM_SAME[1]) > COLOUR
            pictures = bright[others].astype(np.float32)
            alike &= correlations(crop_bright, pictures, NUM_SAME[2]) > BRIGHT
            if alike.any():
                yield start + row, others[alike.any(axis=(0, 1))]


def look_at_all(codes: np.ndarray) -> list[np.ndarray]:
    """`look_at` of all photos; the pictures in float16, for they are most of the memory."""
    shapes = [looks.shape[1] for looks in look_at(spectra_of(codes[:1]))]
    found = [
        np.empty((len(codes), shape), dtype)
        for shape, dtype in zip(shapes, (np.float32, np.float32, np.float16), strict=True)
    ]
    for start in range(0, len(codes), CHUNK):
        chunk = slice(start, start + CHUNK)
        for looks, part in zip(found, look_at(spectra_of(codes[chunk])), strict=True):
            looks[chunk] = part
    return found


def correlations(some: np.ndarray, others: np.ndarray, num_same: int) -> np.ndarray:
    """Correlations of photos, as they are or mirrored, whichever is higher.

    Args:
        some, others: float32 arrays, shapes `(..., m, n)` and `(k, n)`: vectors of length 1.
        num_same: so many values stay in a mirror; the others change their sign.

    Returns:
        float32 array, shape `(..., m, k)`, of -1 to 1.
    """
    turned = some[..., num_same:] @ others[:, num_same:].T
    np.abs(turned, out=turned)
    turned += some[..., :num_same] @ others[:, :num_same].T
    return turned


def look_at(spectra: np.ndarray) -> list[np.ndarray]:
    """What is compared at each look: low frequencies, colours, pictures of brightness.

    Args:
        spectra: of `spectra_of` or `crop`.

    Returns:
        three float32 arrays, shapes `(len(spectra), ...)`: vectors of length 1, as
        `correlations` takes them, the first `NUM_SAME` values of which stay in a mirror.
    """
    coarse = (spectra * COARSE_WEIGHTS)[:, *MIRRORED[0]]
    colours = spectra[:, *MIRRORED[1]]
    none = np.full((len(spectra), 1), NO_COLOUR, np.float32)
    return [
        vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        for vectors in (coarse, np.hstack([none, colours]), draw(spectra[:, 0]))
    ]


def draw(spectra: np.ndarray) -> np.ndarray:
    """Draws the small pictures of brightness, softened.

    Args:
        spectra: float32 array, shape `(n, 14, 14)`.

    Returns:
        float32 array, shape `(n, BRIGHT_SIDE**2)`: half of it stays in a mirror, half
        of it changes its sign.
    """
    cosines = cosines_at(0, 1, BRIGHT_SIDE)
    columns = np.tensordot(spectra * BRIGHT_WEIGHTS, cosines, axes=(2, 0))  # (n, v, x)
    pictures = np.tensordot(columns, cosines, axes=(1, 0))  # (n, x, y)
    pictures /= np.maximum(pictures.std(axis=(1, 2), keepdims=True), 1e-9)
    pictures /= np.sqrt(pictures**2 + SOFT**2)
    left, right = pictures[:, : BRIGHT_SIDE // 2], pictures[:, : BRIGHT_SIDE // 2 - 1 : -1]
    return np.hstack([left + right, left - right]).reshape(len(spectra), -1)


def crop(spectrum: np.ndarray) -> np.ndarray:
    """The spectra of a photo cropped by each pair of `SPANS`.

    Args:
        spectrum: of `spectra_of`, shape `(3, 14, 14)`.

    Returns:
        float32 array, shape `(len(SPANS) ** 2, 3, 14, 14)`.
    """
    matrices = crop_matrices()
    shape = (len(spectrum), len(SPANS), NUM_FREQUENCIES, len(SPANS), NUM_FREQUENCIES)
    cropped = (matrices @ spectrum @ matrices.T).reshape(shape)
    return cropped.transpose(1, 3, 0, 2, 4).reshape(-1, *spectrum.shape)


@functools.cache
def crop_matrices() -> np.ndarray:
    """What each span does to the spectrum of one axis.

    Returns:
        float32 array, shape `(len(SPANS) * 14, 14)`: each 14 rows times a spectrum
        are the spectrum of a crop.
    """
    whole = cosines_at(0, 1, SIDE)
    return np.concatenate([whole @ cosines_at(*span, SIDE).T for span in SPANS])


@functools.cache
def cosines_at(start: float, length: float, side: int) -> np.ndarray:
    """The cosines of a DCT at places evenly spread over a span of the unit interval.

    Returns:
        float32 array, shape `(14, side)`; orthonormal over (0, 1).
    """
    places = start + length * (np.arange(side) + 0.5) / side
    cosines = np.cos(np.pi * np.arange(NUM_FREQUENCIES)[:, None] * places) * np.sqrt(2 / side)
    cosines[0] /= np.sqrt(2)
    return cosines.astype(np.float32)
