"""Photos on disk: finding them and reading them. No other module opens one.

Training and prediction read a photo through `open_photo`, so they cannot
disagree about its size, colours or rotation.
"""

import collections
import concurrent.futures
import dataclasses
import os
import pathlib

import numpy as np
from PIL import ExifTags, Image, ImageOps

from command_line import UserError
from img2keras import PHOTO_SUFFIXES, typeid_order

# Items that `read_ahead` has waiting: two batches of photos, 17 MB at 299 pixels.
AHEAD = 64


@dataclasses.dataclass(frozen=True)
class Photos:
    """The photos of a folder of class folders.

    Attributes:
        paths: list of str, sorted by class and name.
        labels: int32 array, shape `(len(paths),)`: index into `typeids`.
        typeids: list of str, the classes.
    """

    paths: list
    labels: np.ndarray
    typeids: list

    def __len__(self):
        return len(self.paths)


def find_photos(folder):
    """Lists the photos below a folder, at any depth.

    Returns:
        list of str, sorted by file name (then by folder): the same on every
        machine.

    Raises:
        UserError: no such folder, or no photo in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder")
    paths = [
        os.path.join(parent, name)
        for parent, folders, names in os.walk(folder)
        for name in names
        if pathlib.Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith(".")
    ]
    if not paths:
        raise UserError(f"{folder}: no photos in it ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return sorted(paths, key=lambda path: (os.fsencode(os.path.basename(path)), os.fsencode(path)))


def find_class_photos(folder, typeids=None):
    """Lists the photos of a folder that holds one folder a class.

    Args:
        folder: as `img2keras.py` writes it, e.g. `data/train`.
        typeids: the classes in the order of their labels, for a folder that
            must not define them anew (validation); None takes the folder's own.

    Returns:
        `Photos`.

    Raises:
        UserError: no such folder, no photo, fewer than two classes, or a class
            that is not in `typeids`.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: no such folder; img2keras.py makes it from your photos")
    found = {
        entry.name: find_photos(entry)
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and any(entry.iterdir())
    }
    if typeids is None:
        typeids = sorted(found, key=typeid_order)
        if len(typeids) < 2:
            raise UserError(f"{folder}: {len(typeids)} class folders, at least 2 are needed")
    unknown = sorted(set(found) - set(typeids), key=typeid_order)
    if unknown:
        raise UserError(
            f"{folder}: {len(unknown)} classes were not trained on, e.g. {unknown[0]!r}; "
            f"known are {len(typeids)}, e.g. {typeids[0]!r}"
        )
    if not found:
        raise UserError(f"{folder}: no class folders with photos in it")
    paths, labels = [], []
    for label, typeid in enumerate(typeids):
        paths += found.get(typeid, [])
        labels += [label] * len(found.get(typeid, []))
    return Photos(paths, np.array(labels, np.int32), list(typeids))


def open_photo(path, image_size):
    """Opens one photo as the network sees it.

    Args:
        path: any file Pillow reads.
        image_size: side in pixels; the photo is squashed to a square.

    Returns:
        `PIL.Image.Image`, RGB, rotated as its EXIF tag says.

    Raises:
        UserError: not readable as an image.
    """
    try:
        with Image.open(path) as image:
            # A large JPEG is decoded at a half, quarter or eighth, but never
            # below twice the size: within a grey level of the full decoding.
            image.draft("RGB", (2 * image_size, 2 * image_size))
            # Both would copy an image that needs neither.
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                image = ImageOps.exif_transpose(image)
            if image.mode != "RGB":
                image = image.convert("RGB")
            # Bilinear with antialiasing. ImageDataGenerator's own default,
            # nearest neighbour, drops the fur between the sampled pixels.
            return image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: not a readable photo ({error}). Remove or replace it") from error


def read_photo(path, image_size):
    """The pixels of `open_photo`: uint8 array, shape `(image_size, image_size, 3)`."""
    return np.asarray(open_photo(path, image_size))


def read_ahead(read, items, workers):
    """Maps `read` over `items` on threads, in order, a few items ahead.

    Pillow frees the interpreter lock, so threads decode while the caller
    computes. At most `AHEAD` results wait in memory.
    """
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
