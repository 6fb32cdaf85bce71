"""Photos on disk: reading them. No other module opens one.

Training and prediction read a photo through `open_photo`, so they cannot
disagree about its size, colours or rotation. Photos come from the web: what
cannot be read is reported and replaced, as long as its class has others.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pairs.errors import UserError
from pairs.photos.fit import SQUASH, fit_photo

# What a file is tried as, whatever its name says. Not all that Pillow knows:
# its EPS reader would run a program, on bytes from the web.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
# Pixels that count visitors of a page are no photos.
MIN_SIDE = 8
# Pillow's own limit for a warning, 358 MB decoded. A tiny file can claim more.
MAX_PIXELS = 89_478_485
# Above so many pixels after decoding (80 MB), one photo at a time, on any number
# of threads.
LARGE_PIXELS = 20_000_000
ONE_LARGE_PHOTO = threading.Lock()
# What makes an image upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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
        pool: what these are some of, if that has substitutes for them: of all folds.
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
    pool: "Photos | None" = dataclasses.field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def missing_classes(self) -> list[str]:
        """The typeids that no photo is of."""
        found = set(self.labels.tolist())
        return [typeid for label, typeid in enumerate(self.typeids) if label not in found]

    def take(self, indices: Sequence[int] | np.ndarray) -> "Photos":
        """`Photos` of some indices, with the same typeids. Substitutes for them are among them."""
        return dataclasses.replace(
            self,
            paths=[self.paths[i] for i in indices],
            labels=self.labels[indices],
            digests=self.digests and [self.digests[i] for i in indices],
            folds=None if self.folds is None else self.folds[indices],
            pool=None,
        )

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
                    line = f"{error}; another of its class takes its place\n"
                    print(line, end="", file=sys.stderr)  # whole: other threads print, too
        if self.pool is not None:
            return self.pool.open(self.pool.paths.index(self.paths[index]), image_size)
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
        UserError: not readable as an image, too small or too large.
    """
    try:
        # A FIFO would be waited for, a device never ends.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("not a regular file")
        with Image.open(path, formats=FORMATS) as image:
            if min(image.size) < MIN_SIDE:
                raise ValueError(f"{image.width} x {image.height} pixels")
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
        reason = in_plain_words(path, error) or reason or type(error).__name__
        raise UserError(f"{printable(path)}: not a readable photo ({reason})") from error


def in_plain_words(path: str | pathlib.Path, error: Exception) -> str:
    """What is wrong with a file that Pillow cannot identify, or read to its end; "": not known."""
    if isinstance(error, UnidentifiedImageError):
        try:
            with pathlib.Path(path).open("rb") as file:
                begin = file.read(64).lstrip()
        except OSError:  # it has vanished meanwhile
            return ""
        if not begin:
            return "an empty file"
        return "a web page or other text" if begin.startswith(b"<") else ""
    return "cut short" if "truncated" in str(error).lower() else ""


def printable(path: str | pathlib.Path) -> str:
    """A path for messages: a newline in a name cannot forge a line."""
    return str(path) if str(path).isprintable() else repr(str(path))


def decode(image: Image.Image) -> Image.Image:
    """Decodes an opened image and makes it upright and RGB.

    Raises:
        ValueError: a measurement, not a photo: nobody knows which of its values is white.
    """
    if image.format == "TIFF" and image.mode in ("I", "F"):
        raise ValueError("32 bits for each pixel")
    image = upright(image)
    return image if image.mode == "RGB" else to_rgb(image)  # which would copy it


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF tag says. Metadata may be damaged where pixels are not."""
    image.load()  # raises what is wrong with the pixels; below it would be taken for metadata's
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever damaged metadata lead to
        return image
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB; transparency is dropped, 16 bits become 8."""
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
