"""Photos on disk: finding them and reading them. No other module opens one.

Training and prediction read a photo through `open_photo`, so they cannot
disagree about its size, colours or rotation. Photos come from the web: what
cannot be read is reported and replaced; it never ends a training.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import stat
import sys
import threading
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NoReturn, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from pairs.errors import UserError
from pairs.photos.fit import SQUASH, fit_photo

# The two sides of a data folder.
SIDES = TRAIN, VALID = "train", "valid"
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
# What other programs leave beside photos: macOS' archives, Synology, QNAP, Windows.
NOT_OF_PEOPLE = {"__MACOSX", "@eaDir", "#recycle", "Thumbs.db", "desktop.ini"}
# What a file is tried as, whatever its name says. Not all that Pillow knows:
# its EPS reader would run a program, on bytes from the web.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
# Pillow's own limit for a warning, 358 MB decoded. A tiny file can claim more.
MAX_PIXELS = 89_478_485
# Above so many pixels after decoding (80 MB), one photo at a time, on any number
# of threads.
LARGE_PIXELS = 20_000_000
ONE_LARGE_PHOTO = threading.Lock()
# Signs that turn the direction of the text around them, see UAX #9.
TURNS_TEXT = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
T = TypeVar("T")
R = TypeVar("R")
# Items that `read_ahead` has waiting: two batches of photos, 17 MB at 299 pixels.
AHEAD = 64


@dataclasses.dataclass(frozen=True)
class Photos:
    """The photos of a folder of class folders.

    Attributes:
        paths: sorted by class and name.
        labels: int32 array, shape `(len(paths),)`: index into `typeids`.
        typeids: the classes.
        digests: the SHA-256 of each photo's bytes if they have been read already
            (`pairs.photos.check`).
        broken: paths that could not be read and have been reported.
        folds: int array, shape `(len(paths),)`: the fold that holds out each photo;
            None: there are no folds.
        fit: how they become squares, see `fit_photo`.
    """

    paths: list[str]
    labels: np.ndarray
    typeids: list[str]
    digests: Sequence[str | None] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )
    broken: set[str] = dataclasses.field(default_factory=set, repr=False, compare=False)
    folds: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
    fit: str = SQUASH

    def __len__(self) -> int:
        return len(self.paths)

    def missing_classes(self) -> list[str]:
        """The typeids that no photo is of."""
        found = set(self.labels.tolist())
        return [typeid for label, typeid in enumerate(self.typeids) if label not in found]

    def take(self, indices: Sequence[int] | np.ndarray) -> "Photos":
        """`Photos` of some indices, with the same typeids."""
        paths = [self.paths[i] for i in indices]
        digests = self.digests and [self.digests[i] for i in indices]
        folds = None if self.folds is None else self.folds[indices]
        labels = self.labels[indices]
        return Photos(paths, labels, self.typeids, digests, self.broken, folds, self.fit)

    def open(self, index: int, image_size: int) -> Image.Image:
        """Opens a photo, or the next of its class if it has become unreadable.

        A photo may vanish or break while a night's training runs: it is reported
        once, and its place taken by a neighbour.

        Raises:
            UserError: no photo of the class can be read any more.
        """
        for candidate in self.neighbours(index):
            path = self.paths[candidate]
            try:
                return open_photo(path, image_size, self.fit)
            except UserError as error:
                if path not in self.broken:
                    self.broken.add(path)
                    print(f"{error}; another of its class takes its place", file=sys.stderr)
        typeid = self.typeids[self.labels[index]]
        raise UserError(f"no photo of class {typeid!r} can be read any more, e.g. {path}")

    def neighbours(self, index: int) -> Iterator[int]:
        """Yields an index, then the others of its class, those after it first.

        Those of its fold come before all others: in the place of a photo that a
        model must not see, no other model's photo is seen.
        """
        yield index
        others = np.flatnonzero(self.labels == self.labels[index])
        others = np.roll(others, -np.searchsorted(others, index))[1:]
        if self.folds is not None:
            others = others[np.argsort(self.folds[others] != self.folds[index], kind="stable")]
        yield from others.tolist()


def find_photos(folder: str | pathlib.Path) -> list[str]:
    """Lists the photos below a folder, at any depth.

    Returns:
        their paths, sorted by file name (then by folder): the same on every
        machine.

    Raises:
        UserError: no such folder, or no photo in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder")
    paths = [
        os.path.join(parent, name)
        for parent, names in walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES
    ]
    if not paths:
        raise UserError(f"{folder}: no photos in it ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return sorted(paths, key=lambda path: (os.fsencode(os.path.basename(path)), os.fsencode(path)))


def walk(folder: str | pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Yields every folder in a folder, itself first, with the names of its files.

    Links to folders are followed, each folder is seen once, and what is hidden never.
    """
    seen = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(parent)
        place = status.st_dev, status.st_ino
        if place in seen:
            folders.clear()  # os.walk descends into these
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield parent, [name for name in names if not is_hidden(name)]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none that people put there."""
    return name.startswith(".") or name in NOT_OF_PEOPLE


def which_file(path: str | pathlib.Path) -> Hashable:
    """What is equal for two paths that lead to one file, by links of either kind."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def is_empty(folder: pathlib.Path) -> bool:
    """Whether people put nothing into a folder."""
    return all(is_hidden(name) for name in os.listdir(folder))


def why_not_a_typeid(typeid: object) -> str | None:
    """The reason why a text cannot be a typeid, or None if it can, in any script.

    A typeid is the name of a folder, a word in the submission's lines and on
    screens: none of them may be forged by it.
    """
    if not isinstance(typeid, str) or not typeid.strip():
        return "is empty"
    if is_hidden(typeid) or any(sign in typeid for sign in "/\\"):
        return "cannot be a folder name"
    for sign in typeid:
        if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign in TURNS_TEXT:
            return f"holds the unprintable {sign!r}"
    return None


def fail(error: Exception) -> NoReturn:
    """Raises: a folder that cannot be read must not be skipped in silence."""
    raise error


def find_class_photos(folder: str | pathlib.Path, typeids: list[str] | None = None) -> Photos:
    """Lists the photos of a folder that holds one folder a class.

    Args:
        folder: as `img2keras.py` writes it, e.g. `data/train`.
        typeids: the classes in the order of their labels, for a folder that
            must not define them anew (validation); None takes the folder's own.

    Raises:
        UserError: no such folder, no photo, fewer than two classes, or a class
            that is not in `typeids`.
    """
    root = pathlib.Path(folder)
    if not root.is_dir() and root.name in SIDES and root.parent.is_dir():
        raise UserError(
            f"{root.parent}: no folder {root.name} in it; {TRAIN} and {VALID} are expected there "
            f"(img2keras.py makes them from raw photos)"
        )
    if not root.is_dir():
        raise UserError(f"{folder}: no such folder; img2keras.py makes it from your photos")
    if all((root / side).is_dir() for side in SIDES):
        places = f"{root / TRAIN} or {root / VALID}"
        raise UserError(f"{folder}: class folders are expected; is it {places}?")
    found = {
        entry.name: find_photos(entry)
        for entry in root.iterdir()
        if entry.is_dir() and not is_hidden(entry.name) and not is_empty(entry)
    }
    for typeid in found:
        if reason := why_not_a_typeid(typeid):
            raise UserError(f"{folder}: the name of the class folder {typeid!r} {reason}")
    if typeids is None:
        typeids = sorted(found, key=typeid_order)
        if len(typeids) < 2:
            raise UserError(
                f"{folder}: {len(typeids)} class folders, at least 2 are needed (img2keras.py "
                f"makes them from raw photos)"
            )
    unknown = sorted(set(found) - set(typeids), key=typeid_order)
    if unknown:
        raise UserError(
            f"{folder}: {len(unknown)} classes were not trained on, e.g. {unknown[0]!r}; "
            f"known are {len(typeids)}, e.g. {typeids[0]!r}"
        )
    if not found:
        raise UserError(f"{folder}: no class folders with photos in them")
    paths, labels = [], []
    for label, typeid in enumerate(typeids):
        paths += found.get(typeid, [])
        labels += [label] * len(found.get(typeid, []))
    return Photos(paths, np.array(labels, np.int32), list(typeids))


def typeid_order(typeid: str) -> tuple[bool, int, str]:
    """Sort key: numbers by value, before names ('2' < '10' < 'pug')."""
    is_number = typeid.isascii() and typeid.isdigit()
    return (not is_number, int(typeid) if is_number else 0, typeid)


def open_photo(path: str | pathlib.Path, image_size: int, fit: str | None = SQUASH) -> Image.Image:
    """Opens one photo as the network sees it, or as people do.

    Args:
        path: a JPEG, PNG, BMP, GIF (its first frame), WebP or TIFF file,
            whatever its name says.
        image_size: side in pixels.
        fit: how it becomes a square, see `fit_photo`; None keeps its proportions.

    Returns:
        an RGB image, rotated as its EXIF tag says.

    Raises:
        UserError: not readable as an image, or too large.
    """
    try:
        # A FIFO would be waited for, a device never ends.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("not a regular file")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height}: more than {MAX_PIXELS} pixels")
            num_pixels = image.width * image.height
            # A large JPEG is decoded at a half, quarter or eighth, but never
            # below twice the size, either side, whatever the fit: within a grey
            # level of the full decoding.
            image.draft("RGB", (2 * image_size, 2 * image_size))
            if not image.info.get("progressive"):  # of which all is kept until the last scan
                num_pixels = image.width * image.height
            is_large = num_pixels > LARGE_PIXELS
            with ONE_LARGE_PHOTO if is_large else contextlib.nullcontext():
                return fit_photo(decode(image), image_size, fit)
    except Exception as error:  # whatever a decoder raises on hostile bytes
        # Pillow's own message repeats the name; an operating system's is `strerror`.
        reason = getattr(error, "strerror", None) or str(error).split(repr(str(path)))[0].strip()
        reason = reason or type(error).__name__
        raise UserError(f"{printable(path)}: not a readable photo ({reason})") from error


def printable(path: str | pathlib.Path) -> str:
    """A path for messages: a newline in a name cannot forge a line."""
    return str(path) if str(path).isprintable() else repr(str(path))


def decode(image: Image.Image) -> Image.Image:
    """Decodes an opened image and makes it upright and RGB."""
    # Both would copy an image that needs neither.
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return image if image.mode == "RGB" else to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB; transparency is dropped, 16 bits become 8.

    Raises:
        ValueError: a measurement, not a photo: nobody knows which of its values is white.
    """
    if image.format == "TIFF" and image.mode in ("I", "F"):
        raise ValueError("32 bits for each pixel")
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits at 255.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


def read_photo(path: str | pathlib.Path, image_size: int, fit: str = SQUASH) -> np.ndarray:
    """The pixels of `open_photo`: uint8 array, shape `(image_size, image_size, 3)`."""
    return np.asarray(open_photo(path, image_size, fit))


def read_ahead(
    read: Callable[[T], R], items: Iterable[T], workers: int, ahead: int = AHEAD
) -> Iterator[R]:
    """Maps `read` over `items` on threads, in order, a few items ahead.

    Pillow frees the interpreter lock, so threads decode while the caller
    computes. At most `ahead` results wait in memory.
    """
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting: collections.deque[concurrent.futures.Future[R]] = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
