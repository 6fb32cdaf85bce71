"""Files that exist whole or not at all: text, JSON, CSV.

A reader, or the next run after a power cut, must never see half a file: it is
written beside its place, flushed to the disk and then renamed.
"""

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from pairs.errors import UserError

ADVICE = "make room, or choose another folder, and run the same command again"
# As `np.save` writes it.
ARRAY_HEADER = re.compile(
    r"\{'descr': '(?P<dtype>[^']+)', 'fortran_order': False, 'shape': \((?P<shape>[\d, ]+)\)"
)
# A spreadsheet takes a cell that begins so for a formula, and runs it. Where people write
# decimal commas, a semicolon ends a cell, and a quote may open the next one. Apostrophes
# of a name's own are doubled.
BEGINS_FORMULA = r"(^|[;\t\r\n])(?=[\"']*[=+\-@])"
GUARDED = r"(^|[;\t\r\n])'(?=[\"']*[=+\-@])"


def check_can_be_made(flag: str, folder: str | pathlib.Path) -> None:
    """Raises a UserError if a folder is not there, and cannot be made, or is read-only."""
    path = pathlib.Path(os.path.abspath(folder))
    # `lexists`: a link to a disk that is not there is no folder, and none can be made there.
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise UserError(f"{flag} {folder}: cannot be written; choose another folder")


@contextlib.contextmanager
def replacing(path: str | pathlib.Path, advice: str = ADVICE) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; renames it there on success.

    Args:
        path: where the file belongs; its folder exists. A link stays a link: the
            file that it leads to is replaced.
        advice: what to do where it cannot be written.

    Raises:
        UserError: `path` is a folder, a device or another special file; the disk
            is full or the folder read-only; `path` is unchanged.
    """
    path = pathlib.Path(path)
    try:
        if path.is_symlink():
            path = path.resolve()
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UserError(f"{path}: not a regular file; choose another name")
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UserError(f"{path}: cannot be written ({error})") from error
    temporary = temporary_path(path)
    try:
        temporary.unlink(missing_ok=True)  # a killed run's may be read-only
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or error  # without "[Errno 13]"
            raise UserError(
                f"{path}: could not be written ({reason}). What stood there before is unchanged: "
                f"{advice}"
            ) from error
        raise
    with contextlib.suppress(OSError):  # some shared folders cannot be flushed
        flush(path.parent)  # the rename itself


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """Where `replacing` writes before it renames.

    The name starts with a dot, so nothing that lists photos or weights takes
    it for one, and keeps the suffix, which Keras reads as the format. It
    depends on `path` alone: what a killed run left is overwritten.
    """
    # A digest, not the name itself: the name may already have 255 bytes.
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".tmp-{digest}{path.suffix}")


def flush(path: pathlib.Path) -> None:
    """Makes a file, or the names in a folder, survive a power cut (POSIX only)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all.

    File names that are not UTF-8 are written as the bytes that they are.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def write_csv(path: str | pathlib.Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes a table as CSV, whole or not at all.

    Names come from the web. A text that a spreadsheet would run as a formula
    gets an apostrophe in front, which spreadsheets take for "this is text".

    Args:
        path: where the file belongs.
        header: names of the columns, which may hold typeids.
        rows: the cells of each row. Texts are guarded, numbers written as they are.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        for row in itertools.chain([header], rows):
            file.write(csv_line([guard_cell(cell) for cell in row]))


def csv_line(cells: Iterable[Any]) -> str:
    """A row of CSV with its line end."""
    text = io.StringIO()
    # In a cell, only the signs of the writer's own line end are quoted: with "\n"
    # alone, a "\r" in a name would begin a row.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def guard_cell(cell: Any) -> Any:
    """A cell that no spreadsheet runs."""
    return re.sub(BEGINS_FORMULA, r"\1'", cell) if isinstance(cell, str) else cell


def unguard_cell(cell: str) -> str:
    """The text that `guard_cell` has put apostrophes into."""
    return re.sub(GUARDED, r"\1", cell)


def read_json(path: pathlib.Path, advice: str = "delete it") -> Any:
    """The content of a JSON file, or {} if there is none.

    Args:
        path: of the file.
        advice: what to do if it is not JSON.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); {advice}") from error


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_arrays(path: str | pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes arrays as one `.npz` file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def map_array(path: pathlib.Path) -> np.ndarray:
    """Maps the array of a `.npy` file: what is used of it is read then.

    Not by `np.load`: it has `ast` read the header, and on Python 3.11 two threads that
    do so at once, or one beside TensorFlow's tracing, now and then end in a
    SystemError (python/cpython#106905). Threads map activations all night.

    Raises:
        OSError, ValueError, EOFError: it is gone, cut short, or not an array in C order.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
        header = ARRAY_HEADER.match(file.read(length).decode("latin1"))
        if header is None:
            raise ValueError("not the header of an array in C order")
        shape = tuple(map(int, re.findall(r"\d+", header["shape"])))
        return np.memmap(file, header["dtype"], "r", file.tell(), shape)


def file_digest(path: str | pathlib.Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is no regular file: a FIFO would be waited
            for, a device never ends.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_or_none(path: str | pathlib.Path) -> str | None:
    """`file_digest`; None for what is no file that can be read."""
    try:
        return file_digest(path)
    except OSError:
        return None
