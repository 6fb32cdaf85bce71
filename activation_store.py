"""Activations below the first trained layer, computed once and read from disk.

What is frozen never changes, and photos that are not augmented do not either:
what the frozen layers make of them is the same in every epoch. A store is a
plain `.npy` file, one row a photo. Its name is a digest of everything its
content depends on, so an old file is never read for a changed photo or weight.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import pathlib
import shutil
import sys

import keras
import numpy as np

import model as network
from atomic_file import replacing
from photo import read_ahead
from photo_check import file_digest

FOLDER = "activations"
# Photos a forward pass of the frozen part, whatever the training batch is.
BATCH_SIZE = 16
# Left free on the disk for checkpoints and everybody else.
SPARE_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class ActivationStore:
    """Activations of photos on disk.

    Attributes:
        path: of the `.npy` file, shape `(rows, *activation)`: all photos as they
            are, then, if they are stored, all mirrored.
        num_photos: int.
    """

    path: pathlib.Path
    num_photos: int

    def read(self, indices, mirrored=False):
        """Reads rows.

        Args:
            indices: int array, shape `(batch,)`: which photos.
            mirrored: bool array, shape `(batch,)`, or one bool for all: which of
                them mirrored.

        Returns:
            float32 array, shape `(batch, *activation)`.
        """
        # Mapped anew for every batch: pages that stay mapped count as resident
        # memory, and a store is larger than that.
        rows = np.load(self.path, mmap_mode="r")
        return rows[indices + self.num_photos * mirrored].astype(np.float32, copy=False)


def open_store(weights, below, photos, dtype, workers, mirror=False, lower=None):
    """Opens the store of some photos, and builds it if it is not there.

    Args:
        weights: `pathlib.Path`, the run's folder.
        below: the frozen part, of `model_parts.split`.
        photos: `photo.Photos`.
        dtype: "float32" (exact), "float16" (half the disk), or "off".
        workers: threads that read photos.
        mirror: store every photo a second time, mirrored.
        lower: `(store, between)`: a store of the same photos and views further
            down, and the model from its rows to these. None: from the photos.

    Returns:
        `ActivationStore`, or None where it is off or the disk is too small;
        one printed line says what was decided.
    """
    if dtype == "off":
        return None
    folder = weights / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{store_key(below, photos, dtype, workers, mirror)}.npy"
    shape = (len(photos) * (2 if mirror else 1), *below.output_shape[1:])
    size = math.prod(shape) * np.dtype(dtype).itemsize
    views = " and their mirror images" if mirror else ""
    what = f"activations of {len(photos)} photos{views}, {'x'.join(map(str, shape[1:]))} {dtype}"
    if path.is_file():
        print(f"{what}: {gigabytes(size)}, there already")
        return ActivationStore(path, len(photos))
    for leftover in folder.glob(".tmp-*"):  # of a killed run; it would count as used
        leftover.unlink()
    free = shutil.disk_usage(folder).free
    # A run that goes on decides as it did, whatever is free now: the same bits.
    computed_anew = path.with_suffix(".off")
    if computed_anew.exists() or size + SPARE_BYTES > free:
        computed_anew.touch()
        print(
            f"{what}: {gigabytes(size)} needed, {gigabytes(free)} free: not stored but computed "
            f"in every epoch" + (" (--cache float16 takes half)" if dtype == "float32" else "")
        )
        return None
    print(f"{what}: {gigabytes(size)} of {gigabytes(free)} free: computed once and stored")
    build(path, below, photos, dtype, workers, mirror, lower)
    return ActivationStore(path, len(photos))


def gigabytes(size):
    """A number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def build(path, below, photos, dtype, workers, mirror=False, lower=None):
    """Computes the activations of all photos and writes them, whole or not at all."""
    num_rows = len(photos) * (2 if mirror else 1)
    shows = 1 if sys.stdout.isatty() else 2
    progress = keras.utils.Progbar(num_rows, verbose=shows, unit_name="photo")
    batches = from_store(*lower) if lower else from_photos(below, photos, workers, num_rows)
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": (num_rows, *below.output_shape[1:]),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for rows in batches:
            rows.astype(dtype, copy=False).tofile(file)
            progress.add(len(rows))


def from_photos(below, photos, workers, num_rows):
    """Yields activations of photos, then, if more rows are asked for, of their mirror images."""
    image_size = below.input_shape[1]

    def read(row):
        pixels = np.asarray(photos.open(row % len(photos), image_size))
        return pixels[:, ::-1] if row >= len(photos) else pixels

    batch = []
    for number, image in enumerate(read_ahead(read, range(num_rows), workers), start=1):
        batch.append(image)
        if len(batch) == BATCH_SIZE or number == num_rows:
            yield np.asarray(below.predict_on_batch(np.stack(batch)))
            batch = []


def from_store(store, between):
    """Yields activations further up, from those of a store."""
    num_rows = len(np.load(store.path, mmap_mode="r"))
    for start in range(0, num_rows, BATCH_SIZE):
        rows = store.read(np.arange(start, min(start + BATCH_SIZE, num_rows)))
        yield np.asarray(between.predict_on_batch(rows))


def store_key(below, photos, dtype, workers, mirror=False):
    """Digest of all that the activations depend on.

    Frozen weights, layers and scaling, the photos' bytes and order, image
    size, mirroring, dtype, and the versions of what decodes and computes.
    """
    sha = hashlib.sha256()
    versions = {name: importlib.metadata.version(name) for name in ("keras", "numpy", "pillow")}
    scale, frozen = below.get_layer("scale"), below.layers[-1]
    # Not the layers' names: Keras numbers them anew at each build.
    layers = [type(layer).__name__ for layer in frozen.layers]
    scaling = [scale.scale, scale.offset]
    facts = [versions, keras.backend.backend(), layers, scaling, below.input_shape, dtype, mirror]
    sha.update(json.dumps(facts).encode())
    sha.update(network.digest(below.weights).encode())
    digests = photos.digests or read_ahead(digest_or_gone, photos.paths, workers)
    for digest in digests:
        sha.update(digest.encode())
    return sha.hexdigest()[:32]


def digest_or_gone(path):
    """Digest of a photo's bytes; a word for one that has vanished since the check."""
    try:
        return file_digest(path)
    except OSError:
        return "gone"


def remove_stores(weights, keep=None):
    """Deletes the stores of a run.

    Args:
        weights: `pathlib.Path`, the run's folder.
        keep: list of `ActivationStore` (or None) still in use; None: the run is
            done, and what was decided about stores is forgotten, too.
    """
    folder = weights / FOLDER
    if keep is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    kept = {store.path for store in keep if store}
    for path in folder.glob("*.npy"):
        if path not in kept:
            path.unlink()
