"""Activations below the first trained layer, computed once and read from disk.

What is frozen never changes, and photos that are not augmented do not either:
what the frozen layers make of them is the same in every epoch. A store is a
folder of shards, plain `.npy` files of `SHARD_ROWS` rows, one row per photo: a
killed run resumes after its last shard, and the processes of a cluster build
one shard each. The folder's name is a digest of everything its content depends
on, so an old one is never read for a changed photo or weight.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
from tqdm import tqdm

from pairs.errors import UserError
from pairs.files import digest_or_none, map_array, replacing
from pairs.network.frozen import forward
from pairs.network.parts import digest, uses_xla
from pairs.photos.read import Photos, read_ahead
from pairs.training import room
from pairs.training.log import Throttle, duration
from pairs.training.run import Run
from pairs.training.settings import installed_versions
from pairs.training.store_folder import OFF, store_folder

# Photos per forward pass of the frozen part, whatever the training batch is.
BATCH_SIZE = 16
# A multiple of it. At 299 pixels half a gigabyte, and minutes of work on a CPU.
SHARD_ROWS = 512
# Seconds from one line about the progress to the next, where there is no bar.
TOLD_EVERY = 60


@dataclasses.dataclass(frozen=True)
class ActivationStore:
    """Activations of photos on disk.

    Row by row: all photos as they are, then, if they are stored, all mirrored.

    Attributes:
        path: folder of the shards, `00000.npy`, `00001.npy`, ..., each of shape
            `(SHARD_ROWS, *activation)`, the last one as long as it comes.
        num_photos: whose activations it holds.
        rows: int array: which of them `read` counts; None: all, in their order.
    """

    path: pathlib.Path
    num_photos: int
    rows: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

    def shard(self, number: int) -> pathlib.Path:
        """Path of a shard."""
        return self.path / f"{number:05}.npy"

    def shard_of(self, rows: range) -> pathlib.Path:
        """Path of the shard that holds a range of rows."""
        return self.shard(rows.start // SHARD_ROWS)

    def is_whole(self, rows: range, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether the shard of a range of rows is there, with all of them.

        Args:
            rows: of the shard.
            dtype, shape: of a row.
        """
        try:
            shard = map_array(self.shard_of(rows))
        except (OSError, ValueError, EOFError):
            return False
        return shard.shape == (len(rows), *shape) and shard.dtype == dtype

    def read(self, indices: np.ndarray, mirrored: np.ndarray | bool = False) -> np.ndarray:
        """Reads rows.

        Args:
            indices: int array, shape `(batch,)`: which photos.
            mirrored: bool array, shape `(batch,)`, or one bool for all: which of
                them mirrored.

        Returns:
            float32 array, shape `(batch, *activation)`.

        Raises:
            UserError: a shard is gone or damaged.
        """
        own = indices if self.rows is None else self.rows[indices]
        numbers, places = np.divmod(own + self.num_photos * mirrored, SHARD_ROWS)
        # Mapped anew for every batch: pages that stay mapped count as resident
        # memory, and a store is larger than that. One at a time: each takes a file
        # descriptor, and a batch may be of more shards than a process may open.
        rows = np.empty(0, np.float32)
        for number in np.unique(numbers).tolist():
            shard, of_shard = self.open_shard(number), np.flatnonzero(numbers == number)
            if not len(rows):
                rows = np.empty((len(indices), *shard.shape[1:]), np.float32)
            for row, place in zip(of_shard, places[of_shard], strict=True):
                rows[row] = shard[place]
        return rows

    def batches(self, rows: range) -> Iterator[np.ndarray]:
        """Reads rows in their order, `BATCH_SIZE` at a time: yields arrays as `read` returns."""
        for start in range(0, len(rows), BATCH_SIZE):
            yield self.read(np.array(rows[start : start + BATCH_SIZE]))

    def part(self, of: Photos, photos: Photos) -> "ActivationStore":
        """The same store for some of its photos.

        Args:
            of: all that it holds.
            photos: some of them, in any order.
        """
        place = {path: row for row, path in enumerate(of.paths)}
        rows = np.array([place[path] for path in photos.paths], int)
        return dataclasses.replace(self, rows=rows)

    def open_shard(self, number: int) -> np.ndarray:
        """Maps a shard: an array whose rows are read when they are used."""
        path = self.shard(number)
        try:
            return map_array(path)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise UserError(
                f"{path}: damaged ({error}); run the same command again to compute it anew"
            ) from error
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); run the same command again to resume"
            ) from error


def open_store(
    run: Run,
    below: keras.Model,
    photos: Photos,
    mirror: bool = False,
    source: tuple[ActivationStore, keras.Model] | None = None,
) -> ActivationStore | None:
    """Opens the store of some photos, and builds what is not there.

    Args:
        run: the training; its `cache` says how rows are stored. Each process of
            its `devices` builds some shards.
        below: the frozen part, of `parts.split`.
        photos: whose activations.
        mirror: store every photo a second time, mirrored.
        source: `(store, between)`: a store of the same photos and views further
            down, and the model from its rows to these. None: the photos.

    Returns:
        the store, or None if it is off or the disk is too small; one printed
        line says what was decided.

    Raises:
        UserError: of `room.decide`; a process does not find what process 0 has decided.
    """
    if run.cache == "off":
        return None
    key = store_key(below, photos, run, mirror)
    num_rows = len(photos) * (2 if mirror else 1)
    shape = below.output_shape[1:]
    ranges = [
        range(start, min(start + SHARD_ROWS, num_rows)) for start in range(0, num_rows, SHARD_ROWS)
    ]
    devices = run.devices
    with devices.main_process_first():
        store = ActivationStore(store_folder(run.home) / key, len(photos))
        missing = {
            number: rows
            for number, rows in enumerate(ranges)
            if not store.is_whole(rows, run.cache, shape)
        }
        if devices.is_main_process:
            views = " and their mirror images" if mirror else ""
            what = f"activations of {len(photos)} photos{views}, "
            what += f"{'x'.join(map(str, shape))} {run.cache}"
            num_missing = sum(map(len, missing.values()))
            size = num_missing * math.prod(shape) * np.dtype(run.cache).itemsize
            room.decide(run, store.path, what, size)
        if store.path.with_suffix(OFF).exists():
            return None
        if not store.path.is_dir():
            raise UserError(
                f"process {devices.process} does not find {store.path}: it has other packages than "
                f"process 0, or not the same shared folder"
            )
    own = [
        rows
        for number, rows in missing.items()
        if number % devices.num_processes == devices.process
    ]
    if own:
        build(run, store, own, below, photos, source)
    devices.barrier()
    return store


def build(
    run: Run,
    store: ActivationStore,
    ranges: list[range],
    below: keras.Model,
    photos: Photos,
    source: tuple[ActivationStore, keras.Model] | None = None,
) -> None:
    """Computes the activations of some shards and writes each of them, whole or not at all.

    Args:
        run, below, photos, source: as in `open_store`.
        store: its folder exists.
        ranges: the rows of each shard.
    """
    total, done, began = sum(map(len, ranges)), 0, time.monotonic()
    progress = tqdm(total=total, desc="frozen layers", unit=" photos", disable=None)
    telling = Throttle(since=began, seconds=TOLD_EVERY)
    for rows in ranges:
        if source:
            store_below, between = source
            batches = from_store(rows, store_below, forward(between, run.openvino))
        else:
            size = below.input_shape[1]
            batches = from_photos(rows, forward(below, run.openvino), photos, size, run.workers)
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(run.cache)),
            "fortran_order": False,
            "shape": (len(rows), *below.output_shape[1:]),
        }
        with (
            replacing(store.shard_of(rows), room.NO_ROOM) as temporary,
            temporary.open("wb") as file,
        ):
            np.lib.format.write_array_header_2_0(file, header)
            for batch in batches:
                batch.astype(run.cache, copy=False).tofile(file)
                progress.update(len(batch))
                done += len(batch)
                if progress.disable and telling.is_due():  # nobody watches: lines for a log
                    left = duration((time.monotonic() - began) / done * (total - done))
                    print(f"frozen layers: {done} of {total} photos, {left} left", flush=True)
    progress.close()


def from_photos(
    rows: range,
    below: Callable[[np.ndarray], np.ndarray],
    photos: Photos,
    image_size: int,
    workers: int,
) -> Iterator[np.ndarray]:
    """Yields the activations of rows, from photos and their mirror images."""

    def read(row):
        pixels = np.asarray(photos.open(row % len(photos), image_size))
        return pixels[:, ::-1] if row >= len(photos) else pixels

    photos_ahead = read_ahead(read, rows, workers)
    while batch := list(itertools.islice(photos_ahead, BATCH_SIZE)):
        images = np.stack(batch)
        if uses_xla():  # which compiles each other length anew
            images = np.resize(images, (BATCH_SIZE, *images.shape[1:]))
        yield below(images)[: len(batch)]


def from_store(
    rows: range, store: ActivationStore, between: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Yields the activations of rows, from those of a store further down."""
    for activations in store.batches(rows):
        yield between(activations)


def store_key(below: keras.Model, photos: Photos, run: Run, mirror: bool = False) -> str:
    """Digest of all that the activations depend on.

    Frozen weights, layers and scaling, the photos' bytes and order, image
    size, fit, mirroring, dtype, who computes in which precision, and the versions of
    what decodes and computes.
    """
    sha = hashlib.sha256()
    scale, frozen = below.get_layer("scale"), below.layers[-1]
    # Not the layers' names: Keras numbers them anew at each build.
    layers = [[type(layer).__name__, layer.compute_dtype] for layer in frozen.layers]
    scaling = [scale.scale, scale.offset]
    facts = [
        installed_versions(),
        keras.backend.backend(),
        *(layers, scaling, below.input_shape, run.cache, mirror, photos.fit),
    ]
    if run.openvino:
        facts.append(f"OpenVINO {run.openvino}")
    sha.update(json.dumps(facts).encode())
    sha.update(digest(below.weights).encode())
    photo_digests: Iterable[str | None] = photos.digests or read_ahead(
        digest_or_none, photos.paths, run.workers
    )
    for photo in photo_digests:
        sha.update((photo or "unread").encode())
    return sha.hexdigest()[:32]
